"""The run of a final training and its model.

Every step may be repeated: run, model and version are found again by the training's id, and what a
process left unfinished the next one finishes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esam_tune.tracking.store import (
    REASON_TAG,
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
ENDED = "FINISHED"

# Metrics of an epoch, and the Unix time of its end.
TimedMetrics = tuple[Mapping[str, float | None], float]


@dataclass(frozen=True, kw_only=True)
class TrainingStart:
    """What is known of a training since its start.

    Args:
        name: of its run.
        training_id: tells it from all others.
        time: Unix time of its start.
        dataset: as :func:`esam_tune.tracking.store.log_dataset` takes it.
        versions: package -> version.
        params: to log.
        lineage: where the settings come from: what of it -> id or name.
    """

    name: str
    training_id: str
    time: float
    dataset: Mapping[str, Any]
    versions: Mapping[str, str]
    params: Mapping[str, Any]
    lineage: Mapping[str, str]

    def tags(self) -> dict[str, str]:
        """Tags of the run and of its model."""
        return {
            TRAINING_TAG: self.training_id,
            "esam_tune.kind": "training",
            **{f"esam_tune.origin.{key}": value for key, value in self.lineage.items()},
        }


@dataclass(frozen=True, kw_only=True)
class LoggedTraining:
    """What the tracking store has of a training.

    Args:
        run_id: of its run.
        model_id: of its model, or None where there is none.
    """

    run_id: str
    model_id: str | None


def open_run(client: Any, artifact_root: Path | None, start: TrainingStart) -> Any:
    """The run of a training, found again or made; unless it has ended, it is shown as running.

    Args:
        client: of MLflow.
        artifact_root: where artifacts go, or None for the server's own choice.
        start: of the training.
    """
    experiment_id = experiment(client, artifact_root)
    known = client.search_runs([experiment_id], f"tags.`{TRAINING_TAG}` = '{start.training_id}'")
    known.sort(key=lambda run: (run.info.status != ENDED, run.info.run_id))
    # A request to make it whose answer was lost may have been carried out after all.
    for second in known[1:]:
        client.delete_run(second.info.run_id)
    run = (
        known[0]
        if known
        else client.create_run(
            experiment_id,
            start_time=int(start.time * 1000),
            run_name=start.name,
            tags={TRAINING_TAG: start.training_id, "mlflow.source.name": "esam-tune train"},
        )
    )
    run_id, status = str(run.info.run_id), run.info.status
    if status == ENDED:
        return run
    if status != "RUNNING":
        client.update_run(run_id, status="RUNNING")
    if REASON_TAG in run.data.tags:
        client.delete_tag(run_id, REASON_TAG)
    versions = {f"version.{key}": number for key, number in start.versions.items()}
    log_tags(client, run_id, start.tags() | versions)
    log_params(client, run_id, start.params)
    log_dataset(client, run_id, start.dataset)
    return run


def log_epochs(client: Any, run_id: str, epochs: Iterable[TimedMetrics]) -> None:
    """Log metrics of epochs; MLflow keeps one copy of what it has been sent before."""
    listed = [point for metrics, time in epochs for point in points(metrics, int(time * 1000))]
    log_metrics(client, run_id, listed)


def log_training(
    uri: str,
    artifact_root: Path | None,
    start: TrainingStart,
    *,
    document: Mapping[str, Any],
    epochs: Sequence[TimedMetrics],
    artifacts: Sequence[Path],
    model: TrainedModel | None,
) -> LoggedTraining:
    """Log the finished training of a chosen setting as a run of its own, with its model.

    Args:
        uri: of the tracking server or store.
        artifact_root: where artifacts go, or None for the server's own choice.
        start: of the training.
        document: as ``esam-tune train`` prints it: ``settings``, ``metrics``, ``weights_digest``.
        epochs: all of them; the training ended with the last.
        artifacts: files to keep with the run.
        model: to log with it, or None.
    """
    client = connect(uri)
    end = int(epochs[-1][1] * 1000)
    run = open_run(client, artifact_root, start)
    run_id = str(run.info.run_id)
    tags = start.tags() | {"esam_tune.weights_digest": document["weights_digest"]}
    if run.info.status != ENDED:
        log_tags(client, run_id, tags)
        log_epochs(client, run_id, epochs)
        for path in artifacts:
            client.log_artifact(run_id, str(path))
    model_id = None if model is None else log_model(client, run, model, tags, document, end)
    client.set_terminated(run_id, ENDED, end_time=end)
    return LoggedTraining(run_id=run_id, model_id=model_id)
