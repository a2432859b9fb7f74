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
    found = _run_group(_measure, {"plan": plan.to_dict()}, workers, placement)
    return Measurement.from_dict(found)


def run_trainings(
    settings: Sequence[TrialSettings], workers: int, placement: Placement
) -> list[dict[str, float]]:
    """Train settings one after the other on one group; the last epoch's metrics of each.

    The test split is not read.

    Raises:
        RunFailedError: when a worker fails or a training diverges.
    """
    config = {"settings": [one.to_dict() for one in settings], "workers": workers}
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
    from ray.train.torch import TorchConfig, TorchTrainer

    gpus = placement.gpus_per_worker
    resources = {"CPU": float(placement.threads), **({"GPU": gpus} if gpus else {})}
    # Nothing is kept there: the first worker's answer comes back through Ray.
    with tempfile.TemporaryDirectory(prefix="esam-tune-") as scratch:
        trainer = TorchTrainer(
            member,
            train_loop_config={**config, "threads": placement.threads, "gpus": gpus},
            # NCCL refuses two workers of a group on one GPU, which shares of it bring about.
            torch_config=TorchConfig(backend="gloo" if 0 < gpus < 1 else None),
            scaling_config=train.ScalingConfig(
                num_workers=workers,
                use_gpu=gpus > 0,
                resources_per_worker=resources,
            ),
            run_config=train.RunConfig(name="scale", storage_path=scratch),
        )
        try:
            return trainer.fit().return_value
        except Exception as error:
            raise RunFailedError(f"the study failed: {describe(error)}") from error


def _measure(config: dict[str, Any]) -> dict[str, Any]:
    from esam_tune.scaling.measurement import measure

    return measure(Plan.from_dict(config["plan"]), _device(config)).to_dict()


def _train(config: dict[str, Any]) -> list[dict[str, float]]:
    from ray import train as ray_train

    from esam_tune.training import Worker, train

    worker = Worker(
        rank=ray_train.get_context().get_world_rank(),
        workers=config["workers"],
        device=_device(config),
    )
    last: list[dict[str, float]] = []
    for document in config["settings"]:
        epochs: list[dict[str, float]] = []

        def report(metrics: dict[str, float], _state: object, epochs: Any = epochs) -> None:
            epochs.append(dict(metrics))

        train(trial_settings(document), report, worker=worker)
        last.append(epochs[-1])
    return last


def _device(config: Mapping[str, Any]) -> Any:
    """This worker's device, after setting its threads."""
    import torch
    from ray.train.torch import get_device

    torch.set_num_threads(config["threads"])
    # A cluster may promise GPUs by name alone.
    return get_device() if config["gpus"] and torch.cuda.is_available() else torch.device("cpu")
