"""Data sets prepared once per machine: arrays in files, which all processes map into memory.

A prepared set is a folder of uncompressed ``.npy`` files. It is made under a file lock beside its
final place and renamed when it is whole, so a folder of that name is complete, and of several
processes that want it one makes it. Mapped files live in the page cache: however many trials read
a set, the node holds one copy.
"""

import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from esam_tune.config import TaskSettings
from esam_tune.errors import InputError
from esam_tune.tasks.splits import ArraySplit, SplitName
from esam_tune.tasks.stratified import split_rows

_log = logging.getLogger(__name__)

Arrays = Mapping[str, NDArray[Any]]
DATA_DIR_VARIABLE = "ESAM_TUNE_DATA"


def data_root(data_dir: str | None = None) -> Path:
    """Folder that keeps data sets on this machine.

    Args:
        data_dir: as a task asks for it; otherwise the environment variable ESAM_TUNE_DATA names
            it, or it lies in the user's cache.

    Raises:
        InputError: when it is not an absolute path: trials run in folders of their own.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    named = data_dir or os.environ.get(DATA_DIR_VARIABLE) or f"{cache}/esam-tune"
    root = Path(named).expanduser()
    if not root.is_absolute():
        raise InputError(
            "task.data_dir" if data_dir else DATA_DIR_VARIABLE,
            f"must be an absolute path, got {named!r}",
            "write it from the root or from ~",
        )
    return root


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file, which is made if need be, against other processes."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.info("waiting for another process that prepares %s", path.name)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def prepared(root: Path, name: str, make: Callable[[], Arrays]) -> Path:
    """The folder of a prepared set, made by ``make`` if it is not there.

    Args:
        root: see :func:`data_root`.
        name: of the folder in it; another content needs another name.
        make: gives the arrays by name; called by one process at a time.

    Raises:
        InputError: when the folder cannot be written, or of ``make``.
    """
    folder = root / "prepared" / name
    try:
        if folder.is_dir():
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.parent / f".{name}.lock"):
            if not folder.is_dir():
                _write(folder, make)
    except OSError as error:
        raise InputError(
            "task.data_dir",
            f"data sets cannot be kept in {str(root)!r}: {error.strerror or error}",
            f"name a folder with space that can be written, or set {DATA_DIR_VARIABLE}",
        ) from None
    return folder


def _write(folder: Path, make: Callable[[], Arrays]) -> None:
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    # Only a process that was killed leaves one: the lock is ours.
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        arrays = make()
    except OSError as error:
        raise InputError(
            "task.data_dir", f"the data set cannot be read: {error}", "check the data set's files"
        ) from None
    unfinished.mkdir()
    try:
        for name, array in arrays.items():
            np.save(unfinished / f"{name}.npy", array, allow_pickle=False)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def mapped(folder: Path, name: str) -> NDArray[Any]:
    """One array of a prepared set, mapped into memory copy-on-write.

    Raises:
        InputError: when the file is missing or damaged.
    """
    path = folder / f"{name}.npy"
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            "task.dataset",
            f"the prepared file {str(path)!r} cannot be read: {error}",
            f"remove the folder {str(folder)!r}, it will be made anew",
        ) from None
    return array


def image_arrays(part: str, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Arrays:
    """The arrays to keep of one part of a data set.

    Beside the images there are sums over each one's pixels, so that the mean and deviation of
    any split are known without a look at its images.

    Args:
        part: name of it.
        images: shape (n, channels, height, width).
        labels: shape (n,).
    """
    sums = np.empty((len(images), 2, images.shape[1]), dtype=np.int64)
    for start in range(0, len(images), 1024):
        chunk = images[start : start + 1024].astype(np.int64)
        sums[start : start + 1024, 0] = chunk.sum(axis=(2, 3))
        sums[start : start + 1024, 1] = np.square(chunk).sum(axis=(2, 3))
    return {f"{part}-images": images, f"{part}-labels": labels, f"{part}-sums": sums}


def image_split(folder: Path, task: TaskSettings, name: SplitName, num_classes: int) -> ArraySplit:
    """A split of a prepared set with the parts ``train`` and ``test``.

    Validation is split off the part ``train``; the part ``test`` is touched only for the test
    split.
    """
    labels = torch.from_numpy(np.asarray(mapped(folder, "train-labels")))
    train, val = split_rows(labels, task.reads("val_share"), task.split_seed)
    part = "test" if name == "test" else "train"
    images = torch.from_numpy(mapped(folder, f"{part}-images"))
    if name == "test":
        labels = torch.from_numpy(np.asarray(mapped(folder, "test-labels")))
        rows = torch.arange(len(labels))
    else:
        rows = train if name == "train" else val
        labels = labels[rows]
    shape = (int(images.shape[1]), int(images.shape[2]), int(images.shape[3]))
    mean, deviation = _moments(mapped(folder, "train-sums"), train, shape[1] * shape[2])
    return ArraySplit(
        pixels=images,
        rows=rows,
        labels=labels,
        num_classes=num_classes,
        image_shape=shape,
        mean=mean,
        deviation=deviation,
    )


def _moments(
    sums: NDArray[np.int64], rows: Tensor, pixels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation by channel over all pixels of these rows."""
    first, second = sums[rows.numpy()].sum(axis=0) / (len(rows) * pixels)
    deviation = np.sqrt(np.maximum(second - first**2, 0.0))
    # A channel that is constant over the whole split carries nothing: any deviation will do.
    return tuple(first.tolist()), tuple(np.where(deviation > 0, deviation, 1.0).tolist())
