"""Early stopping in a study: from the space file to the journal, across a death, and in Tune."""

import types

import pytest
from study_events import WrittenStudy, study_spec

from esam_tune import journal
from esam_tune.study.agenda import SearchAgenda
from esam_tune.study.proposals import Proposals
from esam_tune.study.scheduler import RungScheduler
from esam_tune.study.study_run import StudyRun
from esam_tune.study.study_rungs import StudyRungs
from esam_tune.trial import RunRequest

STOPPING = {"kind": "pareto", "grace_epochs": 1, "eta": 3}
TRAINING = {"epochs": 9, "batch_size": 64, "lr": 0.05}


@pytest.fixture
def study(tmp_path):
    return WrittenStudy(
        tmp_path / "journal.jsonl", study_spec(training=TRAINING, early_stopping=STOPPING)
    )


def rungs_of(study):
    record = study.record()
    return StudyRungs.rebuilt(record, (event for event, _ in journal.read(study.path)))


def metrics(epoch, accuracy, cost=1.5):
    return {"epoch": epoch, "val_accuracy": accuracy, "step_flops_ratio": cost}


def decisions(study):
    rungs = rungs_of(study)
    return {trial_id: rungs.stopped(trial_id) for trial_id in study.record().trials}


def reported(study, *accuracies, baseline=False, cost=1.5):
    trial_id = study.start(baseline=baseline)
    for epoch, accuracy in enumerate(accuracies, start=1):
        study.epoch(trial_id, epoch, val_accuracy=accuracy, step_flops_ratio=cost)
    return trial_id


def test_rungs_are_rebuilt_from_the_journal(study):
    first = reported(study, 0.5, 0.6, 0.7)
    worse = reported(study, 0.4)
    better = reported(study, 0.6, 0.6, 0.1)
    baseline = reported(study, 0.1, 0.1, 0.1, baseline=True)
    assert decisions(study) == {
        first: None,
        worse: "stopped after epoch 1: rank 2 of 2",
        better: "stopped after epoch 3: rank 2 of 2",
        baseline: None,
    }


def test_a_resumed_trial_that_repeats_epochs_is_not_ranked_again(study):
    trial_id = reported(study, 0.5, 0.6)
    rungs = rungs_of(study)
    # From a checkpoint before its first epoch, with other numbers than it had.
    assert rungs.report(trial_id, metrics(1, 0.0))
    other = reported(study, 0.4)
    assert rungs_of(study).stopped(other) == "stopped after epoch 1: rank 2 of 2"


def test_a_metric_without_a_value_stops_a_trial(study):
    trial_id = reported(study, None)
    assert "not finite" in rungs_of(study).stopped(trial_id)


@pytest.mark.parametrize(("kind", "stopped"), [("pareto", False), ("asha", True), ("none", False)])
def test_cheaper_and_less_accurate_is_no_reason_to_stop_but_by_accuracy_alone(
    tmp_path, kind, stopped
):
    study = WrittenStudy(
        tmp_path / "journal.jsonl",
        study_spec(training=TRAINING, early_stopping={"kind": kind, "eta": 2.0}),
    )
    # By default the first rung is at one epoch in eta: after the fourth of nine.
    reported(study, *[0.9] * 4, cost=2.0)
    reported(study, *[0.9] * 4, cost=2.0)
    cheaper = reported(study, *[0.8] * 4, cost=1.0)
    assert (rungs_of(study).stopped(cheaper) is not None) == stopped


def test_tune_is_told_to_stop_what_the_rungs_stop(study):
    ids = [study.start() for _ in range(2)]
    rungs = StudyRungs(study.record())
    scheduler = RungScheduler(rungs)

    def answer(trial_id, result):
        trial = types.SimpleNamespace(config={"run_id": trial_id})
        return scheduler.on_trial_result(None, trial, result)

    assert answer(ids[0], metrics(1, 0.5)) == "CONTINUE"
    assert answer(ids[1], {"failure": "ValueError: no"}) == "CONTINUE"
    assert answer(ids[1], metrics(1, 0.4)) == "STOP"
    assert rungs.stopped(ids[1]) == "stopped after epoch 1: rank 2 of 2"


def test_a_trial_stopped_by_a_process_that_died_before_recording_it_is_ended(tmp_path, study):
    kept = reported(study, 0.5)
    stopped = reported(study, 0.4)
    record = study.record()
    rungs = rungs_of(study)
    run = StudyRun(
        record,
        study.writer,
        SearchAgenda(record, Proposals(tmp_path / "optuna.db", study.spec)),
        RunRequest(settings={}, run_id="", storage=str(tmp_path)),
        rungs.stopped,
    )
    before = run.remaining
    run.end_stopped()
    assert run.remaining == before - 1
    ended = study.record().trials
    assert (ended[stopped].state, ended[kept].state) == ("pruned", "running")
    assert ended[stopped].reason == "stopped after epoch 1: rank 2 of 2"
    assert run.next_request().run_id == kept
    assert study.record().front() == []


@pytest.mark.parametrize("kind", ["pareto", "asha"])
def test_what_is_known_only_at_the_end_stops_nobody(tmp_path, kind):
    objectives = {"val_accuracy": "max", "step_flops_ratio": "min", "sharpness": "min"}
    spec = study_spec(
        training=TRAINING, early_stopping=STOPPING | {"kind": kind}, objectives=objectives
    )
    study = WrittenStudy(tmp_path / "journal.jsonl", spec)
    first, worse = reported(study, 0.5), reported(study, 0.4)
    assert decisions(study) == {first: None, worse: "stopped after epoch 1: rank 2 of 2"}
