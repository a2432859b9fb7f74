"""A final training in a process of its own, whose checkpoints come after every epoch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from conftest import REPOSITORY, environment

# What differs from one run of the same training to the next.
TIMED = ("step_time_ratio", "epoch_seconds", "images_per_second")

_PROGRAM = """
import sys
from esam_tune import step_timer
from esam_tune.cli import main
from esam_tune.final_training import execution
step_timer._PAIRS = 2
execution._SECONDS_HERE = execution._SECONDS_ON_CLUSTER = 0.0
sys.exit(main(sys.argv[1:]))
"""


# What a stranger does: no package of ours, no pickle, and a graph for any number of images.
_STRANGER = """
import json, sys
sys.modules["esam_tune"] = None
import mlflow, numpy
mlflow.set_tracking_uri(sys.argv[1])
images = numpy.load(sys.argv[2])
network = mlflow.pytorch.load_model(sys.argv[3])
served = mlflow.pyfunc.load_model(sys.argv[4])
import torch
with torch.no_grad():
    logits = network(torch.from_numpy(images)).numpy()
schema = served.metadata.signature
numpy.savez(
    sys.argv[5],
    signature=json.dumps([schema.inputs.to_dict(), schema.outputs.to_dict()]),
    network=logits,
    served=served.predict(images),
    one=served.predict(images[:1]),
    example=served.predict(served.input_example),
)
"""


def write_settings(path: Path, **changes: Any) -> Path:
    """A settings file whose training draws on every random stream there is."""
    document: dict[str, Any] = {
        "task": {"dataset": "digits", "model": "small_cnn", "label_noise": 0.4, "augment": "crop"},
        "training": {"epochs": 8, "batch_size": 128, "lr": 0.05},
        "params": {"optimizer": "esam", "beta": 0.5, "gamma": 0.5, "rho": 0.1},
        "seed": 3,
    }
    path.write_text(yaml.safe_dump({**document, **changes}), encoding="utf-8")
    return path


def _command(arguments: tuple[object, ...]) -> list[str]:
    return [sys.executable, "-c", _PROGRAM, "train", *map(str, arguments)]


def train(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Train to the end."""
    return subprocess.run(
        _command(arguments),
        capture_output=True,
        text=True,
        timeout=400,
        env=environment(**variables),
        cwd=REPOSITORY,
        check=False,
    )


@contextmanager
def training(*arguments: object, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """A training under way; killed, should it still run, at the end of the block."""
    process = subprocess.Popen(
        _command(arguments),
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**variables),
        cwd=REPOSITORY,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def wait_for_epoch(process: subprocess.Popen[str], epoch: int) -> None:
    """Read the progress until it tells of an epoch."""
    assert process.stderr is not None
    read = []
    for line in iter(process.stderr.readline, ""):
        read.append(line)
        if line.startswith(f"epoch {epoch}/"):
            return
    raise AssertionError("".join(read))


def events(storage: Path, name: str) -> list[dict[str, Any]]:
    """Whole lines of a training's journal."""
    path = storage / "models" / name / "journal.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def untimed(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each epoch's metrics without those that measure time."""
    return [{k: v for k, v in metrics.items() if k not in TIMED} for metrics in history]


def predictions(
    document: dict[str, Any], registered: str, images: np.ndarray, folder: Path
) -> dict[str, np.ndarray]:
    """What a training's model makes of images, in a process that has neither us nor pickle.

    Args:
        document: of the training.
        registered: URI of the model's version.
        images: standardised.
        folder: to work in.

    Returns:
        Logits of the ``network``, of the model as ``served``, of ``one`` image and of the model's
        ``example``; and its ``signature`` as JSON.
    """
    np.save(folder / "images.npy", images)
    run = subprocess.run(
        [
            *(sys.executable, "-c", _STRANGER, document["tracking_uri"], "images.npy"),
            *(document["model_uri"], registered, "logits.npz"),
        ],
        capture_output=True,
        text=True,
        timeout=200,
        env=environment(MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false", OMP_NUM_THREADS="1"),
        cwd=folder,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return dict(np.load(folder / "logits.npz"))
