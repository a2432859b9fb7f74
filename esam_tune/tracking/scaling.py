"""The runs of a scaling study: a parent, and under it one for each method and worker count."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from esam_tune.tracking.store import (
    DESCRIPTION_LENGTH,
    connect,
    experiment,
    log_metrics,
    log_params,
    log_tags,
)


def log_scaling(
    uri: str,
    artifact_root: Path | None,
    *,
    name: str,
    document: Mapping[str, Any],
    started: float,
    ended: float,
    artifacts: Sequence[Path],
) -> tuple[str, dict[tuple[str, int], str]]:
    """Log a finished scaling study.

    The parent has every measured quantity as a curve over the worker count, under the name of its
    method; each child has the quantities of one point, with both ends of their intervals.

    Args:
        uri: of the tracking server or store.
        artifact_root: where artifacts go, or None for the server's own choice.
        name: of the study.
        document: as ``esam-tune scale`` prints it.
        started: Unix time of the study's start.
        ended: Unix time of its end.
        artifacts: files to keep with the parent.

    Returns:
        The parent's run id, and the children's by method and count.
    """
    client = connect(uri)
    begin, end = int(started * 1000), int(ended * 1000)
    experiment_id = experiment(client, artifact_root)
    tags = {"esam_tune.scaling": name, "esam_tune.mode": document["mode"]}
    parent = client.create_run(
        experiment_id,
        start_time=begin,
        run_name=name,
        tags={**tags, "esam_tune.kind": "scaling"},
    )
    parent_id = str(parent.info.run_id)
    note = "\n\n".join(document["findings"])[:DESCRIPTION_LENGTH]
    versions = {f"version.{key}": str(value) for key, value in document["versions"].items()}
    log_tags(client, parent_id, {"mlflow.note.content": note, **versions})
    settings = document["settings"]
    log_params(
        client,
        parent_id,
        {
            **{f"task.{key}": value for key, value in settings["task"].items()},
            **{f"training.{key}": value for key, value in settings["training"].items()},
            "mode": document["mode"],
            "workers": ",".join(map(str, document["workers"])),
            "rounds": document["rounds"],
            "steps": document["steps"],
            "seed": settings["seed"],
        },
    )
    curves = []
    children = {}
    for method in document["methods"]:
        for point in method["points"]:
            workers = int(point["workers"])
            child = client.create_run(
                experiment_id,
                start_time=begin,
                run_name=f"{method['label']}, {workers} worker{'s' * (workers > 1)}",
                tags={**tags, "mlflow.parentRunId": parent_id, "esam_tune.kind": "scaling_point"},
            )
            children[method["method"], workers] = child_id = str(child.info.run_id)
            log_params(
                client, child_id, {**method["params"], **point["scaled"], "workers": workers}
            )
            values = _values(point)
            log_metrics(
                client, child_id, [(key, value, end, workers) for key, value in values.items()]
            )
            curves += [
                (f"{method['method']}/{key}", value, end, workers)
                for key, value in values.items()
                if not key.endswith((".low", ".high"))
            ]
            client.set_terminated(child_id, "FINISHED", end_time=end)
    modelled = _values(document["model"])
    curves += [(f"model/{key}", value, end, 0) for key, value in modelled.items()]
    log_metrics(client, parent_id, curves)
    for path in artifacts:
        client.log_artifact(parent_id, str(path))
    client.set_terminated(parent_id, "FINISHED", end_time=end)
    return parent_id, children


def _values(point: Mapping[str, Any]) -> dict[str, float]:
    """The finite quantities of a point, and the ends of those that have an interval."""
    found: dict[str, float] = {}
    for key, value in point.items():
        if isinstance(value, Mapping) and "value" in value:
            found[key] = value["value"]
            found |= {f"{key}.{end}": value[end] for end in ("low", "high")}
        elif isinstance(value, int | float) and key != "workers":
            found[key] = value
    return {key: float(value) for key, value in found.items() if value is not None}
