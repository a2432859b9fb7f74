"""A study in motion without Ray: what is handed out, and what is recorded of it."""

import math

import pytest
from study_events import WrittenStudy, study_spec

from esam_tune.failures import failure_of
from esam_tune.journal import Journal, read
from esam_tune.metrics import SHARPNESS
from esam_tune.study.agenda import SearchAgenda
from esam_tune.study.proposals import Proposals
from esam_tune.study.record import StudyRecord
from esam_tune.study.study_run import StudyRun
from esam_tune.training import DivergedError
from esam_tune.trial import FAILURE, REFUSED, WORKERS, RunRequest


@pytest.fixture
def study(tmp_path):
    """A study of one baseline and one search trial, of which nothing has run."""

    class Study:
        path = tmp_path / "journal.jsonl"
        spec = study_spec(trials=1)

        def begin(self, **request):
            record = StudyRecord.from_journal(self.path)
            request = RunRequest(settings={}, run_id="", storage=str(tmp_path), **request)
            agenda = SearchAgenda(record, Proposals(db, record.spec))
            return StudyRun(record, Journal(self.path), agenda, request)

        def events(self, kind):
            return [event for event, _ in read(self.path) if event["event"] == kind]

    db = tmp_path / "optuna.db"
    WrittenStudy(Study.path, Study.spec).writer.close()
    return Study()


def report(epoch, **more):
    return {"epoch": epoch, "val_accuracy": 0.5, "step_flops_ratio": 1.0, **more}


def test_a_trial_that_the_scheduler_stops_is_pruned_and_one_that_ends_by_itself_fails(study):
    run = study.begin()
    for _ in range(2):
        request = run.next_request()
        run.report(request.run_id, report(1))
        if request.run_id == "0001":
            run.stop(request.run_id)
        run.end(request.run_id)
    ends = [(e["state"], e["reason"]) for e in study.events("trial_end")]
    assert ends == [
        ("failed", "ended after epoch 1 of 2"),
        ("pruned", "stopped early after epoch 1 of 2"),
    ]
    assert run.record.front() == []


def test_a_stop_after_the_last_epoch_changes_nothing_and_a_failure_comes_first(study):
    run = study.begin()
    first, second = run.next_request(), run.next_request()
    for epoch in (1, 2):
        run.report(first.run_id, report(epoch))
    run.stop(first.run_id)
    run.end(first.run_id)
    run.report(second.run_id, {FAILURE: "because"})
    run.stop(second.run_id)
    run.end(second.run_id)
    ends = [(e["state"], e["reason"]) for e in study.events("trial_end")]
    assert ends == [("complete", None), ("failed", "because")]


def test_a_trial_stopped_over_a_value_that_is_no_number_failed(study):
    run = study.begin()
    for value in (math.nan, math.inf):
        request = run.next_request()
        run.report(request.run_id, report(1, val_accuracy=value))
        run.stop(request.run_id)
        run.end(request.run_id)
    ends = [(e["state"], e["reason"]) for e in study.events("trial_end")]
    assert ends == [("failed", "val_accuracy is not finite after epoch 1 of 2")] * 2


def ended(study, *results, error=None, stop=False):
    """A run that ends after these reports."""
    run = study.begin()
    run_id = run.next_request().run_id
    for result in results:
        run.report(run_id, result)
    if stop:
        run.stop(run_id)
    run.end(run_id, error)
    return StudyRecord.from_journal(study.path).runs[run_id]


def diverged(epoch):
    """What training makes of a loss that is no number: it reports no metrics of that epoch."""
    return {FAILURE: str(failure_of(DivergedError(f"training loss is nan in epoch {epoch}")))}


@pytest.mark.parametrize(
    "results",
    [
        [diverged(1)],
        [report(1), diverged(2)],
        [report(1), {FAILURE: f"RuntimeError: {diverged(2)[FAILURE]}"}],
        [report(1), {FAILURE: f"esam_tune.training.{diverged(2)[FAILURE]}"}],
        [report(1), report(2, val_accuracy=math.nan)],
    ],
    ids=["at once", "later", "as early journals say", "in a traceback", "an objective"],
)
def test_a_run_that_diverged_is_known_by_its_reason(study, results):
    assert ended(study, *results).diverged


