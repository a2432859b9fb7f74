"""Trials that hang, die, fail or lose a checkpoint, on the real Ray: what becomes of each.

One study has them all, so that each is also a test that the others were not disturbed.
"""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from conftest import journal_events
from study_events import WrittenStudy, study_spec

from esam_tune.journal import Journal
from esam_tune.study import cluster, runner
from esam_tune.study.agenda import SearchAgenda
from esam_tune.study.hang_watch import HangWatch
from esam_tune.study.proposals import Proposals
from esam_tune.study.record import StudyRecord
from esam_tune.study.runner import run_trials
from esam_tune.study.study_run import StudyRun
from esam_tune.study.trial_record import TrialRecord
from esam_tune.trial import RunRequest, run_here

pytestmark = [pytest.mark.ray, pytest.mark.slow]

EPOCHS = 4
EXACT = ("epoch", "train_loss", "val_loss", "val_accuracy", "step_flops_ratio", "sharpness")
LABELS = ("hangs", "dies", "short of memory", "storage gone", "torn", "undisturbed")


def disturbed(notes: str) -> Callable[[Mapping[str, Any]], None]:
    """Tune's trainable, in which trials meet what their labels say.

    Defined in here, so that it travels to the worker's process by value.

    Args:
        notes: folder that receives an empty file for each attempt at a trial.
    """

    def trainable(request: Mapping[str, Any]) -> None:
        import os
        import time
        import uuid
        from pathlib import Path

        from esam_tune import trial

        number = request["run_id"]
        attempt = len(list(Path(notes).glob(f"{number}-*")))
        Path(notes, f"{number}-{uuid.uuid4().hex}").touch()
        plain = trial.run_worker

        def run_worker(run: Any, emit: Any, own: Any, **place: Any) -> None:
            def meet(metrics: dict[str, Any], folder: str | None) -> None:
                epoch = metrics["epoch"]
                if number == "0000" and epoch == 2:
                    Path(notes, f"asleep-{number}").touch()
                    time.sleep(3600)
                if number == "0001" and epoch == 3:
                    os._exit(1)
                if number == "0002" and epoch == 2:
                    raise MemoryError
                if number == "0003" and epoch == 3 and attempt == 0:
                    raise OSError(28, "No space left on device")
                if number == "0004" and epoch == 4 and attempt == 0:
                    for newest in sorted(Path(notes).parent.rglob(f"{number}-*/checkpoint_*"))[-1:]:
                        file = newest / "state-0.pt"
                        file.write_bytes(file.read_bytes()[:1000])
                    os._exit(1)
                emit(metrics, folder)

            plain(run, meet, own, **place)

        trial.run_worker = run_worker
        try:
            trial.run_in_process(request)
        finally:
            trial.run_worker = plain

    return trainable


