"""The training loop: what it reports, that it resumes exactly, and what it never reads."""

import io
import math
import random

import numpy as np
import pytest
import torch

from esam_tune import step_timer, training, worker
from esam_tune.computation import Computation
from esam_tune.config import OPTIMIZERS, TrainingSettings, trial_settings
from esam_tune.errors import InputError
from esam_tune.metrics import METRICS
from esam_tune.training import DivergedError, evaluate, train
from esam_tune.worker import Worker

torch.set_num_threads(1)

PLAIN = Computation(TrainingSettings(epochs=1, batch_size=1, lr=0.1), torch.device("cpu"))

# Everything a run reports that the machine's speed has no part in.
EXACT = ("epoch", "train_loss", "val_loss", "val_accuracy", "step_flops_ratio")


@pytest.fixture(autouse=True)
def few_timed_steps(monkeypatch):
    """Measuring takes as long as training: a few pairs in a run will do here."""
    monkeypatch.setattr(step_timer, "_PAIRS", 4)


def settings(optimizer="esam", epochs=2, seed=0, noise=0.4, **changes):
    return trial_settings(
        {
            "task": {"dataset": "digits", "model": "small_cnn", "label_noise": noise},
            "training": {"epochs": epochs, "batch_size": 64, "lr": 0.05, "weight_decay": 5e-4},
            "params": {"optimizer": optimizer, **changes},
            "seed": seed,
        }
    )


class Reports:
    """Keeps what is reported, and each state as a file would keep it."""

    def __init__(self, *, die_after=None):
        self.metrics = []
        self.states = []
        self._die_after = die_after

    def __call__(self, metrics, state):
        self.metrics.append(dict(metrics))
        file = io.BytesIO()
        torch.save(state(), file)
        file.seek(0)
        self.states.append(torch.load(file, weights_only=True))
        if metrics["epoch"] == self._die_after:
            raise KeyboardInterrupt

    def exact(self):
        return [{key: metrics[key] for key in EXACT} for metrics in self.metrics]


def trained(run, **options):
    reports = Reports()
    model = train(run, reports, **options)
    return reports, model


def assert_same_weights(left, right):
    assert left.keys() == right.keys()
    for key, value in left.items():
        assert torch.equal(value, right[key]), key


@pytest.mark.parametrize(
    "params",
    [
        *({"optimizer": name} for name in OPTIMIZERS),
        # An epoch has 16 steps, so that these are in the midst of a period when they are cut off.
        {"optimizer": "esam", "every": 3, "selection": "first_order"},
        {"optimizer": "esam", "adaptive": True, "beta": 0.3, "batch_size": 100},
        {"optimizer": "looksam", "every": 7},
    ],
    ids=lambda params: "-".join(map(str, params.values())),
)
def test_a_resumed_run_equals_the_undisturbed_one_bit_for_bit(params):
    run = settings(**params, epochs=2)
    reports, model = trained(run)
    cut = Reports(die_after=1)
    with pytest.raises(KeyboardInterrupt):
        train(run, cut)
    torch.manual_seed(12345)
    rest, resumed = trained(run, resume=cut.states[0])
    assert [m["epoch"] for m in rest.metrics] == [2]
    assert cut.exact() + rest.exact() == reports.exact()
    assert_same_weights(resumed.state_dict(), model.state_dict())


def test_a_resumed_run_draws_what_the_undisturbed_one_would_have_drawn(monkeypatch):
    # The networks and optimizers that we ship leave the process' own streams alone after the
    # start; dropout in a network of one's own would not.
    drawn = []

    def draw(*arguments):
        drawn.append((torch.rand(1).item(), np.random.random(), random.random()))
        return evaluate(*arguments)

    monkeypatch.setattr(training, "evaluate", draw)
    run = settings("sgd", epochs=3)
    reports, _ = trained(run)
    undisturbed = drawn.copy()
    drawn.clear()
    trained(run, resume=reports.states[0])
    assert drawn == undisturbed[1:]
    assert all(len(set(stream)) == 3 for stream in zip(*undisturbed, strict=True))


def test_a_resumed_run_keeps_to_its_schedule():
    # The first epoch after a checkpoint has the rate that the optimizer kept, and would be the same
    # without the schedule's own state.
    run = settings("sgd", epochs=3)
    reports, _ = trained(run)
    rest, _ = trained(run, resume=reports.states[0])
    assert rest.exact() == reports.exact()[1:]


def test_a_run_resumed_after_its_last_epoch_reports_nothing_more():
    reports, model = trained(settings("sgd", epochs=1))
    rest, resumed = trained(settings("sgd", epochs=1), resume=reports.states[0])
    assert rest.metrics == []
    assert_same_weights(resumed.state_dict(), model.state_dict())


def test_a_run_is_fixed_by_its_seed():
    first, model = trained(settings(epochs=1))
    torch.manual_seed(99)
    again, _ = trained(settings(epochs=1))
    other, _ = trained(settings(epochs=1, seed=1))
    assert first.exact() == again.exact()
    assert first.exact() != other.exact()
    assert not model.training


