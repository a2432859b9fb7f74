"""The run of a final training and its model, logged when it is done.

Every step may be repeated: run, model and version are found again by the training's id, and what a
process left unfinished the next one finishes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from esam_tune.tracking.store import (
    connect,
    experiment,
    log_dataset,
    log_metrics,
    log_params,
    log_tags,
    points,
)
from esam_tune.tracking.trained_model import TrainedModel, log_model

TRAINING_TAG = "esam_tune.training_id"
# Of a run that nothing is missing from.
_ENDED = "FINISHED"


@dataclass(frozen=True, kw_only=True)
class LoggedTraining:
    """What the tracking store has of a training.

    Args:
        run_id: of its run.
        model_id: of its model, or None where there is none.
    """

    run_id: str
    model_id: str | None


def log_training(
    uri: str,
    artifact_root: Path | None,
    *,
    name: str,
    begun: Mapping[str, Any],
    document: Mapping[str, Any],
    params: Mapping[str, Any] = MappingProxyType({}),
    lineage: Mapping[str, str] = MappingProxyType({}),
    ended: float,
    artifacts: Sequence[Path],
    model: TrainedModel | None,
) -> LoggedTraining:
    """Log the finished training of a chosen setting as a run of its own, with its model.

    Args:
        uri: of the tracking server or store.
        artifact_root: where artifacts go, or None for the server's own choice.
        name: of the run.
        begun: what is known of it since its start: ``training_id``, which tells it from all others,
            ``dataset`` and ``versions``.
        document: as ``esam-tune train`` prints it: ``settings``, ``history`` and the rest.
        params: to log beside the settings: what another worker count made of them.
        lineage: where the settings come from: what of it -> id or name.
        ended: Unix time of the training's end.
        artifacts: files to keep with the run.
        model: to log with it, or None.
    """
    client = connect(uri)
    experiment_id = experiment(client, artifact_root)
    end, training_id = int(ended * 1000), begun["training_id"]
    tags = {
        TRAINING_TAG: training_id,
        "esam_tune.kind": "training",
        "esam_tune.weights_digest": document["weights_digest"],
        **{f"esam_tune.origin.{key}": value for key, value in lineage.items()},
    }
    known = client.search_runs([experiment_id], f"tags.`{TRAINING_TAG}` = '{training_id}'")
    run = (
        known[0]
        if known
        else client.create_run(
            experiment_id,
            start_time=int((ended - document["seconds"]) * 1000),
            run_name=name,
            tags={TRAINING_TAG: training_id, "mlflow.source.name": "esam-tune train"},
        )
    )
    run_id = str(run.info.run_id)
    if run.info.status != _ENDED:
        versions = {f"version.{key}": number for key, number in begun["versions"].items()}
        log_tags(client, run_id, {**tags, **versions})
        log_params(client, run_id, _params(document) | dict(params))
        log_dataset(client, run_id, begun["dataset"])
        logged = [point for metrics in document["history"] for point in points(metrics, end)]
        log_metrics(client, run_id, logged)
        for path in artifacts:
            client.log_artifact(run_id, str(path))
    model_id = None if model is None else log_model(client, run, model, tags, document, end)
    client.set_terminated(run_id, _ENDED, end_time=end)
    return LoggedTraining(run_id=run_id, model_id=model_id)


def _params(document: Mapping[str, Any]) -> dict[str, Any]:
    settings = document["settings"]
    return {
        **{f"task.{key}": value for key, value in settings["task"].items()},
        **{f"training.{key}": value for key, value in settings["training"].items()},
        **settings["params"],
        "seed": settings["seed"],
        "workers": document["workers"],
    }
