"""A final training in motion: writes its reports down as they come."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

from esam_tune import metrics as keys
from esam_tune.checkpoint_storage import holds_checkpoint
from esam_tune.errors import RunFailedError
from esam_tune.failures import tells_divergence
from esam_tune.final_training.folder import TrainingFolder
from esam_tune.final_training.record import Metrics, TrainingRecord
from esam_tune.final_training.weights import save_weights, weights_digest
from esam_tune.journal import CHECKPOINT, EPOCH, TRAINING_END, Journal
from esam_tune.trial import CHECKPOINT_PATH, FAILURE

# Checkpoints that a training keeps: one, and one in case it is damaged.
KEPT = 2

OnEpoch = Callable[[Metrics], None]


class HopelessError(RunFailedError):
    """The training diverged: going on with it would end in the same way."""


class Recorder:
    """Keeps what a training reports.

    The last epoch's metrics hold the test split's. They are neither written nor shown before the
    weights they were taken of are on the disk: a process that is killed in between has shown its
    test accuracy to nobody, and the one that goes on reports it for the first time.

    Args:
        record: what is known so far; kept up to date.
        writer: of the training's journal.
        folder: of the training.
        epochs: of the whole training.
        on_epoch: receives each epoch's metrics, once.
    """

    def __init__(
        self,
        record: TrainingRecord,
        writer: Journal,
        folder: TrainingFolder,
        epochs: int,
        on_epoch: OnEpoch,
    ) -> None:
        self.record = record
        self._writer = writer
        self._folder = folder
        self._epochs = epochs
        self._on_epoch = on_epoch
        self._last: Metrics | None = None

    def receive(self, report: Mapping[str, Any]) -> None:
        """Take a report in: an epoch's metrics, where its checkpoint is, or a failure.

        Raises:
            RunFailedError: for a failure; its kind HopelessError for a training that diverged.
        """
        if FAILURE in report:
            raise _failed(str(report[FAILURE]))
        if keys.EPOCH in report:
            self._epoch(keys.reported(report))
        if CHECKPOINT_PATH in report:
            self.checkpoint(report[CHECKPOINT_PATH])

    def checkpoint(self, path: str) -> None:
        """Note where the training can be continued from; of the last epoch nothing is."""
        if self._last is None:
            self._append(CHECKPOINT, durable=True, path=path)

    def finish(self, weights: Mapping[str, Any]) -> None:
        """Keep the trained weights, and then the last epoch.

        Args:
            weights: state dict of the trained network.

        Raises:
            RunFailedError: when the training has not reported its last epoch.
            OSError: when the weights cannot be written.
        """
        if self._last is None:
            raise RunFailedError(
                f"the training ended after epoch {self.record.epochs} of {self._epochs}"
            )
        save_weights(weights, self._folder.weights)
        digest = weights_digest(weights)
        self._append(TRAINING_END, durable=True, metrics=self._last, weights_digest=digest)
        self._on_epoch(self._last)

    def checkpoints(self, where: str) -> tuple[str, ...]:
        """The checkpoints that are still there, newest first.

        Args:
            where: any place on the file system that holds them.
        """
        paths = reversed(self.record.checkpoints)
        return tuple(islice((p for p in paths if holds_checkpoint(where, p)), KEPT))

    def _epoch(self, metrics: Metrics) -> None:
        epoch = int(metrics[keys.EPOCH] or 0)
        # What goes on from a checkpoint trains again some epochs that were reported.
        if epoch <= self.record.epochs:
            return
        if epoch == self._epochs:
            self._last = metrics
            return
        self._append(EPOCH, metrics=metrics)
        self._on_epoch(metrics)

    def _append(self, kind: str, *, durable: bool = False, **content: Any) -> None:
        self.record.apply(self._writer.append(kind, durable=durable, **content))


def _failed(reason: str) -> RunFailedError:
    kind = HopelessError if tells_divergence(reason) else RunFailedError
    return kind(f"training failed: {reason}")
