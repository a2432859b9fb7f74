"""The final training: what it reserves, what a restart does to it, what a signal leaves."""

import json
import math
import os
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml
from conftest import REPOSITORY, command_line, environment
from image_files import write_images

from esam_tune import final_training
from esam_tune.config import trial_settings
from esam_tune.errors import InputError, RunFailedError
from esam_tune.final_training import TrainOptions, train_chosen
from esam_tune.run_state import save_state
from esam_tune.trial import FAILURE

SETTINGS = {
    "task": {"dataset": "digits", "model": "small_cnn"},
    "training": {"epochs": 3, "batch_size": 64, "lr": 0.05},
    "params": {"optimizer": "sgd"},
}


@pytest.fixture
def on_cluster(monkeypatch, tmp_path):
    """Runs a training's reports through ``train_chosen`` as if a cluster had made them."""
    requests = []

    @contextmanager
    def connected(address, *, distributed):
        yield [{"CPU": 2.0}]

    class Kept:
        @contextmanager
        def as_directory(self):
            folder = tmp_path / "kept"
            folder.mkdir()
            save_state(folder, 0, 2, {"model": {"w": torch.ones(1)}})
            yield str(folder)

    def run(reports, on_epoch=lambda metrics: None):
        def run_single(request, where, receive):
            requests.append(request)
            for report in reports:
                receive(report)
            return Kept()

        monkeypatch.setattr("esam_tune.study.runner.run_single", run_single)
        options = TrainOptions(storage=tmp_path / "runs", name="m", workers=2, address="auto")
        return train_chosen(trial_settings(SETTINGS), options, on_epoch)

    monkeypatch.setattr("esam_tune.study.cluster.connected", connected)
    monkeypatch.setattr(final_training, "check_all_nodes_see", lambda where, field: None)
    monkeypatch.setattr(final_training, "check_all_nodes_have", lambda task, gpus: None)
    monkeypatch.setattr(final_training, "log_training", lambda *args, **kwargs: "id")
    run.requests = requests
    return run


def epochs(*numbers):
    return [{"epoch": n, "val_accuracy": n / 10, "test_accuracy": 0.5} for n in numbers]


def test_a_group_that_goes_on_from_a_checkpoint_repeats_no_epoch(on_cluster, tmp_path):
    seen = []
    document = on_cluster(epochs(1, 2, 2, 3), seen.append)
    assert [metrics["epoch"] for metrics in document["history"]] == [1, 2, 3]
    assert seen == document["history"]
    stored = json.loads((tmp_path / "runs" / "models" / "m" / "result.json").read_text())
    assert stored["history"] == document["history"]
    assert torch.load(document["weights"], weights_only=True)["w"].item() == 1.0
    # Without a checkpoint on the way a restart would begin at the first epoch.
    (request,) = on_cluster.requests
    assert math.isfinite(request.checkpoint_seconds)


def test_the_name_is_taken_before_the_training_and_free_again_when_it_fails(on_cluster, tmp_path):
    folder = tmp_path / "runs" / "models" / "m"
    taken = []

    def look(metrics):
        taken.append(folder.is_dir())
        with pytest.raises(InputError, match=r"--name: .*'m' exists"):
            on_cluster([])

    with pytest.raises(RunFailedError, match="out of luck"):
        on_cluster([*epochs(1), {FAILURE: "out of luck"}], look)
    assert taken == [True]
    assert not (tmp_path / "runs").exists()


def test_a_checkpoint_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    options = TrainOptions(
        storage=tmp_path / "runs", name="m", checkpoint_storage=str(tmp_path / "file" / "x")
    )
    with pytest.raises(InputError, match="--checkpoint-storage: cannot write to"):
        train_chosen(trial_settings(SETTINGS), options, lambda metrics: None)
    assert not (tmp_path / "runs").exists()


def test_weights_that_cannot_be_written_leave_no_torn_file(tmp_path, monkeypatch):
    def fail(weights, path):
        Path(path).write_bytes(b"torn")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="No space"):
        final_training._save_weights({}, tmp_path / "weights.pt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.e2e
@pytest.mark.parametrize(("stop", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_training_says_so_and_leaves_nothing(tmp_path, stop, code):
    settings = {**SETTINGS, "training": {**SETTINGS["training"], "epochs": 10_000}}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    process = subprocess.Popen(
        command_line("train", tmp_path / "settings.yaml", "--storage", tmp_path / "runs"),
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=REPOSITORY,
    )
    try:
        lines = iter(process.stderr.readline, "")
        assert any(line.startswith("epoch 1/") for line in lines)
        assert (tmp_path / "runs" / "models" / "model").is_dir()
        os.kill(process.pid, stop)
        rest = [line.rstrip() for line in lines]
        assert process.wait(60) == code
    finally:
        process.kill()
        process.stderr.close()
    said = [line for line in rest if not line.startswith("epoch ")]
    assert said == [f"esam-tune: {stop.name} ended the training; nothing is kept"]
    assert not (tmp_path / "runs").exists()


def test_a_test_split_that_cannot_be_read_is_found_before_the_training(tmp_path, monkeypatch):
    monkeypatch.setenv("ESAM_TUNE_DATA", str(tmp_path / "kept"))
    images = write_images(tmp_path / "images", ["train", "test"], count=4)
    (images / "test" / "bee" / "0.png").write_bytes(b"damaged")
    task = {"dataset": "folder", "model": "small_cnn", "data_dir": str(images), "image_size": 8}
    training = {"epochs": 1, "batch_size": 2, "lr": 0.05}
    settings = trial_settings({**SETTINGS, "task": task, "training": training})
    epochs = []
    with pytest.raises(InputError, match=r"0\.png' cannot be read"):
        train_chosen(settings, TrainOptions(storage=tmp_path / "runs", name="m"), epochs.append)
    assert epochs == []
