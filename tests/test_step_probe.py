"""Steps that are timed before a study: on their own batches, alone or side by side."""

import itertools
import subprocess
import sys

import pytest
import torch
from study_events import study_spec

from esam_tune import step_probe
from esam_tune.config import task_settings, training_settings
from esam_tune.errors import RunFailedError
from esam_tune.step_probe import probe_steps
from esam_tune.study import cluster
from esam_tune.study.estimate import _side_by_side
from esam_tune.study.placement import WorkerShape
from esam_tune.study.preflight import SweepOptions, preflight
from esam_tune.study.space import Overrides
from esam_tune.tasks.data import load_split

CPU = torch.device("cpu")
TASK = task_settings({"dataset": "digits", "model": "small_cnn"})
TRAINING = training_settings({"epochs": 1, "batch_size": 64, "lr": 0.1})


def test_processes_side_by_side_tell_all_their_steps():
    train = load_split(TASK, "train")
    base, sam = probe_steps(TASK, TRAINING, train, 32, CPU, beside=2, seconds=0.0)
    assert len(base) == len(sam) == 2 * 3
    assert min(base + sam) > 0


def test_a_process_that_fails_says_why(monkeypatch):
    said = "import sys; sys.exit('no room here')"
    monkeypatch.setattr(
        step_probe,
        "_process",
        lambda: subprocess.Popen(
            [sys.executable, "-c", said],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ),
    )
    train = load_split(TASK, "train")
    with pytest.raises(RunFailedError, match=r"a step could not be timed \(no room here\)"):
        probe_steps(TASK, TRAINING, train, 32, CPU, beside=2)


def test_each_step_takes_its_own_batch():
    """Of one worker's rows, from one epoch to the next."""
    train = load_split(TASK, "train")
    batches = step_probe._batches(TASK, TRAINING, train, 16)
    steps = len(train) // 64
    labels = [labels for _, labels in itertools.islice(batches, steps + 1)]
    assert {len(each) for each in labels} == {16}
    assert not torch.equal(labels[0], labels[1])
    assert not torch.equal(labels[0], labels[steps])


@pytest.mark.parametrize(
    ("cores", "trials", "workers", "shape", "expected"),
    [
        (1, 4, None, WorkerShape(), 1),
        (4, 9, None, WorkerShape(), 4),
        (4, 9, None, WorkerShape(cpus=2), 2),
        (4, 1, None, WorkerShape(), 2),  # a trial and a baseline
        (4, 9, 2, WorkerShape(), 4),
        (64, 99, None, WorkerShape(), 8),
    ],
)
def test_as_many_steps_at_a_time_as_trials(
    tmp_path, monkeypatch, cores, trials, workers, shape, expected
):
    options = SweepOptions(storage=tmp_path, workers_per_trial=workers)
    plan = preflight(study_spec(trials=trials), Overrides(), options)
    monkeypatch.setattr(cluster, "local_cores", lambda: cores)
    placement = plan.place(cluster.local_nodes(), shape, "this machine")
    assert _side_by_side(plan, placement) == expected
