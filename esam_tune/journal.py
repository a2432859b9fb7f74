"""A study's append-only record: what every other view of the study is derived from.

One JSON object a line. The process that runs the study is its only writer; the pareto verb, the
sampler's database and the tracking server are brought up to date from it, so a death between any
two writes loses nothing that was reported. A torn last line, left by a death in mid-write, is cut
off when the writer returns and passed over by readers.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from esam_tune.errors import InputError

Event = dict[str, Any]

# Kinds of events.
# The first line: study_id, space, workers_per_trial (the most), min_workers (of an elastic range,
# or null), checkpoint_storage and tracking_uri (null: in the storage), versions
STUDY = "study"
# trial_id, params, baseline, label, optuna_number, and setup: a worker_scaling.BatchSetup
TRIAL_START = "trial_start"
WORKERS = "workers"  # trial_id, setup: an elastic trial goes on with another count
EPOCH = "epoch"  # trial_id, metrics
CHECKPOINT = "checkpoint"  # trial_id, path
TRIAL_END = "trial_end"  # trial_id, state, reason
STUDY_RESUME = "study_resume"  # another process goes on with the study
STUDY_END = "study_end"  # state, artifacts, front, dominated, chosen
BUDGET = "budget"  # space: with the budget that --resume asked for


class JournalError(InputError):
    """The journal holds something its writer never wrote.

    Args:
        path: of the journal.
        problem: what is wrong with it.
    """

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__("STUDY", f"{str(path)!r} {problem}", "restore the file from a copy")


class Journal:
    """The writing end of a journal.

    Args:
        path: of the file; created when it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _cut_torn_line(path)
        self._file: TextIO = path.open("a", encoding="utf-8")

    def append(self, kind: str, *, durable: bool = False, **content: Any) -> Event:
        """Write one event.

        Args:
            kind: one of this module's constants.
            durable: whether to wait for the disk: for events that no one could recompute.
            content: JSON values.

        Raises:
            OSError: when the disk is full or gone.
        """
        event = {"event": kind, "time": time.time(), **content}
        self._file.write(json.dumps(event, allow_nan=False) + "\n")
        self._file.flush()
        if durable:
            os.fsync(self._file.fileno())
        return event

    def close(self) -> None:
        """Close the file."""
        self._file.close()


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
            offset += len(line)
            try:
                event = json.loads(line)
                event["event"], event["time"]
            except (ValueError, TypeError, KeyError) as error:
                raise JournalError(path, f"is damaged before byte {offset} ({error})") from error
            yield event, offset


def _cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    with path.open("rb+") as file:
        whole = 0
        for line in file:
            if not line.endswith(b"\n"):
                break
            whole += len(line)
        file.truncate(whole)
