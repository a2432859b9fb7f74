"""What Tune's part hands on when the study's own part raises, without a cluster."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from ray.tune.execution.tune_controller import TuneController

from esam_tune.errors import RunFailedError
from esam_tune.study import runner
from esam_tune.study.runner import StudyInterrupted, run_single, run_trials
from esam_tune.trial import FAILURE, RunRequest

TRIAL = SimpleNamespace(
    trial_id="t",
    config={"run_id": "0000"},
    error_file=None,
    metric_analysis={},
    metric_n_steps={},
)


def controller_of(on_event):
    """What Tune's own controller makes of an event whose handling raises."""
    events = []
    controller = object.__new__(TuneController)
    controller._fail_fast = False
    controller._trial_to_actor, controller._actor_to_trial = {"t": "actor"}, {"actor": "t"}
    controller._actor_manager = SimpleNamespace(
        schedule_actor_task=lambda *, on_result, **_: events.append(on_result)
    )
    controller._schedule_trial_task("t", "train", on_result=on_event)
    return events[0]


@pytest.fixture
def tuner(monkeypatch):
    """Stands for a Tuner in which one thing happens; a test says what."""

    def make(happens):
        class Tuner:
            configured = None

            def __init__(self, trainable, *, run_config, **_):
                Tuner.configured = run_config
                (self.callback,) = run_config.callbacks

            def fit(self):
                controller_of(lambda _trial, *_: happens(self.callback))("actor")

        monkeypatch.setattr(runner.tune, "Tuner", Tuner)
        return Tuner

    return make


def request(tmp_path):
    return RunRequest(settings={}, run_id="0000", storage=str(tmp_path))


def test_a_single_run_that_fails_says_why_and_not_tunes_traceback(tuner, tmp_path):
    tuner(lambda callback: callback.on_trial_error(0, [], TRIAL))
    with pytest.raises(RunFailedError, match=r"^training failed: the trial's process was lost$"):
        run_single(request(tmp_path), tmp_path / "tune", lambda report: None)


def test_what_takes_a_single_runs_reports_ends_it_with_its_own_error(tuner, tmp_path):
    def receive(report):
        raise RunFailedError(report[FAILURE])

    tuner(lambda callback: callback.on_trial_result(0, [], TRIAL, {FAILURE: "diverged"}))
    with pytest.raises(RunFailedError, match=r"^diverged$"):
        run_single(request(tmp_path), tmp_path / "tune", receive)


def test_tune_keeps_two_checkpoints_and_tries_a_trial_again_as_often_as_asked(tuner, tmp_path):
    def nothing(_):
        pass

    stub = tuner(nothing)
    asked = replace(request(tmp_path), max_failures=7)
    study = SimpleNamespace(request=asked, remaining=1, waits=False)
    run_trials(study, tmp_path / "tune", max_concurrent=1, on_step=lambda: None)
    # The one before is there while the newest is written, and where that proves to be torn.
    assert stub.configured.checkpoint_config.num_to_keep == 2
    assert stub.configured.failure_config.max_failures == 7


@pytest.mark.parametrize(
    "error", [StudyInterrupted(), RunFailedError("cannot write")], ids=["signal", "storage"]
)
@pytest.mark.parametrize("event", ["on_trial_result", "on_trial_complete", "on_trial_error"])
def test_what_a_study_raises_comes_through(tuner, tmp_path, event, error):
    def refuse(*_, **__):
        raise error

    study = SimpleNamespace(
        request=request(tmp_path), remaining=1, waits=False, report=refuse, end=refuse
    )
    result = ({"epoch": 1},) if event == "on_trial_result" else ()
    tuner(lambda callback: getattr(callback, event)(0, [], TRIAL, *result))
    with pytest.raises(type(error)) as raised:
        run_trials(study, tmp_path / "tune", max_concurrent=1, on_step=lambda: None)
    assert raised.value is error
