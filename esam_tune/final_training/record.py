"""What a final training's journal tells: how it began, its epochs, where it can go on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from esam_tune import journal
from esam_tune.errors import InputError
from esam_tune.journal import (
    CHECKPOINT,
    EPOCH,
    TRAINING,
    TRAINING_END,
    TRAINING_RESUME,
    Event,
    JournalError,
)
from esam_tune.metrics import EPOCH as EPOCH_METRIC

Metrics = dict[str, float | None]


class TrainingRecord:
    """A training so far.

    Args:
        started: the journal's first event.
    """

    def __init__(self, started: Event) -> None:
        self.started = started
        self.history: list[Metrics] = []
        self._times: list[float] = []
        self.checkpoints: list[str] = []
        self.attempts = 0
        self.seconds = 0.0
        self.weights_digest: str | None = None
        self._attempt: tuple[float, float] = (0.0, 0.0)
        self.apply(started)

    @classmethod
    def read(cls, path: Path) -> TrainingRecord:
        """Read a training back.

        Raises:
            InputError: naming ``--name``, when the journal is damaged or holds something else.
        """
        record: TrainingRecord | None = None
        try:
            for event, end in journal.read(path):
                try:
                    if record is None:
                        if event["event"] != TRAINING:
                            raise JournalError(path, "does not begin with a training")
                        record = cls(event)
                    else:
                        record.apply(event)
                except (KeyError, TypeError) as error:
                    raise JournalError(
                        path,
                        f"holds something that no training writes, before byte {end} "
                        f"({type(error).__name__}: {error})",
                    ) from error
            if record is None:
                raise JournalError(path, "is empty")
        except JournalError as error:
            raise InputError("--name", error.problem, error.remedy) from None
        return record

    def apply(self, event: Event) -> None:
        """Take one event in."""
        kind = event["event"]
        if kind in (TRAINING, TRAINING_RESUME):
            self.attempts += 1
            self._attempt = (event["time"], self.seconds)
        elif kind in (EPOCH, TRAINING_END):
            self.history.append(event["metrics"])
            self._times.append(event["time"])
            # What lies between two processes is not the training's time.
            begun, before = self._attempt
            self.seconds = before + event["time"] - begun
        elif kind == CHECKPOINT:
            self.checkpoints.append(event["path"])
        if kind == TRAINING_END:
            self.weights_digest = event["weights_digest"]

    @property
    def epochs(self) -> int:
        """Epochs reported so far."""
        return int(self.history[-1][EPOCH_METRIC] or 0) if self.history else 0

    @property
    def timed_history(self) -> list[tuple[Metrics, float]]:
        """Metrics of each epoch so far, and the Unix time of its report."""
        return list(zip(self.history, self._times, strict=True))

    @property
    def done(self) -> bool:
        """Whether it has reached its end: weights and test accuracy are there."""
        return self.weights_digest is not None

    @property
    def training_id(self) -> str:
        """Its own, in every storage."""
        return str(self.started["training_id"])

    def to_dict(self) -> dict[str, Any]:
        """Its part of the document that ``esam-tune train --json`` prints."""
        return {
            "metrics": self.history[-1],
            "history": self.history,
            "seconds": self.seconds,
            "weights_digest": self.weights_digest,
        }
