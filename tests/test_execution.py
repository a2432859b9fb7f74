"""A study carried out with Tune's part played by hand: storage trouble, and what is closed."""

import signal
import time
from types import SimpleNamespace

import pytest
from rich.console import Console
from study_events import study_spec

from esam_tune import journal
from esam_tune.errors import InputError
from esam_tune.journal import Journal
from esam_tune.study import execution, patience, runner
from esam_tune.study.agenda import SearchAgenda
from esam_tune.study.execution import carry_out
from esam_tune.study.folder import study_folder
from esam_tune.study.placement import Placement
from esam_tune.study.preflight import Plan, SweepOptions
from esam_tune.tracking.store import local_uri


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Carries a study of one trial out.

    ``full`` is how many writes the disk still refuses, ``slow`` the seconds that it takes for each;
    ``closed`` has the seconds that MLflow was given at the end, ``request`` what Tune was given.
    """
    folder = study_folder(tmp_path, "small")
    folder.path.mkdir()
    stop: list[signal.Signals] = []
    world = SimpleNamespace(folder=folder, stop=stop, full=0, slow=0.0, closed=[], started=[])

    def run_trials(run, where, *, on_step, **_):
        request = world.request = run.next_request()
        for epoch in (1, 2):
            world.before_epoch(epoch)
            metrics = {"epoch": epoch, "val_accuracy": 0.5, "step_flops_ratio": 1.0}
            run.report(request.run_id, metrics)
            on_step()
        run.end(request.run_id)

    write = Journal._write

    def refuse(writer, line, *, durable):
        if world.full:
            world.full -= 1
            raise OSError(28, "No space left on device")
        time.sleep(world.slow)
        write(writer, line, durable=durable)

    tracker = SimpleNamespace(
        start=lambda: world.started.append(1),
        close=lambda seconds: not world.closed.append(seconds),
    )
    monkeypatch.setattr(runner, "run_trials", run_trials)
    monkeypatch.setattr(execution, "tracker_of", lambda *_: tracker)
    monkeypatch.setattr(execution, "write_results", lambda *_, **__: [])
    monkeypatch.setattr(Journal, "_write", refuse)
    monkeypatch.setattr(patience, "_AGAIN_SECONDS", 0.01)

    def carry():
        plan = Plan(
            spec=study_spec(trials=1, baselines=None),
            folder=folder,
            workers=1,
            min_workers=None,
            uri=local_uri(tmp_path),
            checkpoint_storage=None,
            optuna_storage=None,
        )
        placement = Placement(max_concurrent=1, threads=1, gpus_per_worker=0.0, slots=1)
        options = SweepOptions(
            storage=tmp_path, max_failures=7, max_epoch_seconds=11.0, checkpoint_seconds=13.0
        )
        console = Console(quiet=True)
        return carry_out(plan, options, placement, SearchAgenda, stop, console)

    world.carry, world.before_epoch = carry, lambda epoch: None
    return world


def test_the_limits_of_the_command_line_reach_each_run(study):
    study.carry()
    request = study.request
    limits = (request.max_failures, request.max_epoch_seconds, request.checkpoint_seconds)
    assert limits == (7, 11.0, 13.0)


def test_a_study_waits_for_a_disk_that_is_full(study, caplog):
    def fill(epoch):
        study.full = 3

    study.before_epoch = fill
    result = study.carry()
    assert (result.outcome, [t.epochs for t in result.record.complete]) == ("done", [2])
    assert any("the study waits for it" in message for message in caplog.messages)
    assert study.folder.record().trials["0000"].state == "complete"


def test_a_study_waits_for_a_disk_that_is_slow_and_loses_nothing(study, caplog):
    study.slow = 0.3
    result = study.carry()
    assert (result.outcome, [t.epochs for t in result.record.complete]) == ("done", [2])
    kept = [event for event, _ in journal.read(study.folder.journal)]
    epochs = [event["metrics"]["epoch"] for event in kept if event["event"] == journal.EPOCH]
    assert epochs == [1, 2]
    assert kept[-1]["event"] == journal.STUDY_END
    # Shares and old disks are like that: nobody need hear of it.
    assert caplog.messages == []


def test_of_a_disk_that_is_very_slow_is_told_once(study, monkeypatch, caplog):
    monkeypatch.setattr(patience, "_SLOW_SECONDS", 0.2)
    study.slow = 0.3
    assert study.carry().outcome == "done"
    (message,) = caplog.messages
    assert message.endswith(" took 0 s for a record; trials wait for it")
    assert str(study.folder.path) in message


@pytest.mark.parametrize("signals", [[], [signal.SIGINT], [signal.SIGTERM]])
def test_who_ends_a_study_does_not_wait_long_for_mlflow(study, signals):
    """Ten seconds are what a study may take to end; its results take some of them."""
    study.before_epoch = lambda epoch: study.stop.extend(signals if epoch == 2 else [])
    result = study.carry()
    (seconds,) = study.closed
    expected = {
        (): ("done", 30),
        (signal.SIGINT,): ("interrupted", 5),
        (signal.SIGTERM,): ("terminated", 5),
    }
    outcome, most = expected[tuple(signals)]
    assert result.outcome == outcome
    assert seconds <= most


def test_a_signal_ends_the_wait_and_the_study_in_order(study):
    def fill(epoch):
        if epoch == 2:
            study.full = 1
            study.stop.append(signal.SIGTERM)

    study.before_epoch = fill
    result = study.carry()
    assert (result.outcome, len(study.closed)) == ("terminated", 1)
    assert study.folder.record().trials["0000"].epochs == 1


def test_the_samplers_database_is_opened_with_the_same_patience(study, monkeypatch):
    found = []

    def refuse(where, patience):
        found.append(patience)
        raise InputError("--optuna-storage", "refuses", "see to it")

    monkeypatch.setattr("esam_tune.study.proposals.open_optuna_storage", refuse)
    with pytest.raises(InputError):
        study.carry()
    assert [type(each) for each in found] == [patience.StoragePatience]
    # Nothing is sent, nor goes on being sent, of a study that did not begin.
    assert study.started == []


def test_tracking_ends_where_the_results_cannot_be_written(study, monkeypatch):
    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(execution, "write_results", refuse)
    with pytest.raises(OSError, match="No space left"):
        study.carry()
    assert (study.started, len(study.closed)) == ([1], 1)
