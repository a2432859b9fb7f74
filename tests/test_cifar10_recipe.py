"""docs/cifar10.md: its rehearsal on made images of that size, to a chosen and trained model."""

import json

import numpy as np
import pytest
import yaml
from conftest import REPOSITORY, esam_tune, journal_events

from esam_tune.tasks.prepared import image_arrays, prepared

pytestmark = [pytest.mark.long, pytest.mark.ray, pytest.mark.e2e]

PAGE = (REPOSITORY / "docs" / "cifar10.md").read_text(encoding="utf-8")
REHEARSAL = (
    "esam-tune sweep search_spaces/cifar10_resnet18.yaml --name rehearsal --trials 1 --epochs 1"
)
TRAINING_IMAGES = 285  # with a tenth kept for validation: two steps of 128


@pytest.fixture
def made_images(tmp_path):
    """A folder of data that holds made images where a prepared CIFAR-10 is looked for."""
    random = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", TRAINING_IMAGES), ("test", 64)):
        images = random.integers(0, 256, size=(count, 3, 32, 32), dtype=np.uint8)
        arrays |= image_arrays(part, images, np.arange(count) % 10)
    prepared(tmp_path / "data", "cifar10", lambda: arrays)
    return str(tmp_path / "data")


def test_the_rehearsal_ends_with_a_front_and_settings_that_train(tmp_path, made_images):
    assert REHEARSAL in " ".join(PAGE.split())
    storage = tmp_path / "runs"
    _, *arguments = REHEARSAL.split()
    swept = esam_tune(*arguments, "--storage", storage, "--json", ESAM_TUNE_DATA=made_images)
    assert swept.returncode == 0, swept.stderr
    document = json.loads(swept.stdout)
    labels = [trial["label"] for trial in document["trials"] if trial["baseline"]]
    assert labels == ["ESAM as published", "SGD", "SAM rho=0.05"]
    assert {trial["state"] for trial in document["trials"]} == {"complete"}
    cost = {t["label"]: t["metrics"]["step_flops_ratio"] for t in document["trials"]}
    assert cost["SGD"] == 1.0
    assert cost["SGD"] < cost["ESAM as published"] < cost["SAM rho=0.05"]
    assert document["front"]
    settings = yaml.safe_load((storage / "rehearsal" / "chosen.yaml").read_text())
    assert settings["training"]["batch_size"] == 128
    epochs = [e for e in journal_events(storage, "rehearsal") if e["event"] == "epoch"]
    assert len(epochs) == 4
    trained = esam_tune(
        "train",
        storage / "rehearsal" / "chosen.yaml",
        "--storage",
        storage,
        "--json",
        ESAM_TUNE_DATA=made_images,
    )
    assert trained.returncode == 0, trained.stderr
    assert 0.0 <= json.loads(trained.stdout)["metrics"]["test_accuracy"] <= 1.0