class Study:
    """A study of six baselines and a search trial, and what its journal tells."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.notes = folder / "tune" / "notes"
        self.notes.mkdir(parents=True)
        # Settings apart by their learning rates alone.
        baselines = [
            {"label": label, "optimizer": "sgd", "lr": 0.01 * (1 + index)}
            for index, label in enumerate(LABELS)
        ]
        self.spec = study_spec(
            trials=1,
            training={"epochs": EPOCHS, "batch_size": 256, "lr": 0.05},
            search={"optimizer": "sgd", "lr": {"low": 0.01, "high": 0.1}},
            baselines=baselines,
        )
        path = folder / "small" / "journal.jsonl"
        WrittenStudy(path, self.spec).writer.close()
        writer = Journal(path)
        record = StudyRecord.from_journal(path)
        storage = str(folder / "tune" / "groups")
        request = RunRequest(
            settings={},
            run_id="",
            storage=storage,
            max_failures=1,
            checkpoint_seconds=0.0,
            max_epoch_seconds=30.0,
        )
        proposals = Proposals(folder / "optuna.db", self.spec)
        study_run = StudyRun(record, writer, SearchAgenda(record, proposals), request)
        monkeypatch.setattr(runner, "run_in_process", disturbed(str(self.notes)))
        # A clock that stands still but for the trial that hangs, when all others have ended: how
        # fast this machine is has no part in it.
        seconds = [0.0]
        watch = functools.partial(HangWatch, clock=lambda: seconds[0])
        monkeypatch.setattr(runner, "HangWatch", watch)

        def on_step() -> None:
            running = [run.run_id for run in record.runs.values() if run.state == "running"]
            asleep = (self.notes / "asleep-0000").exists()
            if asleep and running == ["0000"] and study_run.remaining == 0:
                seconds[0] += 9.0

        with cluster.connected(None, distributed=False):
            before = ray.available_resources()["CPU"]
            run_trials(study_run, folder / "tune" / "000", max_concurrent=2, on_step=on_step)
            self.freed = self._freed(before)
        writer.close()
        self.events = journal_events(folder, "small")
        self.record = StudyRecord.from_journal(path)
        self.trials: dict[str, TrialRecord] = {t.label: t for t in self.record.trials.values()}

    @staticmethod
    def _freed(cores: float) -> bool:
        """Whether all cores come back, which takes Ray a moment."""
        for _ in range(100):
            if ray.available_resources().get("CPU") == cores:
                return True
            time.sleep(0.1)
        return False

    def attempts(self, label: str) -> int:
        return len(list(self.notes.glob(f"{self.trials[label].trial_id}-*")))

    def history(self, label: str) -> list[dict[str, Any]]:
        of = self.trials[label].trial_id
        return [e["metrics"] for e in self.events if e["event"] == "epoch" and e["trial_id"] == of]

    def alone(self, label: str) -> list[dict[str, Any]]:
        """What the trial reports when nothing happens to it."""
        torch.set_num_threads(1)
        reports: list[dict[str, Any]] = []
        settings = self.spec.settings(self.trials[label].params, {}).to_dict()
        request = RunRequest(settings=settings, run_id="alone", storage="", checkpoint_seconds=1e9)
        run_here(request, lambda metrics, folder: reports.append(metrics))
        return reports


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    with pytest.MonkeyPatch.context() as monkeypatch:
        return Study(tmp_path_factory.mktemp("study"), monkeypatch)


def exact(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: metrics.get(key) for key in EXACT} for metrics in history]


def test_a_trial_that_hangs_is_ended_by_the_limit_and_not_tried_again(study: Study) -> None:
    trial = study.trials["hangs"]
    assert (trial.state, trial.reason) == ("failed", "hung: no epoch ended within 30 s")
    assert study.attempts("hangs") == 1
    assert [m["epoch"] for m in study.history("hangs")] == [1]
    assert study.freed


def test_a_trial_that_dies_again_and_again_fails_for_good_with_its_reason(study: Study) -> None:
    trial = study.trials["dies"]
    assert trial.state == "failed"
    assert study.attempts("dies") == 2
    assert trial.reason is not None
    assert "died" in trial.reason
    assert [m["epoch"] for m in study.history("dies")] == [1, 2]


def test_what_would_come_again_is_not_tried_again(study: Study) -> None:
    trial = study.trials["short of memory"]
    assert trial.state == "failed"
    assert trial.reason is not None
    assert "out of memory: use a smaller batch_size" in trial.reason
    assert study.attempts("short of memory") == 1


def test_a_storage_that_was_gone_for_a_moment_costs_an_attempt_alone(study: Study) -> None:
    assert study.trials["storage gone"].state == "complete"
    assert study.attempts("storage gone") == 2
    assert exact(study.history("storage gone")) == exact(study.alone("storage gone"))


def test_a_torn_checkpoint_is_refused_and_the_study_ends_as_if_undisturbed(study: Study) -> None:
    assert study.attempts("torn") == 2
    checkpoints = defaultdict(int)
    for event in study.events:
        checkpoints[event.get("trial_id")] += event["event"] == "checkpoint"
    # One of each of the first three epochs, and the third's again after its first was torn.
    assert checkpoints[study.trials["torn"].trial_id] == 4
    assert exact(study.history("torn")) == exact(study.alone("torn"))


def test_the_others_are_not_disturbed_and_the_study_goes_on(study: Study) -> None:
    assert exact(study.history("undisturbed")) == exact(study.alone("undisturbed"))
    states = {label: study.trials[label].state for label in LABELS}
    assert [states[label] for label in LABELS[:3]] == ["failed"] * 3
    assert [trial.state for trial in study.trials.values()].count("complete") == 4
    ends = [event["trial_id"] for event in study.events if event["event"] == "trial_end"]
    assert len(ends) == len(set(ends)) == 7


def hanging_group(asleep: str) -> Callable[[Mapping[str, Any]], None]:
    """Tune's trainable, in which the first trial's last worker hangs in the second epoch.

    Args:
        asleep: file that is there when it does.
    """

    def trainable(request: Mapping[str, Any]) -> None:
        from esam_tune import worker_group

        def member(request: Mapping[str, Any]) -> None:
            import time
            from pathlib import Path

            # In a worker's own process, where nothing of this is replaced yet.
            from esam_tune import worker_group

            plain = worker_group.run_worker

            def run_worker(run: Any, emit: Any, own: Any, *, rank: int, **place: Any) -> None:
                def meet(metrics: dict[str, Any], folder: str | None) -> None:
                    last = rank == run.workers - 1
                    if run.run_id == "0000" and last and metrics["epoch"] == 2:
                        Path(asleep).touch()
                        time.sleep(3600)
                    emit(metrics, folder)

                plain(run, meet, own, rank=rank, **place)

            worker_group.run_worker = run_worker
            worker_group.train_group_member(request)

        worker_group.train_group_member = member
        worker_group.run_in_group(request)

    return trainable


@pytest.mark.long
def test_a_group_whose_worker_hangs_gives_its_workers_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = cluster.local_cores()
    if workers < 2:
        pytest.skip("needs two cores")
    spec = study_spec(
        trials=1,
        training={"epochs": 2, "batch_size": workers * 64, "lr": 0.05},
        search={"optimizer": "sgd", "lr": {"low": 0.01, "high": 0.1}},
        baselines=[{"label": "hangs", "optimizer": "sgd"}],
    )
    path, asleep = tmp_path / "small" / "journal.jsonl", tmp_path / "asleep"
    WrittenStudy(path, spec).writer.close()
    writer, record = Journal(path), StudyRecord.from_journal(path)
    # All cores: the second trial starts only when the first one's are free again.
    storage = str(tmp_path / "tune" / "groups")
    request = RunRequest(
        settings={}, run_id="", storage=storage, workers=workers, max_epoch_seconds=30.0
    )
    agenda = SearchAgenda(record, Proposals(tmp_path / "optuna.db", spec))
    seconds = [0.0]
    monkeypatch.setattr(runner, "run_in_group", hanging_group(str(asleep)))
    watch = functools.partial(HangWatch, clock=lambda: seconds[0])
    monkeypatch.setattr(runner, "HangWatch", watch)

    def on_step() -> None:
        if asleep.exists() and record.runs["0000"].state == "running":
            seconds[0] += 9.0

    with cluster.connected(None, distributed=True):
        run_trials(
            StudyRun(record, writer, agenda, request),
            tmp_path / "tune" / "000",
            max_concurrent=1,
            on_step=on_step,
        )
    writer.close()
    hung, whole = record.trials.values()
    assert (hung.state, hung.reason) == ("failed", "hung: no epoch ended within 30 s")
    assert hung.epochs == 1
    assert (whole.state, whole.epochs) == ("complete", 2)
