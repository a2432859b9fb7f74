"""Precision, memory layout, compilation, label smoothing and warm-up of a training."""

import copy
import datetime
import functools
import io
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn import functional as F

from esam_tune import computation, step_timer, training
from esam_tune.computation import Computation
from esam_tune.config import (
    TrainingSettings,
    check_precision,
    task_settings,
    training_settings,
    trial_settings,
)
from esam_tune.errors import InputError
from esam_tune.optimization import build_schedule, count_flops_ratio
from esam_tune.step_timer import StepTimer
from esam_tune.tasks.data import load_split
from esam_tune.training import evaluate, train
from esam_tune.worker import Worker

torch.set_num_threads(1)

CPU = torch.device("cpu")
PLAIN = TrainingSettings(epochs=1, batch_size=8, lr=0.1)
EXACT = ("epoch", "train_loss", "val_loss", "val_accuracy", "step_flops_ratio")


@pytest.fixture(autouse=True)
def few_timed_steps(monkeypatch):
    monkeypatch.setattr(step_timer, "_PAIRS", 2)


@pytest.fixture
def fp16_on_the_cpu(monkeypatch):
    """Half precision as on a GPU, where it is refused: the loop around it is the same."""
    monkeypatch.setattr(computation, "check_precision", lambda training, gpu: None)


@pytest.fixture
def few_images(monkeypatch):
    """Sixty-four images a split: half precision is slow on a CPU."""

    def load(task, name):
        split = load_split(task, name)
        return replace(split, rows=split.rows[:64], labels=split.labels[:64])

    monkeypatch.setattr(training, "load_split", load)


def run_of(optimizer="esam", epochs=2, **changes):
    return trial_settings(
        {
            "task": {"dataset": "digits", "model": "small_cnn", "label_noise": 0.4},
            "training": {"epochs": epochs, "batch_size": 32, "lr": 0.05, **changes},
            "params": {"optimizer": optimizer},
        }
    )


class Reports:
    """Keeps what is reported, and each state as a file would keep it."""

    def __init__(self, die_after=None):
        self.metrics, self.states = [], []
        self._die_after = die_after

    def __call__(self, metrics, state):
        self.metrics.append({key: metrics[key] for key in EXACT})
        file = io.BytesIO()
        torch.save(state(), file)
        file.seek(0)
        self.states.append(torch.load(file, weights_only=True))
        if metrics["epoch"] == self._die_after:
            raise KeyboardInterrupt


def cnn():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5)
    )


def batch(rows=6):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(rows, 3, 4, 4, generator=generator)
    return images, torch.arange(rows) % 5


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_the_loss_is_cross_entropy_with_label_smoothing(smoothing):
    model, (images, labels) = cnn(), batch()
    losses = Computation(replace(PLAIN, label_smoothing=smoothing), CPU).losses
    logits = model(images)
    own = losses(model, images, labels)
    assert own.shape == (6,)
    expected = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    torch.testing.assert_close(own.mean(), expected)
    # Spread over all classes, the true one included.
    log_probabilities = logits.log_softmax(1)
    by_hand = -(1 - smoothing) * log_probabilities[range(6), labels]
    torch.testing.assert_close(own, by_hand - smoothing * log_probabilities.mean(1))


def test_validation_losses_are_not_smoothed():
    split = load_split(task_settings({"dataset": "digits", "model": "small_cnn"}), "val")
    smoothed = Computation(replace(PLAIN, label_smoothing=0.5), CPU)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with_smoothing = evaluate(model, split, Worker(), smoothed)
    assert with_smoothing == evaluate(model, split, Worker(), Computation(PLAIN, CPU))


@pytest.mark.parametrize(
    ("precision", "inside"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_steps_base_steps_and_evaluation_run_in_the_settings_precision(
    precision, inside, fp16_on_the_cpu
):
    use = Computation(replace(PLAIN, precision=precision), CPU)
    seen = []

    def watched(model):
        model[0].register_forward_hook(lambda module, args, output: seen.append(output.dtype))
        return model

    model, (images, labels) = watched(cnn()), batch()
    losses = use.losses(model, images, labels)
    assert losses.dtype == torch.float32
    losses.mean().backward()
    assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.float32}
    timer = StepTimer(cnn(), lambda m: torch.optim.SGD(m.parameters(), 0.1), watched, use)
    with timer.beside(images, labels):
        pass
    split = load_split(task_settings({"dataset": "digits", "model": "small_cnn"}), "val")
    evaluate(watched(nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten())), split, Worker(), use)
    # The step, the base step and its warm-up, one batch of evaluation.
    assert seen == [inside] * 4


