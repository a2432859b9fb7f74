"""The sharpness that a run reports: of which rows, from which point, and at what price."""

import pytest
import torch
from test_training import Reports, assert_same_weights, settings, trained
from torch.nn import functional as F

from esam_tune import sharpness, step_timer, training
from esam_tune.metrics import OBJECTIVES, SHARPNESS
from esam_tune.random_streams import streams_state
from esam_tune.sharpness import measure_sharpness
from esam_tune.training import train
from esam_tune.worker import Worker

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def few_timed_steps(monkeypatch):
    monkeypatch.setattr(step_timer, "_PAIRS", 2)


@pytest.fixture(scope="module")
def run():
    reports, model = trained(settings("sgd", epochs=2))
    return reports, model, training.load_split(settings().task, "train")


def test_it_is_reported_once_after_the_last_epoch(run):
    reports, _, _ = run
    assert [SHARPNESS in report for report in reports.metrics] == [False, True]
    assert OBJECTIVES[SHARPNESS] == "min"


def by_hand(model, images, labels, radius):
    """The rise of a batch's loss, with copied weights and nothing of the package's."""
    weights = {name: w.detach().clone().requires_grad_() for name, w in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def loss(at):
        logits = torch.func.functional_call(model, {**at, **buffers}, (images,))
        return F.cross_entropy(logits, labels)

    gradients = torch.autograd.grad(loss(weights), list(weights.values()))
    norm = torch.sqrt(sum((g.double() ** 2).sum() for g in gradients)).float()
    moved = {
        name: w + radius * g / norm for (name, w), g in zip(weights.items(), gradients, strict=True)
    }
    with torch.no_grad():
        return (loss(moved).double() - loss(weights).double()).item()


def test_it_is_that_of_fixed_training_rows_with_the_labels_they_are_trained_on(run):
    reports, model, split = run
    model.eval()
    # 512 of the 1,079 rows, evenly spaced, in batches of 128.
    rows = [i * len(split) // 512 for i in range(512)]
    images, labels = split.first(len(split))
    parts = [torch.tensor(rows[start : start + 128]) for start in range(0, 512, 128)]
    rises = [by_hand(model, images[part], labels[part], 0.05) for part in parts]
    assert reports.metrics[-1][SHARPNESS] == pytest.approx(sum(rises) / 4, rel=1e-3)
    clean = training.load_split(settings(noise=0.0).task, "train")
    assert not torch.equal(split.labels, clean.labels)
    assert torch.equal(split.labels, labels)


def test_a_split_with_fewer_rows_is_measured_as_a_whole(run):
    _, model, split = run
    small = split.with_labels(split.labels)
    rows = torch.arange(150)
    object.__setattr__(small, "rows", split.rows[rows])
    object.__setattr__(small, "labels", split.labels[rows])
    measured = measure_sharpness(model, small, Worker(), 0.0)
    model.eval()
    images, labels = small.first(150)
    first, rest = (
        by_hand(model, images[p], labels[p], 0.05) for p in (slice(128), slice(128, 150))
    )
    assert measured == pytest.approx((128 * first + 22 * rest) / 150, rel=1e-3)


@pytest.mark.parametrize("workers", [2, 3, 7])
def test_it_does_not_depend_on_the_count_of_workers(run, workers):
    _, model, split = run

    class Alone(Worker):
        """One of several, whose sum over workers is left to the test."""

        def sum(self, values):
            return values

    alone = measure_sharpness(model, split, Worker(), 0.0)
    shares = [
        measure_sharpness(model, split, Alone(rank=rank, workers=workers), 0.0)
        for rank in range(workers)
    ]
    assert sum(shares) == pytest.approx(alone, rel=1e-12)
    if workers > 4:
        assert 0.0 in shares


def test_a_larger_radius_sees_a_larger_rise_and_smoothed_labels_another_loss(run, monkeypatch):
    _, model, split = run
    usual = measure_sharpness(model, split, Worker(), 0.0)
    assert measure_sharpness(model, split, Worker(), 0.1) != usual
    monkeypatch.setattr(sharpness, "SHARPNESS_RADIUS", 0.5)
    assert measure_sharpness(model, split, Worker(), 0.0) > 2 * usual


@pytest.mark.parametrize("params", [{"optimizer": "sgd"}, {"optimizer": "looksam", "every": 3}])
def test_a_run_that_measures_it_is_bit_for_bit_one_that_does_not(monkeypatch, params):
    setting = settings(**params, epochs=1)
    reports, model = trained(setting)
    streams = streams_state(torch.device("cpu"))
    monkeypatch.setattr(training, "measure_sharpness", lambda *_: 0.0)
    plain, other = trained(setting)
    assert reports.exact() == plain.exact()
    assert_same_weights(model.state_dict(), other.state_dict())
    # What is kept of the run is the same, too: streams, momentum, statistics.
    kept, without = reports.states[-1], plain.states[-1]
    assert kept.keys() == without.keys()
    assert_same_weights(kept["model"], without["model"])
    assert torch.equal(kept["random"]["torch"], without["random"]["torch"])
    assert kept["random"]["python"] == without["random"]["python"]
    assert torch.equal(streams["torch"], streams_state(torch.device("cpu"))["torch"])


def test_its_time_is_not_the_epochs(monkeypatch):
    reports = Reports()
    clock = [0.0]

    def costly(*_):
        clock[0] += 1000.0
        return 0.5

    ticking = training.time.perf_counter
    monkeypatch.setattr(training, "measure_sharpness", costly)
    monkeypatch.setattr(training.time, "perf_counter", lambda: ticking() + clock[0])
    train(settings("sgd", epochs=1), reports)
    assert reports.metrics[0]["epoch_seconds"] < 500.0
    assert clock == [1000.0]
