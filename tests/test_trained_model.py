"""A training from the command line to the model in MLflow, killed on the way, and its model."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow.pytorch
import numpy as np
import pytest
import torch
import yaml
from mlflow import MlflowClient
from mlflow.models import Model
from training_process import (
    events,
    predictions,
    train,
    training,
    untimed,
    wait_for_epoch,
    write_settings,
)

from esam_tune.config import MODELS, trial_settings
from esam_tune.final_training import TrainOptions, train_chosen
from esam_tune.final_training.recorder import OnEpoch
from esam_tune.tasks.data import load_split
from esam_tune.tasks.models import build_model
from esam_tune.tracking.trained_model import TrainedModel, write_model

pytestmark = pytest.mark.e2e

NAME = "noisy"


@dataclass(frozen=True)
class Trained:
    """Two trainings of one setting in one storage."""

    storage: Path
    settings: Path
    whole: dict[str, Any]
    resumed: dict[str, Any]
    before: list[dict[str, Any]]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all, since it takes MLflow seconds to make its tables."""
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, storage: Path) -> Trained:
    """One undisturbed and registered; one killed in the middle and gone on with."""
    settings = write_settings(tmp_path_factory.mktemp("trained") / "settings.yaml")
    common = (settings, "--storage", storage, "--cpus-per-worker", 1, "--name", "cut")
    with training(*common) as process:
        wait_for_epoch(process, 3)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
    before = events(storage, "cut")
    resumed = train(*common, "--resume", "--json")
    assert resumed.returncode == 0, resumed.stderr
    return Trained(
        storage=storage,
        settings=settings,
        whole=train_here(settings, storage, name="whole", register=NAME),
        resumed=json.loads(resumed.stdout),
        before=before,
    )


def train_here(
    settings: Path,
    storage: Path,
    on_epoch: OnEpoch = lambda metrics: None,
    **options: Any,
) -> dict[str, Any]:
    """Train in this process."""
    found = trial_settings(yaml.safe_load(settings.read_text()))
    return train_chosen(found, TrainOptions(storage=storage, threads=1, **options), on_epoch)


def test_a_killed_training_goes_on_bit_for_bit(trained: Trained) -> None:
    kinds = [event["event"] for event in trained.before]
    assert 3 <= kinds.count("epoch") < 8
    assert "checkpoint" in kinds
    after = events(trained.storage, "cut")[len(kinds) :]
    assert after[0]["event"] == "training_resume"
    assert [e["metrics"]["epoch"] for e in after if "metrics" in e] == list(
        range(kinds.count("epoch") + 1, 9)
    )
    assert trained.resumed["weights_digest"] == trained.whole["weights_digest"]
    assert untimed(trained.resumed["history"]) == untimed(trained.whole["history"])
    assert [metrics["epoch"] for metrics in trained.resumed["history"]] == list(range(1, 9))
    assert "test_accuracy" in trained.resumed["metrics"]
    read = [metrics for metrics in trained.resumed["history"] if "test_accuracy" in metrics]
    assert read == [trained.resumed["metrics"]]
    for name in ("cut", "whole"):
        left = sorted(path.name for path in (trained.storage / "models" / name).iterdir())
        assert left == ["journal.jsonl", "lock", "result.json", "weights.pt"]


def test_the_model_predicts_the_same_in_a_process_without_this_package(
    trained: Trained, tmp_path: Path
) -> None:
    settings = trial_settings(yaml.safe_load(trained.settings.read_text()))
    images, _ = load_split(settings.task, "val").first(64)
    network = build_model("small_cnn", (1, 8, 8), 10, seed=0)
    network.load_state_dict(torch.load(trained.whole["weights"], weights_only=True))
    network.eval()
    with torch.no_grad():
        expected = network(images).numpy()
    found = predictions(trained.whole, f"models:/{NAME}/1", images.numpy(), tmp_path)
    for name in ("network", "served"):
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-5)
        assert (found[name].argmax(1) == expected.argmax(1)).all()
    np.testing.assert_allclose(found["one"], expected[:1], rtol=1e-5, atol=1e-5)
    inputs, outputs = json.loads(str(found["signature"]))
    assert inputs[0]["tensor-spec"] == {"dtype": "float32", "shape": [-1, 1, 8, 8]}
    assert outputs[0]["tensor-spec"] == {"dtype": "float32", "shape": [-1, 10]}
    assert found["example"].shape == (2, 10)