def test_base_steps_are_scaled_as_the_trials_are(fp16_on_the_cpu):
    copies = []

    def build(copied):
        copies.append(copied)
        return torch.optim.SGD(copied.parameters(), lr=0.1)

    model, (images, labels) = cnn(), batch()
    use = Computation(replace(PLAIN, precision="fp16"), CPU)
    timer = StepTimer(model, build, lambda copied: copied, use)
    with timer.beside(images, labels):
        pass
    # Two base steps, the warm-up one of them, as plain float32 ones would have gone.
    twin = cnn()
    plain = torch.optim.SGD(twin.parameters(), lr=0.1)
    for _ in range(2):
        plain.zero_grad()
        F.cross_entropy(twin(images), labels).backward()
        plain.step()
    for own, other in zip(copies[0].parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("optimizer", ["esam", pytest.param("sgd", marks=pytest.mark.long)])
def test_bf16_learns_what_float32_does(optimizer):
    full, half = Reports(), Reports()
    train(run_of(optimizer, epochs=3), full)
    trained = train(run_of(optimizer, epochs=3, precision="bf16"), half)
    assert {parameter.dtype for parameter in trained.parameters()} == {torch.float32}
    first, other = full.metrics[-1], half.metrics[-1]
    assert other["train_loss"] != first["train_loss"]
    assert other["train_loss"] == pytest.approx(first["train_loss"], rel=0.03)
    assert other["val_accuracy"] == pytest.approx(first["val_accuracy"], abs=0.08)


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bf16"},
        {"precision": "fp16", "optimizer": "looksam"},
        {"precision": "fp16"},
        {"warmup_epochs": 1, "label_smoothing": 0.1, "channels_last": True, "epochs": 3},
    ],
    ids=str,
)
def test_a_resumed_run_equals_the_undisturbed_one_bit_for_bit(changes, fp16_on_the_cpu, few_images):
    run = run_of(**changes)
    whole, cut, rest = Reports(), Reports(die_after=1), Reports()
    model = train(run, whole)
    with pytest.raises(KeyboardInterrupt):
        train(run, cut)
    torch.manual_seed(12345)
    resumed = train(run, rest, resume=cut.states[0])
    assert cut.metrics + rest.metrics == whole.metrics
    for key, value in model.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    scaled = run.training.precision == "fp16"
    assert ("scaler" in cut.states[0]["optimizer"]["per_sample"]) == scaled


def test_channels_last_changes_the_layout_and_hardly_the_numbers():
    first, other = Reports(), Reports()
    # Slow learning: at the usual rate a rounding error grows to a per cent within an epoch.
    train(run_of(epochs=1, lr=1e-4), first)
    model = train(run_of(epochs=1, lr=1e-4, channels_last=True), other)
    weight = model[3].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()
    assert other.metrics[0]["train_loss"] == pytest.approx(first.metrics[0]["train_loss"], rel=1e-3)


def test_fp16_without_a_gpu_is_refused_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr(training, "load_split", None)
    with pytest.raises(InputError, match="fp16 needs a CUDA GPU") as caught:
        train(run_of(precision="fp16"), Reports())
    assert caught.value.field == "training.precision"
    assert "bf16" in caught.value.remedy
    for precision in ("fp32", "bf16", "fp16"):
        check_precision(replace(PLAIN, precision=precision), gpu=True)


def rates(settings):
    base = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=settings.lr)
    schedule = build_schedule(settings, base)
    used = []
    for _ in range(settings.epochs):
        used.append(base.param_groups[0]["lr"])
        base.step()
        schedule.step()
    return used


