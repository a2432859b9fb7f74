"""What is made of Tune's events: hung trials, their ends, and the reasons of failures."""

import functools
import os
import platform
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray import tune
from ray.tune.trainable.metadata import _TrainingRunMetadata

from esam_tune import trial as trial_module
from esam_tune.failures import RunFailure
from esam_tune.study import runner
from esam_tune.study.hang_watch import HangWatch
from esam_tune.trial import FAILURE, RunRequest, run_in_process


class Events:
    """A study's listener, told of events as Tune tells it, on a clock of the test's own."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        self.killed, self.ended, self.steps = [], [], []
        watch = functools.partial(HangWatch, clock=lambda: self.now)
        monkeypatch.setattr(runner, "HangWatch", watch)
        monkeypatch.setattr(runner.ray, "kill", self.killed.append)
        run = SimpleNamespace(
            request=SimpleNamespace(max_epoch_seconds=30.0),
            report=lambda run_id, result: None,
            end=lambda run_id, error=None: self.ended.append((run_id, error)),
        )
        self.recorder = runner._Recorder(run, lambda: self.steps.append(self.now))

    def trial(self, number):
        kept = _TrainingRunMetadata(n_steps=[5, 10])
        kept.update_metric("val_accuracy", 0.9)
        made = SimpleNamespace(
            run_metadata=kept,
            metric_analysis=kept.metric_analysis,
            metric_n_steps=kept.metric_n_steps,
            trial_id=f"tune-{number}",
            config={"run_id": number},
            max_failures=2,
            temporary_state=SimpleNamespace(ray_actor=f"actor of {number}"),
            error_file=None,
        )
        self.tell("start", made)
        return made

    def tell(self, event, trial, **more):
        getattr(self.recorder, f"on_trial_{event}")(iteration=1, trials=[], trial=trial, **more)

    def wait(self, seconds):
        for _ in range(seconds):
            self.now += 1.0
            self.recorder.on_step_begin(iteration=1, trials=[])


@pytest.fixture
def events(monkeypatch):
    return Events(monkeypatch)


@pytest.mark.parametrize("event", ["recover", "complete", "error"])
def test_what_tune_keeps_of_each_metric_goes_with_the_trial(events, event):
    trial = events.trial("0000")
    assert trial.metric_analysis["val_accuracy"]["max"] == 0.9
    events.tell(event, trial)
    assert not trial.metric_analysis
    assert not trial.metric_n_steps
    # A trial that is tried again has some anew.
    trial.run_metadata.update_metric("val_accuracy", 0.8)
    assert trial.metric_analysis["val_accuracy"]["max"] == 0.8


def test_a_silent_trial_is_killed_once_and_for_good_and_says_that_it_hung(events):
    silent, lively = events.trial("0000"), events.trial("0001")
    for epoch in range(1, 4):
        events.wait(15)
        events.tell("result", lively, result={"epoch": epoch})
    assert events.killed == ["actor of 0000"]
    # Tune would start it again otherwise, to hang again.
    assert (silent.max_failures, lively.max_failures) == (0, 2)
    events.tell("error", silent)
    assert events.ended == [("0000", "hung: no epoch ended within 30 s")]
    events.wait(20)
    assert events.killed == ["actor of 0000"]
    assert len(events.steps) == 65


def test_a_trial_that_waits_to_be_started_again_has_not_hung(events):
    lost = events.trial("0000")
    events.wait(20)
    events.tell("recover", lost)
    events.wait(100)
    assert events.killed == []
    events.tell("start", lost)
    events.wait(30)
    assert events.killed == []
    events.wait(1)
    assert events.killed == ["actor of 0000"]


def test_a_trial_that_has_ended_is_listened_to_no_more(events):
    whole, failed = events.trial("0000"), events.trial("0001")
    events.tell("complete", whole)
    events.tell("error", failed)
    events.wait(100)
    assert events.killed == []
    assert events.ended == [("0000", None), ("0001", "the trial's process was lost")]


def test_the_reason_of_a_failure_is_the_last_that_tune_has_kept(events, tmp_path):
    failed = events.trial("0000")
    failed.error_file = str(tmp_path / "error.txt")
    (tmp_path / "error.txt").write_text(
        "Failure # 1 (occurred at 2026-01-01)\nThe actor died unexpectedly\n"
        "Failure # 2 (occurred at 2026-01-01)\n  File trial.py, line 1\n"
        "esam_tune.failures.RunFailure: OSError: [Errno 28] No space left (node a)\n"
    )
    events.tell("error", failed)
    assert events.ended == [("0000", "OSError: [Errno 28] No space left (node a)")]
    (tmp_path / "error.txt").write_text("The actor is dead because " + "x" * 10_000)
    assert len(events.recorder.reason(failed)) == 300
    (tmp_path / "error.txt").unlink()
    assert events.recorder.reason(failed) == "the trial's process was lost"


def test_a_trial_killed_for_its_memory_says_so_and_what_helps(events, tmp_path):
    failed = events.trial("0000")
    failed.error_file = str(tmp_path / "error.txt")
    killed = (
        "Failure # 1 (occurred at 2026-01-01)\nThe actor died unexpectedly\n"
        "1 worker(s) were killed due to the node running low on memory. Memory on the node was "
        "7.6GB used / 8.0GB limit (0.95)\nRefer to the documentation " + "x" * 2_000
    )
    (tmp_path / "error.txt").write_text(f"{killed}\n")
    events.tell("error", failed)
    ((_, reason),) = events.ended
    assert reason.startswith(
        "1 worker(s) were killed due to the node running low on memory; out of"
    )
    assert reason.endswith("use a smaller batch_size, precision bf16, or more workers a trial")
    # An earlier attempt's end is not this one's.
    later = "Failure # 2 (occurred at 2026-01-01)\nThe actor is dead\n"
    (tmp_path / "error.txt").write_text(f"{killed}\n{later}")
    assert events.recorder.reason(failed) == "The actor is dead"


@pytest.fixture
def told(monkeypatch):
    """What a one-worker trial tells Tune."""
    reports = []
    monkeypatch.setattr(tune, "report", lambda metrics, checkpoint=None: reports.append(metrics))
    monkeypatch.setattr(tune, "get_checkpoint", lambda: None)
    return reports


def fails_with(monkeypatch, error):
    def run_worker(*_, **__):
        raise error

    monkeypatch.setattr(trial_module, "run_worker", run_worker)
    return RunRequest(settings={}, run_id="0000", storage="").to_dict()


def test_a_failure_that_may_pass_is_tunes_to_try_again(told, monkeypatch):
    request = fails_with(monkeypatch, OSError(28, "No space left on device"))
    with pytest.raises(RunFailure, match=r"No space left on device .*node "):
        run_in_process(request)
    assert told == []


def test_a_failure_that_would_come_again_is_the_trials_end(told, monkeypatch):
    run_in_process(fails_with(monkeypatch, MemoryError()))
    ((key, reason),) = told[0].items()
    assert key == FAILURE
    assert "use a smaller batch_size" in reason
    assert "(node " in reason


def resident() -> float:
    """Memory of this process, MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_what_a_trial_has_freed_goes_back_to_the_system(told, monkeypatch):
    kept, held = [], []

    def run_worker(*_, **__):
        # Each too small for a mapping of its own; the last, which stays, is above the others.
        freed = [b"%06d" % index * 15_000 for index in range(2_000)]
        kept.append(b"kept" * 20_000)
        held.append(resident())
        del freed

    monkeypatch.setattr(trial_module, "run_worker", run_worker)
    run_in_process(RunRequest(settings={}, run_id="0000", storage="").to_dict())
    assert held[0] - resident() > 150
