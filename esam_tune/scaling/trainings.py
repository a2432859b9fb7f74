"""Whole trainings on several worker counts, one after the other in one group of the largest."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from esam_tune.config import trial_settings
from esam_tune.scaling.records import Cell
from esam_tune.training import train
from esam_tune.worker import Worker

# Idle ranks wait for the whole training of the others.
_PATIENCE = timedelta(days=7)


def train_cells(cells: Sequence[Cell], device: torch.device) -> list[dict[str, float]]:
    """Train each cell to its end on its first ranks; run by every rank of the default group.

    The test split is not read.

    Args:
        cells: the same on every rank.
        device: of this rank.

    Returns:
        On rank 0 the last epoch's metrics of each cell; elsewhere nothing.

    Raises:
        DivergedError: when the loss of one is no longer finite.
    """
    rank = dist.get_rank()
    # A wait on gloo sleeps; one on NCCL would keep a core and the device's stream busy.
    everyone: Any = dist.new_group(backend="gloo", timeout=_PATIENCE)
    groups: dict[int, Any] = {
        workers: dist.new_group(list(range(workers)), timeout=_PATIENCE)
        for workers in sorted({cell.workers for cell in cells})
    }
    last: list[dict[str, float]] = []
    for cell in cells:
        if rank < cell.workers:
            epochs: list[dict[str, float]] = []

            def report(metrics: dict[str, float], _state: object, epochs: Any = epochs) -> None:
                epochs.append(dict(metrics))

            worker = Worker(
                rank=rank, workers=cell.workers, device=device, group=groups[cell.workers]
            )
            train(trial_settings(cell.settings), report, worker=worker)
            last.append(epochs[-1])
        dist.barrier(group=everyone)
    return last if rank == 0 else []
