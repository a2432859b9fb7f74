"""The worker group that a scaling study runs on a Ray cluster."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from esam_tune.errors import RunFailedError
from esam_tune.failures import describe
from esam_tune.scaling.records import Cell, Measurement, Plan
from esam_tune.study.placement import Placement
from esam_tune.trial import worker_device
from esam_tune.worker_group import worker_group


def run_study(
    plan: Plan, trainings: Sequence[Cell], placement: Placement
) -> tuple[Measurement, list[dict[str, float]]]:
    """Measure a plan, then train, on one group of as many workers as the largest count.

    Args:
        plan: what to time.
        trainings: what to train to its end, each on its own count.
        placement: what each worker takes.

    Returns:
        The measurement, and the last epoch's metrics of each training.

    Raises:
        RunFailedError: when a worker fails or a training diverges.
    """
    from ray import train
    from ray.train.torch import TorchTrainer

    gpus = placement.gpus_per_worker
    config = {
        "plan": plan.to_dict(),
        "trainings": [asdict(cell) for cell in trainings],
        "threads": placement.threads,
        "gpus": gpus,
    }
    # Nothing is kept there: the first worker's answer comes back through Ray.
    with tempfile.TemporaryDirectory(prefix="esam-tune-") as scratch:
        trainer = TorchTrainer(
            _member,
            train_loop_config=config,
            **worker_group(max(cell.workers for cell in plan.cells), placement.threads, gpus),
            run_config=train.RunConfig(name="scale", storage_path=scratch),
        )
        try:
            found = trainer.fit().return_value
        except Exception as error:
            raise RunFailedError(f"the study failed: {describe(error)}") from error
    return Measurement.from_dict(found["measurement"]), found["trainings"]


def _member(config: Mapping[str, Any]) -> dict[str, Any]:
    """What each worker runs; the first one's answer counts."""
    import torch

    from esam_tune.scaling.measurement import measure
    from esam_tune.scaling.trainings import train_cells

    torch.set_num_threads(config["threads"])
    device = worker_device(config["gpus"], grouped=True)
    measured = measure(Plan.from_dict(config["plan"]), device)
    trained = train_cells([Cell(**cell) for cell in config["trainings"]], device)
    return {"measurement": measured.to_dict(), "trainings": trained}
