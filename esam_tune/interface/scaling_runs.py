"""Scaling studies in Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console

from esam_tune.config import TrialSettings
from esam_tune.domains import COUNT, ROUNDS, WORKERS_AHEAD
from esam_tune.errors import InputError
from esam_tune.interface.arguments import (
    STORAGE,
    Settings,
    StrPath,
    awaited_room,
    mlflow_uri,
    progress_console,
    run_settings,
    storage_folder,
    text_or_none,
    worker_shape,
)
from esam_tune.interface.calls import interruptible, taking
from esam_tune.scaling.described_network import described_network
from esam_tune.scaling.study import ScaleOptions, default_name
from esam_tune.study.space import check_name


@dataclass(frozen=True, kw_only=True)
class ScaleRequest:
    """A scaling study to run.

    Args:
        settings: of the chosen setting.
        options: how it is run.
        console: receives the progress.
    """

    settings: TrialSettings
    options: ScaleOptions
    console: Console


def scale_request(
    settings: Settings,
    *,
    workers: Sequence[int],
    mode: Literal["strong", "weak"] = "strong",
    lr_rule: str | None = None,
    name: str | None = None,
    rounds: int = 10,
    steps: int = 20,
    accuracy: bool = False,
    predict_to: int = 1024,
    network: str | None = None,
    gpus_per_worker: float | None = None,
    cpus_per_worker: int | None = None,
    address: str | None = None,
    await_workers: int | None = None,
    tracking_uri: str | None = None,
    storage: StrPath = STORAGE,
    console: Console | None = None,
) -> ScaleRequest:
    """What ``scale`` is asked.

    Args:
        settings: path of a settings file, what one holds, or a pick.
        workers: counts to measure, 1 among them.
        mode: ``strong`` shares one batch out, ``weak`` gives each worker one of its own.
        lr_rule: how the learning rate follows the batch; linear if weak by default.
        name: of the study; the mode and a count by default.
        rounds: measurements, 3 at least.
        steps: timed steps of each.
        accuracy: whether to train to the end at every count.
        predict_to: largest count to predict.
        network: to predict for, too, such as ``latency=20us,bandwidth=10Gbit``.
        gpus_per_worker: GPUs of each worker, or its share of one.
        cpus_per_worker: CPU cores of each.
        address: of a running Ray cluster; None starts one for the time of the call.
        await_workers: room for so many that the cluster is to make before anything begins; needs
            ``address`` and ``gpus_per_worker``.
        tracking_uri: of MLflow; by default ``$MLFLOW_TRACKING_URI``, or a store in the storage.
        storage: folder of all studies.
        console: receives the progress; stderr by default.

    Raises:
        InputError: for what cannot be used.
    """
    shape = worker_shape(cpus_per_worker, gpus_per_worker)
    cluster = text_or_none("--address", address)
    where = storage_folder(storage)
    return ScaleRequest(
        settings=run_settings(settings),
        options=ScaleOptions(
            storage=where,
            name=check_name("--name", default_name(where, mode) if name is None else name),
            workers=_counts(workers),
            mode=mode,
            lr_rule=lr_rule,
            rounds=int(ROUNDS.check("--rounds", rounds)),
            steps=int(COUNT.check("--steps", steps)),
            predict_to=int(WORKERS_AHEAD.check("--predict-to", predict_to)),
            network=None if network is None else described_network(network),
            accuracy=bool(accuracy),
            shape=shape,
            room=awaited_room(await_workers, shape, cluster),
            tracking_uri=mlflow_uri(tracking_uri),
            address=cluster,
        ),
        console=progress_console(console),
    )


def _counts(workers: object) -> list[int]:
    if isinstance(workers, str) or not isinstance(workers, Sequence):
        raise InputError("--workers", f"must be counts, got {workers!r}", "for example [1, 2, 4]")
    return [int(COUNT.check("--workers", count)) for count in workers]


@taking(scale_request)
def scale(request: ScaleRequest) -> dict[str, Any]:
    """Measure and predict how a setting, SGD and SAM scale over workers.

    Returns:
        The document that ``esam-tune scale --json`` prints.

    Raises:
        InputError: for what can be seen to be wrong before anything starts.
        RunFailedError: when a worker fails; nothing is left behind.
        KeyboardInterrupt: after an interruption, likewise.
    """
    from esam_tune.scaling.study import scale

    with interruptible("the scaling study"):
        return scale(request.settings, request.options, request.console.print)
