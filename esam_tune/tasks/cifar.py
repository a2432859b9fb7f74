"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), fetched and verified by torchvision."""

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from esam_tune.config import TaskSettings
from esam_tune.errors import InputError
from esam_tune.tasks.prepared import DATA_DIR_VARIABLE, Arrays, data_root, image_arrays, image_split
from esam_tune.tasks.prepared import prepared as prepared_set
from esam_tune.tasks.splits import ArraySplit, SplitName

IMAGE_SHAPE = (3, 32, 32)
NUM_CLASSES = {"cifar10": 10, "cifar100": 100}

# A server that accepts a connection and then says nothing must not hold up a study.
_SECONDS_OF_SILENCE = 60.0


def load_cifar(task: TaskSettings, name: SplitName) -> ArraySplit:
    """One split: train and validation out of the 50,000 published training images, or the test's.

    Raises:
        InputError: when the files are missing or damaged and cannot be downloaded.
    """
    root = data_root(task.data_dir)
    folder = prepared_set(root, task.dataset, lambda: _read(task.dataset, root))
    return image_split(folder, task, name, NUM_CLASSES[task.dataset])


def _read(dataset: str, root: Path) -> Arrays:
    # torchvision takes as long to import as torch: only the process that prepares pays for it.
    from torchvision import datasets

    kind: Any = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[dataset]
    arrays: dict[str, Any] = {}
    try:
        with _patience(), redirect_stdout(sys.stderr):
            for part in ("train", "test"):
                # The files are pickles, which may run code when they are read. torchvision reads
                # none before the checksum of each has been compared with the published one.
                published = kind(str(root), train=part == "train", download=True)
                images = np.ascontiguousarray(published.data.transpose(0, 3, 1, 2))
                labels = np.asarray(published.targets, dtype=np.int64)
                arrays |= image_arrays(part, images, labels)
    # What a download, an archive or a file can fail with, without a common base: URLError is an
    # OSError, torchvision raises RuntimeError for a wrong checksum.
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        present = (root / kind.base_folder).exists() or (root / kind.filename).exists()
        what = "is damaged" if present else "is not"
        raise InputError(
            "task.dataset",
            f"{dataset} {what} in {str(root)!r} and cannot be downloaded: {error}",
            f"put {kind.filename} there, or name a folder that has it by task.data_dir or "
            f"{DATA_DIR_VARIABLE}",
        ) from None
    return arrays


@contextmanager
def _patience() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SECONDS_OF_SILENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
