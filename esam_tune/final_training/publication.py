"""What MLflow receives of a final training: run, model, and where its settings come from."""

from __future__ import annotations

import logging
from typing import Any

from esam_tune.config import TrialSettings
from esam_tune.errors import InputError
from esam_tune.final_training.plan import Plan
from esam_tune.final_training.record import TrainingRecord
from esam_tune.final_training.weights import load_weights_file
from esam_tune.study.folder import study_folder
from esam_tune.study.spec import describe_params
from esam_tune.tracking.cursor import Cursor, cursor_for
from esam_tune.tracking.final import TrainingStart, log_training
from esam_tune.tracking.live_training import LiveRun
from esam_tune.tracking.store import artifact_root, connect, error_text
from esam_tune.tracking.trained_model import TrainedModel, register

_log = logging.getLogger(__name__)

# At least two: of one image, the exported graph would take no more than one at a time.
_EXAMPLE_IMAGES = 2


def publish(
    plan: Plan, record: TrainingRecord, document: dict[str, Any], name: str | None
) -> dict[str, Any]:
    """Log a finished training and its model, and register the model if asked to.

    The training is safe on the disk: where MLflow does not take it, that is a warning, and
    ``--resume`` tries again.

    Args:
        plan: of the training.
        record: of it, with its end.
        document: of its result so far.
        name: of the registered model, or None.

    Returns:
        ``mlflow_run_id``, ``model_uri`` and ``registered`` (``name`` and ``version``) for the
        document; None for each that is not there.
    """
    found: dict[str, Any] = dict.fromkeys(("mlflow_run_id", "model_uri", "registered"))
    weights = load_weights_file(plan.folder.weights, str(record.weights_digest))
    try:
        logged = log_training(
            plan.uri,
            artifact_root(plan.folder.storage, plan.uri),
            training_start(plan, record),
            document=document,
            epochs=record.timed_history,
            artifacts=[plan.folder.weights],
            model=trained_model(plan.settings, weights, plan.folder.name),
        )
        found |= {"mlflow_run_id": logged.run_id, "model_uri": f"models:/{logged.model_id}"}
        if name is not None:
            version = register(connect(plan.uri), plan.uri, str(logged.model_id), name)
            found["registered"] = {"name": name, "version": version}
    except Exception as error:  # noqa: BLE001 - the result is on disk: tracking must not lose it
        _log.warning(
            "MLflow did not take the model (%s); it is kept in %s, and --resume sends it again",
            error_text(error, plan.uri),
            plan.folder.path,
        )
    return found


def live_run(plan: Plan, record: TrainingRecord) -> LiveRun:
    """What shows a training in MLflow while it goes on."""
    root = artifact_root(plan.folder.storage, plan.uri)
    return LiveRun(plan.uri, root, training_start(plan, record), record.timed_history)


def training_start(plan: Plan, record: TrainingRecord) -> TrainingStart:
    """What a training's run shows from its start."""
    settings, begun = plan.settings.to_dict(), record.started
    return TrainingStart(
        name=f"{plan.folder.name}: {describe_params(plan.settings.params)}",
        training_id=record.training_id,
        time=begun["time"],
        dataset=begun["dataset"],
        versions=begun["versions"],
        params={
            **{f"task.{key}": value for key, value in settings["task"].items()},
            **{f"training.{key}": value for key, value in settings["training"].items()},
            **settings["params"],
            "seed": settings["seed"],
            "workers": plan.workers,
            **plan.scaled.params(),
        },
        lineage=lineage(plan),
    )


def trained_model(settings: TrialSettings, weights: dict[str, Any], name: str) -> TrainedModel:
    """The trained network as MLflow is to keep it.

    It takes images as the training fed them, standardised, and not the data set's own: so it is the
    very network whose accuracy was measured, and what turns files into pixels, a decoder and a
    resize, could not be a part of the graph anyway. ``about`` holds the numbers to standardise by.

    Args:
        settings: it was trained with.
        weights: state dict of the network.
        name: of the model.
    """
    import torch

    from esam_tune.tasks.data import load_split, standardisation
    from esam_tune.tasks.models import build_model

    train = load_split(settings.task, "train")
    shape, classes = train.image_shape, train.num_classes
    network = build_model(settings.task.model, shape, classes, settings.seed)
    network.load_state_dict(weights)
    network.eval()
    # Drawn, as no image of the user's is to leave the storage unasked; in eighths, which are short
    # in the example's JSON.
    draws = torch.randn(_EXAMPLE_IMAGES, *shape, generator=torch.Generator().manual_seed(0))
    example = (draws * 8).round() / 8
    with torch.no_grad():
        output = network(example)
    mean, deviation = standardisation(settings.task)
    scale = "each image's channels less the mean, over the deviation, of the training images"
    return TrainedModel(
        name=name,
        network=network,
        example=example.numpy(),
        output=output.numpy(),
        about={
            "input": f"float32, shape (n, {', '.join(map(str, shape))}): {scale}",
            "input_mean": ", ".join(map(str, mean)),
            "input_deviation": ", ".join(map(str, deviation)),
            "output": f"logits, float32, shape (n, {classes})",
            "precision": "fp32, whatever the training's passes were computed in",
            "dataset": settings.task.dataset,
            "network": settings.task.model,
        },
    )


def lineage(plan: Plan) -> dict[str, str]:
    """Where the settings come from: as their file says, and the runs where they are known."""
    origin = plan.settings.origin
    # What a settings file says there is free: not every key can be a tag's.
    said = {key: str(value) for key, value in origin.items() if str(key).isidentifier()}
    study, trial_id = origin.get("study"), origin.get("trial_id")
    if not isinstance(study, str) or not isinstance(trial_id, str):
        return said
    try:
        folder = study_folder(plan.folder.storage, study)
        record, study_id = folder.record(), folder.started_with()["study_id"]
        runs = Cursor.load(cursor_for(folder.cursor, record.tracking_uri, plan.uri))
    except (InputError, OSError):
        return said
    trial = record.trials.get(trial_id)
    # A study of that name in this storage need not be the one that the file means.
    if trial is None or dict(trial.params) != dict(plan.found.params):
        return said
    known = {
        "study_id": study_id,
        "study_run_id": runs.parent_run_id,
        "trial_run_id": runs.run_ids.get(trial_id),
    }
    return said | {key: str(value) for key, value in known.items() if value is not None}