@pytest.mark.parametrize(
    ("params", "ratio"),
    [
        ({"optimizer": "sgd"}, 1.0),
        ({"optimizer": "sam"}, 2.0),
        ({"optimizer": "asam"}, 2.0),
        ({"optimizer": "sam", "every": 4}, 1.25),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else None,
)
def test_the_counted_cost_of_the_baselines_is_known(params, ratio):
    reports, _ = trained(settings(**params, epochs=1))
    assert reports.metrics[0]["step_flops_ratio"] == pytest.approx(ratio, rel=0.01)


def test_the_counted_cost_of_esam_follows_beta_and_gamma():
    costs = [
        trained(settings(epochs=1, beta=beta, gamma=gamma))[0].metrics[0]["step_flops_ratio"]
        for beta, gamma in [(1.0, 1.0), (0.6, 0.5), (0.3, 0.3)]
    ]
    assert costs[0] == pytest.approx(2.0, rel=0.01)
    assert costs[0] > costs[1] > costs[2] > 1.0


def test_each_epoch_reports_every_metric_of_a_search_and_nothing_else():
    reports, _ = trained(settings("sgd", epochs=2))
    expected = set(METRICS) - {"test_accuracy", "test_loss"}
    for number, metrics in enumerate(reports.metrics, start=1):
        assert set(metrics) == expected - ({"sharpness"} if number == 1 else set())
        assert all(math.isfinite(value) for value in metrics.values())
        assert metrics["epoch"] == number
        assert 0.0 <= metrics["val_accuracy"] <= 1.0
        assert min(metrics["step_time_ratio"], metrics["epoch_seconds"]) > 0.0
        images = metrics["images_per_second"] * metrics["epoch_seconds"]
        assert images == pytest.approx(1079 // 64 * 64)


def test_what_each_worker_clocks_is_reported_as_the_mean_over_them(monkeypatch):
    class BesideASlowOne(Worker):
        """One of two workers; the other takes a second longer for everything."""

        def mean(self, values):
            return [value + 0.5 for value in values]

    reports, _ = trained(settings("sgd", epochs=1), worker=BesideASlowOne())
    (metrics,) = reports.metrics
    assert min(metrics["epoch_seconds"], metrics["step_time_ratio"]) > 0.5
    images = metrics["images_per_second"] * metrics["epoch_seconds"]
    assert images == pytest.approx(1079 // 64 * 64)

    monkeypatch.setattr(worker.dist, "all_reduce", lambda tensor, group: tensor.add_(1.0))
    assert Worker(rank=1, workers=2).mean([3.0, 5.0]) == [2.0, 3.0]
    assert Worker().mean([3.0, 5.0]) == [3.0, 5.0]


def test_training_learns():
    reports, _ = trained(settings("sgd", epochs=3, noise=0.0))
    assert reports.metrics[-1]["train_loss"] < reports.metrics[0]["train_loss"]
    assert reports.metrics[-1]["val_accuracy"] > 0.9


@pytest.fixture
def loaded(monkeypatch):
    """Names of the splits in the order they are loaded."""
    names = []
    load = training.load_split

    def note(task, name):
        names.append(name)
        return load(task, name)

    monkeypatch.setattr(training, "load_split", note)
    return names


def test_a_search_never_loads_the_test_split(loaded):
    reports, _ = trained(settings("sgd", epochs=2))
    assert loaded == ["train", "val"]
    assert not any("test_accuracy" in metrics for metrics in reports.metrics)


def test_a_final_training_reads_the_test_split_once_after_the_last_epoch(loaded):
    reports, model = trained(settings("sgd", epochs=2), read_test=True)
    assert loaded == ["train", "val", "test"]
    assert "test_accuracy" not in reports.metrics[0]
    on_test = training.load_split(settings().task, "test")
    loss, accuracy = evaluate(model, on_test, Worker(), PLAIN)
    assert reports.metrics[1]["test_accuracy"] == accuracy
    assert reports.metrics[1]["test_loss"] == loss


def test_reading_the_test_split_changes_nothing_else():
    plain, _ = trained(settings("sgd", epochs=1))
    final, _ = trained(settings("sgd", epochs=1), read_test=True)
    assert plain.exact() == final.exact()


def test_the_scores_are_those_of_the_whole_split():
    _, model = trained(settings("sgd", epochs=1))
    split = training.load_split(settings().task, "val")
    loss, accuracy = evaluate(model, split, Worker(), PLAIN)
    model.eval()
    with torch.no_grad():
        logits = model(split.first(len(split))[0])
    expected = torch.nn.functional.cross_entropy(logits, split.labels)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert accuracy == (logits.argmax(1) == split.labels).double().mean().item()


def test_a_loss_that_is_not_finite_ends_the_run_before_its_report():
    reports = Reports()
    with pytest.raises(DivergedError, match=r"training loss is (nan|inf) in epoch 1"):
        train(settings("sgd", lr=1e30), reports)
    assert reports.metrics == []


def test_weights_that_the_last_step_of_an_epoch_breaks_end_the_run_in_that_epoch():
    reports = Reports()
    # One step an epoch: the loss before it is still finite.
    with pytest.raises(DivergedError, match="weights are not finite after epoch 1"):
        train(settings("sgd", batch_size=1079, lr=1e35, weight_decay=1e6), reports)
    assert reports.metrics == []


@pytest.mark.parametrize(
    ("batch_size", "workers", "problem"), [(1080, 1, "at most"), (64, 3, "divide evenly")]
)
def test_a_batch_that_does_not_fit_is_refused_before_training(batch_size, workers, problem):
    with pytest.raises(InputError, match=problem):
        train(settings(batch_size=batch_size), Reports(), worker=Worker(workers=workers))


def test_a_trial_with_its_own_learning_rate_trains_with_it():
    slow, _ = trained(settings("sgd", epochs=1, lr=1e-9))
    fast, _ = trained(settings("sgd", epochs=1, lr=0.05))
    assert slow.metrics[0]["train_loss"] > fast.metrics[0]["train_loss"]
