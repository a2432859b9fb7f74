"""A study's append-only record: what every other view of the study is derived from.

One JSON object a line. The process that runs the study is its only writer; the pareto verb, the
sampler's database and the tracking server are brought up to date from it, so a death between any
two writes loses nothing that was reported. A torn end, left by a death in mid-write or by a power
loss, is cut off when the writer returns and passed over by readers; any other damage is refused.
"""

import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from esam_tune.errors import InputError

Event = dict[str, Any]

# Kinds of events.
# The first line: study_id, space, workers_per_trial (the most), min_workers (of an elastic range,
# or null), checkpoint_storage and tracking_uri (null: in the storage), versions, and the study's
# provenance: git_commit (of its space file, or null), device, dataset (name, digest, profile)
STUDY = "study"
# trial_id, params, baseline, label, optuna_number, seed, and setup: a worker_scaling.BatchSetup
TRIAL_START = "trial_start"
# trial_id: of the new run, in this event and all that follow of it; of: the trial whose setting it
# trains once more; seed, setup
REPLICATE_START = "replicate_start"
WORKERS = "workers"  # trial_id, setup: an elastic trial goes on with another count
EPOCH = "epoch"  # trial_id, metrics
CHECKPOINT = "checkpoint"  # trial_id, path
TRIAL_END = "trial_end"  # trial_id, state, reason
STUDY_RESUME = "study_resume"  # another process goes on with the study
# state, artifacts (paths of files and folders, from the study's folder or absolute), front,
# dominated, chosen
STUDY_END = "study_end"
BUDGET = "budget"  # space: with the budget that --resume asked for
# A final training's journal has, beside EPOCH (metrics) and CHECKPOINT (path):
# The first line: training_id; settings (as found) and workers, rule; threads (of torch, where it
# trains in the verb's own process, else null); checkpoint_storage and tracking_uri (null: in the
# storage); dataset (name, digest, profile); versions
TRAINING = "training"
TRAINING_RESUME = "training_resume"  # another process goes on with it
# metrics of the last epoch, with the test split's, and weights_digest: written after the weights,
# so that the one reading of the test split and the weights that it was taken of go together
TRAINING_END = "training_end"


class JournalError(InputError):
    """The journal holds something its writer never wrote.

    Args:
        path: of the journal.
        problem: what is wrong with it.
        remedy: what to do about it.
    """

    def __init__(
        self, path: Path, problem: str, remedy: str = "restore the file from a copy"
    ) -> None:
        super().__init__("STUDY", f"{str(path)!r} {problem}", remedy)

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str, str]]:
        """Survive the trip from another process as the plain mistake that it is."""
        return InputError, (self.field, self.problem, self.remedy)


# Runs an attempt that may raise OSError, as often as it sees fit.
Patience = Callable[[Callable[[], None]], None]


def no_patience(attempt: Callable[[], None]) -> None:
    """Try once."""
    attempt()


class Journal:
    """The writing end of a journal: an event is written whole or not at all.

    Args:
        path: of the file; created when it does not exist.
        patience: what becomes of an event that cannot be written, the disk being full or gone; by
            default the error is the caller's.

    Raises:
        OSError: when the file cannot be opened.
    """

    def __init__(self, path: Path, patience: Patience = no_patience) -> None:
        self.path = path
        self._patience = patience
        self._size, latest = _whole(path)
        # What an attempt that failed may have left behind the last whole event.
        self._torn = b""
        self._descriptor: int | None = None
        self._open(os.O_CREAT)
        # The system's clock may be set back while a study runs, and between two processes of it.
        self._begun = max(time.time(), latest)
        self._clock = _seconds()

    def append(self, kind: str, *, durable: bool = False, **content: Any) -> Event:
        """Write one event.

        Args:
            kind: one of this module's constants.
            durable: whether to wait for the disk: for events that no one could recompute.
            content: JSON values.

        Raises:
            OSError: when the disk is full or gone, and patience at its end; nothing is written.
            JournalError: when another process has written to the journal meanwhile.
        """
        event = {"event": kind, "time": self._begun + _seconds() - self._clock, **content}
        line = json.dumps(event, allow_nan=False).encode() + b"\n"
        self._patience(lambda: self._write(line, durable=durable))
        return event

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _write(self, line: bytes, *, durable: bool) -> None:
        if self._descriptor is None:
            self._open()
        assert self._descriptor is not None
        try:
            self._require_unchanged(os.fstat(self._descriptor))
            left = memoryview(line)
            while left:
                left = left[os.write(self._descriptor, left) :]
            if durable:
                os.fsync(self._descriptor)
        except OSError:
            self._torn = line
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            # Where a storage was gone for a while, its old descriptors stay dead.
            with suppress(OSError):
                self.close()
            self._descriptor = None
            raise
        self._size += len(line)

    def _require_unchanged(self, found: os.stat_result) -> None:
        if not found.st_nlink:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path))
        if found.st_size != self._size:
            raise JournalError(
                self.path,
                "was changed by another process meanwhile",
                "let one process alone run a study; --resume goes on with it",
            )

    def _open(self, flags: int = 0) -> None:
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | flags, 0o644)
        # At the start a torn end, later what this process itself left.
        behind = os.pread(self._descriptor, len(self._torn) + 1, self._size)
        if behind and (flags or self._torn.startswith(behind)):
            os.ftruncate(self._descriptor, self._size)
        self._torn = b""
        if flags:
            # A new file's name must outlive a power loss, too.
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def read(path: Path, offset: int = 0) -> Iterator[tuple[Event, int]]:
    """Yield each whole event from a byte offset on, with the offset behind it.

    Raises:
        JournalError: for a line that is not an event.
    """
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            try:
                event = json.loads(line)
                event["event"], float(event["time"])
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                if _lost_power(line, file):
                    return
                number = _lines_before(path, offset) + 1
                raise JournalError(
                    path,
                    f"is damaged in line {number}, before byte {offset + len(line)} ({error})",
                    f"restore the file from a copy, or mend the line; `head -n {number - 1}` gives "
                    "what comes before it",
                ) from error
            offset += len(line)
            yield event, offset


# Events that are written durably, so that no power loss can tear what comes before one.
_DURABLE = frozenset(
    {STUDY, TRIAL_START, REPLICATE_START, TRIAL_END, STUDY_END, BUDGET, TRAINING, TRAINING_END}
)


def _lost_power(line: bytes, rest: Iterator[bytes]) -> bool:
    """Whether a line is what a power loss leaves: blocks of zeros that had not reached the disk.

    Then nothing durable can follow it.
    """
    if b"\0" not in line:
        return False
    for later in rest:
        with suppress(ValueError, TypeError, KeyError):
            if json.loads(later)["event"] in _DURABLE:
                return False
    return True


def _lines_before(path: Path, offset: int) -> int:
    with path.open("rb") as file:
        return file.read(offset).count(b"\n")


def _whole(path: Path) -> tuple[int, float]:
    """Bytes up to the end of the last whole event, and its time; zeros where there is none."""
    size, latest = 0, 0.0
    if path.exists():
        for event, size in read(path):  # noqa: B007 - the last ones count
            latest = float(event["time"])
    return size, latest


def _seconds() -> float:
    """Seconds of a clock that nothing sets, and that goes on while the machine sleeps."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)
