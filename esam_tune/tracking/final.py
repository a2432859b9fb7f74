"""The run of a final training, logged when it is done."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from esam_tune.tracking.store import connect, experiment, log_metrics, log_params, points


def log_training(
    uri: str,
    artifact_root: Path | None,
    *,
    name: str,
    document: Mapping[str, Any],
    params: Mapping[str, Any] = MappingProxyType({}),
    started: float,
    artifacts: Sequence[Path],
) -> str:
    """Log the finished training of a chosen setting as a run of its own.

    Args:
        uri: of the tracking server or store.
        artifact_root: where artifacts go, or None for the server's own choice.
        name: of the run.
        document: as ``esam-tune train`` prints it: ``settings``, ``history`` and the rest.
        params: to log beside the settings: what another worker count made of them.
        started: Unix time of the training's start.
        artifacts: files to keep with the run.

    Returns:
        The run's id.
    """
    client = connect(uri)
    settings = document["settings"]
    run = client.create_run(
        experiment(client, artifact_root),
        start_time=int(started * 1000),
        run_name=name,
        tags={
            "esam_tune.kind": "training",
            **{f"esam_tune.origin.{k}": str(v) for k, v in settings["origin"].items()},
        },
    )
    run_id = str(run.info.run_id)
    logged_params = {
        **{f"task.{key}": value for key, value in settings["task"].items()},
        **{f"training.{key}": value for key, value in settings["training"].items()},
        **settings["params"],
        "seed": settings["seed"],
        "workers": document["workers"],
        **params,
    }
    log_params(client, run_id, logged_params)
    ended = int((started + document["seconds"]) * 1000)
    logged = [p for metrics in document["history"] for p in points(metrics, ended)]
    log_metrics(client, run_id, logged)
    for path in artifacts:
        client.log_artifact(run_id, str(path))
    client.set_terminated(run_id, "FINISHED", end_time=ended)
    return run_id
