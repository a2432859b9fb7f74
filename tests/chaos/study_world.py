"""A study without Ray: the real journal, record, agenda and rungs over trials that only count.

The world can end at any byte of any write. What survives is what lies on the disk: the journal, up
to the torn write or the last block that a power loss spared, and the checkpoints.
"""

from __future__ import annotations

import hashlib
import json
import random
import resource
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from study_events import WrittenStudy, study_spec

from esam_tune import journal
from esam_tune.config import complete_params
from esam_tune.journal import Journal
from esam_tune.run_state import load_state, save_state
from esam_tune.study.agenda import SearchAgenda
from esam_tune.study.record import StudyRecord
from esam_tune.study.study_run import StudyRun
from esam_tune.study.study_rungs import StudyRungs
from esam_tune.trial import FAILURE, RunRequest

EPOCHS = 3
SPACE: dict[str, Any] = {
    "training": {"epochs": EPOCHS, "batch_size": 64, "lr": 0.05},
    "baselines": [{"label": "SGD", "optimizer": "sgd"}],
    "trials": 4,
    "early_stopping": {"kind": "pareto", "grace_epochs": 1, "eta": 2},
}


class Crashed(BaseException):
    """The process is gone in the middle of a write."""


def chance(*seed: object) -> float:
    """A number of [0, 1) that depends on nothing but its arguments."""
    digest = hashlib.sha256(json.dumps(seed, sort_keys=True).encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


class FragileJournal(Journal):
    """A journal whose writes may meet a full disk, or be the process' last.

    Args:
        path: of the file.
        world: says what becomes of each write.
    """

    def __init__(self, path: Path, world: World) -> None:
        self.world = world
        super().__init__(path, self._until_it_works)

    def _until_it_works(self, attempt: Callable[[], None]) -> None:
        for _ in range(100):
            try:
                return attempt()
            except OSError:
                self.world.full = max(0, self.world.full - 1)
        raise AssertionError("the disk stayed full")

    def _write(self, line: bytes, *, durable: bool) -> None:
        world = self.world
        if world.full:
            # The kernel's own refusal: it takes a part of the line, as a full disk does.
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            room = self.path.stat().st_size + len(line) // 3
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
            try:
                super()._write(line, durable=durable)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
            raise AssertionError("a write beyond the limit was taken")
        if world.last_write == 0:
            with self.path.open("ab") as file:
                file.write(line[: round(world.last_bytes * len(line))])
            raise Crashed
        if world.last_write is not None:
            world.last_write -= 1
        super()._write(line, durable=durable)
        if durable:
            world.on_disk = self._size


class Sampler:
    """Proposes by what it has been told, as Optuna does."""

    def __init__(self, spec: Any) -> None:
        self.spec = spec
        self.told: dict[str, Any] = {}

    def settle(self, record: StudyRecord) -> None:
        self.told = {t.trial_id: self._result(t) for t in record.finished}

    def ask(self, index: int, trial_id: str) -> tuple[int, dict[str, Any]]:
        share = chance("ask", index, sorted(self.told.items()))
        low, high = 0.3, 1.0
        beta = round(low + share * (high - low), 6)
        params = {"optimizer": "esam", "beta": beta, "gamma": 0.5, "rho": 0.05}
        return index, complete_params("params", params)

    def tell(self, trial: Any) -> None:
        self.told[trial.trial_id] = self._result(trial)

    def _result(self, trial: Any) -> list[Any]:
        values = trial.values(self.spec.objectives) if trial.state == "complete" else []
        return [trial.state, *values]


@dataclass
class Training:
    """One run under way: only its epoch counts."""

    request: RunRequest
    epoch: int = 0
    stopping: bool = False


@dataclass
class World:
    """A study of a few trials of three epochs, and all that may happen to it.

    Args:
        folder: holds the journal and the checkpoints.
        seeds: runs of a setting.
        concurrent: runs at a time.
        events: what happened, for the one who reads a failure.
    """

    folder: Path
    seeds: int
    concurrent: int
    full: int = 0
    last_write: int | None = None
    last_bytes: float = 0.0
    on_disk: int = 0
    running: dict[str, Training] = field(default_factory=dict)
    deaths: int = 0

    def __post_init__(self) -> None:
        self.path = self.folder / "small" / "journal.jsonl"
        self.spec = study_spec(**SPACE, seeds=self.seeds)
        WrittenStudy(self.path, self.spec).writer.close()
        self.on_disk = self.path.stat().st_size
        self.open()

    def open(self) -> None:
        """Begin a process on what is on the disk."""
        self.last_write, self.full, self.running = None, 0, {}
        writer = FragileJournal(self.path, self)
        record = StudyRecord.from_journal(self.path)
        sampler = Sampler(self.spec)
        sampler.settle(record)
        writer.append(journal.STUDY_RESUME)
        self.rungs = StudyRungs.rebuilt(record, (event for event, _ in journal.read(self.path)))
        request = RunRequest(settings={}, run_id="", storage=str(self.folder))
        self.run = StudyRun(
            record,
            writer,
            SearchAgenda(record, sampler),
            request,
            self.rungs.stopped,
        )
        self.writer = writer
        self.run.end_stopped()

    def act(self, action: Callable[[], None]) -> None:
        """Do something in the process; if it is its last, begin the next one."""
        try:
            action()
        except Crashed:
            self.reopen()

    def reopen(self) -> None:
        """Lose all that is in memory, and begin again."""
        self.deaths += 1
        self.writer.close()
        self.open()

    def die(self) -> None:
        """SIGKILL between two writes."""
        self.reopen()

    def die_in_a_write(self, after: int, share: float) -> None:
        """SIGKILL in mid-write, of the ``after``-th next event, a share of which is on the disk."""
        self.last_write, self.last_bytes = after, share

    def lose_power(self, share: float, zeroed: bool) -> None:
        """Lose what was not durable: cut off, or blocks of zeros in its place."""
        content = self.path.read_bytes()
        loose = content[self.on_disk :]
        kept = round(share * len(loose))
        rest = loose[kept:]
        if zeroed and rest:
            # Blocks reach the disk in any order: a later one may be there.
            half = max(1, len(rest) // 2)
            rest = b"\0" * half + rest[half:]
        else:
            rest = b""
        self.path.write_bytes(content[: self.on_disk] + loose[:kept] + rest)
        self.reopen()

    def lose_checkpoint(self, pick: random.Random) -> None:
        """Lose the newest checkpoint of a run, folder and all."""
        for run in self.run.record.runs.values():
            if run.checkpoints and pick.random() < 0.5:
                shutil.rmtree(run.checkpoints[-1], ignore_errors=True)

    @property
    def room(self) -> bool:
        return len(self.running) < self.concurrent

    def start(self) -> None:
        """Hand out the next run, if there is one."""
        request = self.run.next_request()
        if request is not None:
            kept = self.run.record.runs[request.run_id].checkpoints
            left = [path for path in kept if Path(path).exists()]
            assert request.resume_from == tuple(reversed(left))
            epoch = int(load_state(left[-1], 0)["epoch"]) if left else 0
            self.running[request.run_id] = Training(request, epoch)

    def report(self, run_id: str) -> None:
        """Train an epoch, in the order in which Tune asks its scheduler and tells its callback."""
        training = self.running[run_id]
        if training.epoch >= EPOCHS or training.stopping:
            return self.end(run_id)
        training.epoch += 1
        if self.fails(training):
            self.run.report(run_id, {FAILURE: "DivergedError: loss is nan"})
            training.stopping = True
            return None
        result = self.metrics(training.request, training.epoch)
        goes_on = self.rungs.report(run_id, result)
        self.run.report(run_id, result)
        if not goes_on:
            self.run.stop(run_id)
            training.stopping = True
        return None

    def checkpoint(self, run_id: str) -> None:
        """Keep what a run has reached."""
        training = self.running[run_id]
        if training.epoch == 0 or training.stopping:
            return
        where = self.folder / "tune" / f"{self.deaths:03d}" / run_id / str(training.epoch)
        where.mkdir(parents=True, exist_ok=True)
        save_state(where, 0, 1, {"epoch": training.epoch})
        self.run.checkpoint(run_id, str(where))

    def end(self, run_id: str) -> None:
        self.run.end(run_id)
        del self.running[run_id]

    def finish(self) -> None:
        """Go on undisturbed until there is nothing left to do."""
        self.last_write, self.full = None, 0
        for _ in range(10_000):
            if self.room:
                self.start()
            if not self.running:
                return
            self.report(min(self.running))
        raise AssertionError("the study does not end")

    @staticmethod
    def fails(training: Training) -> bool:
        """Whether a run's loss is no number in this epoch: the same however often it is trained."""
        settings = training.request.settings
        return chance("fail", settings["params"], settings["seed"], training.epoch) < 0.06

    @staticmethod
    def metrics(request: RunRequest, epoch: int) -> dict[str, Any]:
        """What a run reports after an epoch: a function of its settings."""
        seed = ("metrics", request.settings["params"], request.settings["seed"])
        return {
            "epoch": epoch,
            "val_accuracy": (1 + chance(*seed) + epoch / 10) / 3,
            "val_loss": chance(*seed, epoch),
            "step_flops_ratio": 1 + chance(*seed[:2]),
        }

    def told(self) -> list[dict[str, Any]]:
        """The journal without times, places, and the marks that a process leaves."""
        passed_over = (journal.STUDY, journal.STUDY_RESUME, journal.CHECKPOINT)
        return [
            {key: value for key, value in event.items() if key != "time"}
            for event, _ in journal.read(self.path)
            if event["event"] not in passed_over
        ]