def test_the_learning_rate_rises_linearly_and_then_falls_as_a_cosine():
    plain = rates(TrainingSettings(epochs=6, batch_size=1, lr=0.4))
    warm = rates(TrainingSettings(epochs=9, batch_size=1, lr=0.4, warmup_epochs=3))
    assert warm[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert warm[3:] == pytest.approx(plain)
    assert plain[0] == 0.4
    assert plain[3] == pytest.approx(0.2)


def test_a_warm_up_as_long_as_the_training_is_refused_wherever_epochs_change():
    document = {"epochs": 5, "batch_size": 8, "lr": 0.1, "warmup_epochs": 5}
    with pytest.raises(InputError, match="must be less than the 5 epochs") as caught:
        training_settings(document)
    assert caught.value.field == "training.warmup_epochs"
    fits = training_settings({**document, "epochs": 6})
    with pytest.raises(InputError, match="must be less than the 2 epochs, got 5"):
        replace(fits, epochs=2)


def test_under_compilation_the_clean_pass_is_counted_whole():
    # There SWP freezes nothing, see optim.ESAM: (3 + 1 + 3 gamma) / 3 instead of beta in the sum.
    eager = count_flops_ratio(run_of(), 1)
    compiled = count_flops_ratio(run_of(compile=True), 1)
    assert eager < compiled
    # The first convolution's images need no gradient, so the sum is not exact.
    assert compiled == pytest.approx((3 + 1 + 1.5) / 3, rel=0.02)
    assert count_flops_ratio(run_of("sgd", compile=True), 1) == 1.0


@pytest.fixture
def fresh_compiler():
    yield
    torch._dynamo.reset()


@pytest.mark.slow
def test_a_compiled_run_follows_the_eager_one(fresh_compiler, monkeypatch):
    graphs = []
    plain_compile = torch.compile

    def noting(model):
        graphs.append(model)
        return plain_compile(model)

    eager, compiled = Reports(), Reports()
    train(run_of(epochs=1), eager)
    monkeypatch.setattr(torch, "compile", noting)
    # Otherwise the compiler would silently leave what is beyond its limit to the interpreter.
    monkeypatch.setattr(torch._dynamo.config, "fail_on_recompile_limit_hit", True)
    model = train(run_of(epochs=1, compile=True), compiled)
    # The training's network and the base step's.
    assert len(graphs) == 2
    assert type(model) is type(graphs[0])
    assert not any("_orig_mod" in key for key in compiled.states[0]["model"])
    first, other = eager.metrics[0], compiled.metrics[0]
    assert other["train_loss"] == pytest.approx(first["train_loss"], rel=0.02)
    assert other["val_accuracy"] == pytest.approx(first["val_accuracy"], abs=0.08)


def work(rank, folder):
    torch.set_num_threads(1)
    step_timer._PAIRS = 1
    torch.compile = functools.partial(torch.compile, backend="aot_eager")
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=120),
    )
    outcome = {}
    for name, changes in [
        ("plain", {}),
        ("all", {"compile": True, "channels_last": True, "precision": "bf16"}),
    ]:
        reports = Reports()
        settings = run_of(epochs=1, **changes)
        model = train(settings, reports, worker=Worker(rank=rank, workers=2))
        outcome[name] = (reports.metrics, copy.deepcopy(model.state_dict()))
    torch.save(outcome, folder / f"outcome.{rank}")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_workers_compile_in_bf16_with_channels_last(tmp_path):
    mp.start_processes(work, (tmp_path,), nprocs=2, start_method="spawn")
    first, second = (torch.load(tmp_path / f"outcome.{rank}") for rank in range(2))
    for name in ("plain", "all"):
        assert first[name][0] == second[name][0]
        for key, value in first[name][1].items():
            assert torch.equal(value, second[name][1][key]), key
    plain, both = first["plain"][0][0], first["all"][0][0]
    assert both["train_loss"] == pytest.approx(plain["train_loss"], rel=0.03)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("compiles", [False, True])
def test_a_gpu_trains_in_half_precision(precision, compiles, fresh_compiler):
    worker = Worker(device=torch.device("cuda", 0))
    plain, half = Reports(), Reports()
    train(run_of(epochs=3), plain, worker=worker)
    changes = {"precision": precision, "compile": compiles, "channels_last": True}
    train(run_of(epochs=3, **changes), half, worker=worker)
    assert half.metrics[-1]["train_loss"] == pytest.approx(
        plain.metrics[-1]["train_loss"], rel=0.05
    )
    assert half.metrics[-1]["val_accuracy"] == pytest.approx(
        plain.metrics[-1]["val_accuracy"], abs=0.1
    )