def test_a_run_that_was_stopped_over_a_value_that_is_no_number_diverged(study):
    assert ended(study, report(1, val_accuracy=math.inf), stop=True).diverged


@pytest.mark.parametrize("loss", [0.7, math.inf])
@pytest.mark.parametrize("error", ["the trial's process was lost", "OSError: gone (node a)", None])
def test_a_run_that_was_lost_did_not_diverge_whatever_its_last_epoch_was(study, error, loss):
    assert not ended(study, report(1, val_loss=loss), error=error).diverged


def test_a_run_that_is_complete_did_not_diverge(study):
    assert not ended(study, report(1), report(2, val_loss=math.inf)).diverged


def test_the_search_ends_where_its_space_is_gone_through(study, monkeypatch):
    run = study.begin()
    monkeypatch.setattr(Proposals, "ask", lambda *_: None)
    assert run.next_request().run_id == "0000"
    assert run.next_request() is None
    assert [event["trial_id"] for event in study.events("trial_start")] == ["0000"]


def test_an_unfinished_trial_goes_on_from_the_newest_checkpoints_that_are_left(study, tmp_path):
    run = study.begin()
    trial_id = run.next_request().run_id
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state-0.pt").touch()
        run.checkpoint(trial_id, str(tmp_path / name))
    # Half removed: the folder is still there.
    (tmp_path / "c" / "state-0.pt").unlink()
    request = study.begin().next_request()
    left = (str(tmp_path / "b"), str(tmp_path / "a"))
    assert (request.run_id, request.resume_from) == (trial_id, left)


def test_a_trial_that_goes_on_from_further_back_has_neither_gap_nor_repeat(study, caplog):
    run = study.begin()
    trial_id = run.next_request().run_id
    run.report(trial_id, report(1))
    run.report(trial_id, report(2))
    # The checkpoint of epoch 1 was torn: it begins again.
    run.report(trial_id, report(1, **{REFUSED: ["checkpoint 'x' is refused: it is torn"]}))
    run.report(trial_id, report(2))
    run.end(trial_id)
    assert [e["metrics"]["epoch"] for e in study.events("epoch")] == [1, 2]
    assert run.record.runs[trial_id].state == "complete"
    assert f"trial {trial_id} goes on from further back: checkpoint 'x' is refused" in caplog.text


def test_what_only_a_finished_run_has_is_not_missed_in_one_that_was_stopped(tmp_path):
    path = tmp_path / "sharp" / "journal.jsonl"
    objectives = {"val_accuracy": "max", "step_flops_ratio": "min", SHARPNESS: "min"}
    WrittenStudy(path, study_spec(trials=1, objectives=objectives)).writer.close()
    record = StudyRecord.from_journal(path)
    request = RunRequest(settings={}, run_id="", storage=str(tmp_path))
    agenda = SearchAgenda(record, Proposals(tmp_path / "sharp.db", record.spec))
    run = StudyRun(record, Journal(path), agenda, request)
    stopped, whole = run.next_request(), run.next_request()
    run.report(stopped.run_id, report(1))
    run.stop(stopped.run_id)
    run.report(whole.run_id, report(1))
    run.report(whole.run_id, report(2, **{SHARPNESS: math.inf}))
    for request in (stopped, whole):
        run.end(request.run_id)
    assert [trial.state for trial in record.trials.values()] == ["pruned", "failed"]
    assert record.trials["0001"].reason == "sharpness is not finite after the last epoch"


def test_what_the_worker_count_makes_of_a_trial_is_recorded_and_again_when_it_changes(study):
    run = study.begin(workers=4, min_workers=1)
    trial_id = run.next_request().run_id
    run.report(trial_id, report(1, **{WORKERS: 4}))
    run.report(trial_id, report(2, **{WORKERS: 2}))
    run.report(trial_id, report(2, **{WORKERS: 2}))
    (start,) = study.events("trial_start")
    rows = {"batch_size": 64, "lr": 0.05, "rho": None}
    assert start["setup"] == {**rows, "workers": 4, "rows_per_worker": 16}
    assert [e["setup"] for e in study.events("workers")] == [
        {**rows, "workers": 4, "rows_per_worker": 16},
        {**rows, "workers": 2, "rows_per_worker": 32},
    ]
    assert WORKERS not in study.events("epoch")[0]["metrics"]
