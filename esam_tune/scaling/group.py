"""The worker groups that a scaling study runs on a Ray cluster."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from esam_tune.config import TrialSettings, trial_settings
from esam_tune.errors import RunFailedError
from esam_tune.scaling.records import Measurement, Plan
from esam_tune.study.placement import Placement
from esam_tune.trial import describe


def run_measurement(plan: Plan, workers: int, placement: Placement) -> Measurement:
    """Measure a plan on one group of as many workers as its largest count.

    Raises:
        RunFailedError: when a worker fails.
    """
    found = _run_group(
        _measure, {"plan": plan.to_dict(), "threads": placement.threads}, workers, placement
    )
    return Measurement.from_dict(found)


def run_trainings(
    settings: Sequence[TrialSettings], workers: int, placement: Placement
) -> list[dict[str, float]]:
    """Train settings one after the other on one group; the last epoch's metrics of each.

    The test split is not read.

    Raises:
        RunFailedError: when a worker fails or a training diverges.
    """
    config = {
        "settings": [one.to_dict() for one in settings],
        "workers": workers,
        "threads": placement.threads,
    }
    found: list[dict[str, float]] = _run_group(_train, config, workers, placement)
    return found


def _run_group(
    member: Callable[[dict[str, Any]], Any],
    config: Mapping[str, Any],
    workers: int,
    placement: Placement,
) -> Any:
    """Run a function on every worker of a group; what the first worker's returns."""
    from ray import train
    from ray.train.torch import TorchTrainer

    resources = {"CPU": float(placement.threads)}
    if placement.gpus_per_worker:
        resources["GPU"] = placement.gpus_per_worker
    # Nothing is kept there: the first worker's answer comes back through Ray.
    with tempfile.TemporaryDirectory(prefix="esam-tune-") as scratch:
        trainer = TorchTrainer(
            member,
            train_loop_config=dict(config),
            scaling_config=train.ScalingConfig(
                num_workers=workers,
                use_gpu=placement.gpus_per_worker > 0,
                resources_per_worker=resources,
            ),
            run_config=train.RunConfig(name="scale", storage_path=scratch),
        )
        try:
            return trainer.fit().return_value
        except Exception as error:
            raise RunFailedError(f"the study failed: {describe(error)}") from error


def _measure(config: dict[str, Any]) -> dict[str, Any]:
    import torch
    from ray.train.torch import get_device

    from esam_tune.scaling.measurement import measure

    torch.set_num_threads(config["threads"])
    return measure(Plan.from_dict(config["plan"]), get_device()).to_dict()


def _train(config: dict[str, Any]) -> list[dict[str, float]]:
    import torch
    from ray import train as ray_train
    from ray.train.torch import get_device

    from esam_tune.training import Worker, train

    torch.set_num_threads(config["threads"])
    worker = Worker(
        rank=ray_train.get_context().get_world_rank(),
        workers=config["workers"],
        device=get_device(),
    )
    last: list[dict[str, float]] = []
    for document in config["settings"]:
        epochs: list[dict[str, float]] = []

        def report(metrics: dict[str, float], _state: object, epochs: Any = epochs) -> None:
            epochs.append(dict(metrics))

        train(trial_settings(document), report, worker=worker)
        last.append(epochs[-1])
    return last