def test_the_run_the_model_and_its_version_say_what_they_are(trained: Trained) -> None:
    document = trained.whole
    client = MlflowClient(tracking_uri=document["tracking_uri"])
    run = client.get_run(document["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test_accuracy"] == document["metrics"]["test_accuracy"]
    model = client.get_logged_model(document["model_uri"].removeprefix("models:/"))
    assert str(model.status) == "READY"
    assert model.source_run_id == run.info.run_id
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]
    measured = {metric.key: metric.value for metric in model.metrics}
    assert measured["test_accuracy"] == document["metrics"]["test_accuracy"]
    assert model.params["rho"] == "0.1"
    assert model.tags["esam_tune.weights_digest"] == document["weights_digest"]
    # A pixel of 0 and one of 16, as a stranger standardises them, and as the training had them.
    train_images = load_split(trial_settings(document["settings"]).task, "train").first(2000)[0]
    mean, deviation = (float(model.tags[f"esam_tune.input_{key}"]) for key in ("mean", "deviation"))
    assert (0.0 - mean) / deviation == pytest.approx(float(train_images.min()))
    assert (16.0 - mean) / deviation == pytest.approx(float(train_images.max()))

    version = client.get_model_version(NAME, "1")
    assert document["registered"] == {"name": NAME, "version": 1}
    assert (version.run_id, version.source) == (run.info.run_id, model.artifact_location)
    location = Path(model.artifact_location.removeprefix("file://"))
    required = {
        line.partition("==")[0] for line in (location / "requirements.txt").read_text().split()
    }
    assert required == {"mlflow", "torch", "numpy"}
    assert (location / "data" / "model.pt2").exists()
    assert not list(location.rglob("*.pth")) + list(location.rglob("*.pkl"))


def test_a_finished_training_is_not_trained_again_but_registered(trained: Trained) -> None:
    journal = events(trained.storage, "whole")
    seen: list[object] = []
    again = train_here(
        trained.settings, trained.storage, seen.append, name="whole", resume=True, register=NAME
    )
    assert again == trained.whole
    assert seen == []
    assert events(trained.storage, "whole") == journal
    client = MlflowClient(tracking_uri=trained.whole["tracking_uri"])
    assert [v.version for v in client.search_model_versions(f"name = '{NAME}'")] == [1]


def test_what_a_death_left_half_logged_is_logged_once(
    storage: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = write_settings(
        tmp_path / "settings.yaml", training={"epochs": 1, "batch_size": 256, "lr": 0.05}
    )
    asked: dict[str, Any] = {"name": "torn", "register": "torn"}

    def die(*arguments: object, **options: object) -> None:
        raise ConnectionError("gone")

    for step in ("log_model_artifacts", "finalize_logged_model", "create_model_version"):
        with monkeypatch.context() as patched:
            patched.setattr(MlflowClient, step, die)
            document = train_here(settings, storage, **asked)
        assert document["registered"] is None
        assert "MLflow did not take the model (gone)" in caplog.text
        caplog.clear()
        asked["resume"] = True
    document = train_here(settings, storage, **asked)
    assert document["registered"] == {"name": "torn", "version": 1}

    client = MlflowClient(tracking_uri=document["tracking_uri"])
    experiment = client.get_run(document["mlflow_run_id"]).info.experiment_id
    runs = client.search_runs([experiment], "attributes.run_name LIKE 'torn:%'")
    assert [run.info.run_id for run in runs] == [document["mlflow_run_id"]]
    assert runs[0].info.status == "FINISHED"
    models = client.search_logged_models([experiment], filter_string="name = 'torn'")
    assert [f"models:/{model.model_id}" for model in models] == [document["model_uri"]]
    assert [out.model_id for out in runs[0].outputs.model_outputs] == [models[0].model_id]
    history = client.get_metric_history(document["mlflow_run_id"], "test_accuracy")
    assert [point.step for point in history] == [1]
    assert [v.version for v in client.search_model_versions("name = 'torn'")] == [1]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name == "small_cnn" else pytest.mark.long) for name in MODELS],
)
def test_every_network_becomes_a_graph_for_any_number_of_images(name: str, tmp_path: Path) -> None:
    shape = (1, 8, 8) if name == "small_cnn" else (3, 32, 32)
    network = build_model(name, shape, 10, seed=1).eval()
    images = torch.randn(5, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = network(images)
    model = TrainedModel(
        name=name,
        network=network,
        example=images[:2].numpy(),
        output=expected[:2].numpy(),
        about={"input": "standardised"},
    )
    write_model(tmp_path / "model", model, Model())
    # A graph runs where it was exported: elsewhere MLflow would ask for a GPU, and refuse it there.
    assert Model.load(str(tmp_path / "model")).flavors["python_function"]["config"] == {
        "device": "cpu"
    }
    loaded = mlflow.pytorch.load_model(str(tmp_path / "model"))
    with torch.no_grad():
        for count in (1, 2, 5):
            torch.testing.assert_close(loaded(images[:count]), network(images[:count]))
