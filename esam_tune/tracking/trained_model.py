"""A trained network as an MLflow model: a graph that loads without this package, and no pickle.

It is saved with ``torch.export`` (MLflow's ``pt2``), which holds the network's operations and
weights. A pickled module would need this package's source to be loaded, at the path it had, and
unpickling runs whatever code a file holds: an MLflow that is told to
(``MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false``) checks before it loads a graph that there is none.
"""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esam_tune.metrics import EPOCH

# What loads and runs the graph. This package is not among them.
_REQUIREMENTS = (("mlflow", "mlflow-skinny"), ("torch", "torch"), ("numpy", "numpy"))
_READY = "READY"


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A network and what a stranger must know of it.

    Args:
        name: of the model.
        network: a ``torch.nn.Module`` on the CPU, in evaluation mode.
        example: of its input, a NumPy array of shape (n, channels, height, width), n >= 2, float32.
        output: what the network makes of it: shape (n, classes), float32.
        about: what the input must be and what the output is: key -> text.
    """

    name: str
    network: Any
    example: Any
    output: Any
    about: Mapping[str, str]


def log_model(
    client: Any,
    run: Any,
    model: TrainedModel,
    tags: Mapping[str, str],
    document: Mapping[str, Any],
    milliseconds: int,
) -> str:
    """Log a model as the outcome of a run, once.

    Args:
        client: of MLflow.
        run: that trained it.
        model: to log.
        tags: that tell the training from all others, and where it comes from.
        document: of the training: ``settings`` and ``metrics``.
        milliseconds: Unix time of the training's end.

    Returns:
        The model's id.
    """
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    run_id, metrics = str(run.info.run_id), document["metrics"]
    step = int(metrics[EPOCH])
    found = _find(client, run, tags["esam_tune.training_id"])
    if found is None:
        params = {**document["settings"]["params"], "seed": document["settings"]["seed"]}
        found = client.create_logged_model(
            run.info.experiment_id,
            name=model.name,
            source_run_id=run_id,
            tags={**tags, **{f"esam_tune.{key}": text for key, text in model.about.items()}},
            params={key: str(value) for key, value in params.items()},
            model_type="image classifier",
        )
    model_id = str(found.model_id)
    if found.status == _READY:
        return model_id
    with tempfile.TemporaryDirectory(prefix="esam-tune-") as scratch:
        folder = Path(scratch, "model")
        described = Model(
            artifact_path=found.artifact_location,
            model_uuid=model_id,
            model_id=model_id,
            run_id=run_id,
        )
        write_model(folder, model, described)
        client.log_model_artifacts(model_id, str(folder))
    outputs = client.get_run(run_id).outputs
    if model_id not in [output.model_id for output in outputs.model_outputs]:
        client.log_outputs(run_id, [LoggedModelOutput(model_id, step)])
    for key, value in metrics.items():
        if value is not None:
            client.log_metric(run_id, key, value, milliseconds, step, model_id=model_id)
    client.finalize_logged_model(model_id, _READY)
    return model_id


def register(client: Any, uri: str, model_id: str, name: str) -> int:
    """Make a logged model the next version of a registered one, unless it is a version already.

    Args:
        client: of MLflow.
        uri: that it was made for.
        model_id: of the logged model.
        name: of the registered model, which is made when missing.

    Returns:
        The version.
    """
    from mlflow.exceptions import MlflowException

    model = client.get_logged_model(model_id)
    for version in client.search_model_versions(f"name = '{name}'"):
        if version.model_id == model_id or version.run_id == model.source_run_id:
            return int(version.version)
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # A store that is opened here would look the model up in whatever store the process thinks of.
    served = uri.startswith(("http://", "https://"))
    source = f"models:/{model_id}" if served else model.artifact_location
    made = client.create_model_version(
        name, source, run_id=model.source_run_id, model_id=model_id, tags=dict(model.tags)
    )
    return int(made.version)


def _find(client: Any, run: Any, training_id: str) -> Any:
    """The model that an earlier process made, finished or not, or None."""
    condition = f"tags.`esam_tune.training_id` = '{training_id}'"
    found = client.search_logged_models([run.info.experiment_id], filter_string=condition)
    return found[0] if found else None


def write_model(folder: Path, model: TrainedModel, described: Any) -> None:
    """Write a model as MLflow's folder of it.

    Args:
        folder: to make.
        model: to write.
        described: an ``mlflow.models.Model`` that may name the logged model; completed.
    """
    from mlflow import pytorch
    from mlflow.models import infer_signature

    described.metadata = dict(model.about)
    pytorch.save_model(
        model.network,
        str(folder),
        mlflow_model=described,
        signature=infer_signature(model.example, model.output),
        input_example=model.example,
        pip_requirements=[_pinned(name, source) for name, source in _REQUIREMENTS],
        serialization_format="pt2",
    )
    # The graph runs on the device it was exported on. Left open, MLflow asks for a GPU wherever
    # there is one, and refuses the model there.
    described.flavors["python_function"]["config"] = {"device": "cpu"}
    described.save(str(folder / "MLmodel"))


def _pinned(name: str, source: str) -> str:
    """A requirement on the version in use, without the part that names a build of it."""
    return f"{name}=={importlib.metadata.version(source).partition('+')[0]}"
