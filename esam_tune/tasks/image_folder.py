"""Images in class folders: ImageNet, and any data set of a user's own that is laid out alike.

A folder is read as one of

- ``train/CLASS/*`` and ``test/CLASS/*``: validation is split off ``train``;
- ``train/CLASS/*`` and ``val/CLASS/*``, as ImageNet is published: ``val`` has the labels that
  results are reported on, so it is the test split, and validation is split off ``train``;
- ``train``, ``val`` and ``test``: each is what it is called;
- ``CLASS/*`` alone: validation and test, of ``val_share`` each, are split off.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from esam_tune.config import TaskSettings
from esam_tune.errors import InputError
from esam_tune.tasks.image_check import check_images
from esam_tune.tasks.prepared import DATA_DIR_VARIABLE, Arrays, data_root, mapped, prepared
from esam_tune.tasks.splits import SplitName
from esam_tune.tasks.stratified import split_rows
from esam_tune.tasks.stream import ImageFiles, StreamSplit

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm")
IMAGENET_CLASSES = 1000
# Of a class for each of validation and test: training keeps no less, but for rounding.
_MOST_OF_EACH = 1 / 3
# Of ImageNet's training images, as torchvision's models and most papers take them.
_MEAN = (123.675, 116.28, 103.53)
_DEVIATION = (58.395, 57.12, 57.375)


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Which subfolder holds which split; ``""`` is the folder itself.

    Args:
        root: the folder.
        train: subfolder of training images.
        val: subfolder of validation images, or None to split them off ``train``.
        test: subfolder of test images, or None to split them off ``train``.
    """

    root: Path
    train: str
    val: str | None
    test: str | None

    @property
    def split_off(self) -> int:
        """How many splits come out of the training images."""
        return (self.val is None) + (self.test is None)


def shape_of(task: TaskSettings) -> tuple[tuple[int, int, int], int]:
    """Shape of the images as a network gets them, and the count of classes."""
    size = int(task.reads("image_size"))
    if task.dataset == "imagenet":
        return (3, size, size), IMAGENET_CLASSES
    layout = _layout(task)
    return (3, size, size), len(_classes(layout.root / layout.train))


def load_folder(task: TaskSettings, name: SplitName) -> StreamSplit:
    """One split of the task's folder.

    Raises:
        InputError: when the folder is missing, its classes do not fit together, or an image cannot
            be read.
    """
    layout = _layout(task)
    classes = _classes(layout.root / layout.train)
    _check_classes(task, layout, classes)
    part = {"train": layout.train, "val": layout.val, "test": layout.test}[name]
    if part is None or name == "train":
        files, labels = _index(layout.root / layout.train, classes, 1 + layout.split_off)
        rows = _share_out(task, layout, labels)[name]
    else:
        files, labels = _index(layout.root / part, classes, 1)
        rows = torch.arange(len(labels))
    shape, num_classes = shape_of(task)
    return StreamSplit(
        labels=labels[rows],
        num_classes=num_classes,
        image_shape=shape,
        mean=_MEAN,
        deviation=_DEVIATION,
        files=files,
        rows=rows,
        random_crop=name == "train" and "crop" in task.reads("augment").split("_"),
    )


def _share_out(
    task: TaskSettings, layout: _Layout, labels: torch.Tensor
) -> dict[SplitName, torch.Tensor]:
    """Rows of the training folder for each split that comes out of it."""
    share, seed = float(task.reads("val_share")), task.split_seed
    shared: dict[SplitName, torch.Tensor] = {}
    rows = torch.arange(len(labels))
    if layout.test is None:
        if share > _MOST_OF_EACH:
            raise InputError(
                "task.val_share",
                f"must be at most 1/3 where the test split is split off too, got {share:g}",
                "lower it, or put the test images into a folder test beside train",
            )
        kept, shared["test"] = split_rows(labels, share, seed)
        rows = rows[kept]
    if layout.val is None:
        # The same count as the test split has, out of what is left.
        of_rest = share / (1.0 - share) if layout.test is None else share
        kept, val = split_rows(labels[rows], of_rest, seed + 1)
        rows, shared["val"] = rows[kept], rows[val]
    shared["train"] = rows
    return shared


def _layout(task: TaskSettings) -> _Layout:
    if task.data_dir is None and task.dataset == "folder":
        raise InputError(
            "task.data_dir", "required for folder but missing", "name the folder of class folders"
        )
    root = data_root(task.data_dir) if task.data_dir else data_root() / "imagenet"
    # Path.is_dir raises for a name that is too long.
    if not os.path.isdir(root):  # noqa: PTH112
        raise InputError(
            "task.data_dir",
            f"must be a folder of images, and {str(root)!r} is none",
            "correct it" if task.data_dir else f"set it, or {DATA_DIR_VARIABLE}",
        )
    has = {part: (root / part).is_dir() for part in ("train", "val", "test")}
    if task.dataset == "imagenet" and not (has["train"] and has["val"]):
        raise InputError(
            "task.data_dir",
            f"ImageNet's folder must hold train and val, and {str(root)!r} does not",
            "name the folder that does, with a folder for each class in both",
        )
    if not has["train"]:
        alone = [part for part in ("val", "test") if has[part]]
        if alone:
            raise InputError(
                "task.data_dir",
                f"{str(root)!r} holds a folder {alone[0]} and no folder train",
                "add train, or give a class of that name another",
            )
        return _Layout(root=root, train="", val=None, test=None)
    if has["val"] and has["test"] and task.dataset == "folder":
        if task.val_share is not None:
            raise InputError(
                "task.val_share",
                f"{str(root / 'val')!r} holds the validation split, got {task.val_share!r}",
                "remove it",
            )
        return _Layout(root=root, train="train", val="val", test="test")
    if task.dataset == "imagenet" or not has["test"]:
        # ImageNet's own test images have no published labels.
        return _Layout(root=root, train="train", val=None, test="val" if has["val"] else None)
    return _Layout(root=root, train="train", val=None, test="test")


def _classes(folder: Path) -> list[str]:
    """Names of the class folders, sorted: their places are the labels."""
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    except OSError as error:
        raise InputError(
            "task.data_dir", f"{str(folder)!r} cannot be read: {error.strerror}", "correct it"
        ) from None


def _check_classes(task: TaskSettings, layout: _Layout, classes: list[str]) -> None:
    folder = layout.root / layout.train
    expected = f"exactly {IMAGENET_CLASSES}" if task.dataset == "imagenet" else "at least 2"
    fits = len(classes) == IMAGENET_CLASSES if task.dataset == "imagenet" else len(classes) >= 2
    if not fits:
        raise InputError(
            "task.data_dir",
            f"{str(folder)!r} must hold {expected} class folders, got {len(classes)}",
            "use `dataset: folder` for other images than ImageNet's"
            if task.dataset == "imagenet"
            else "put the images of each class into a folder of its own",
        )
    for part in (layout.val, layout.test):
        if part is None:
            continue
        other = _classes(layout.root / part)
        unknown = sorted(set(other) ^ set(classes))
        if unknown:
            raise InputError(
                "task.data_dir",
                f"{str(folder)!r} and {str(layout.root / part)!r} must hold the same class "
                f"folders, and {unknown[0]!r} is in one of them alone",
                "add or remove it",
            )


def _index(folder: Path, classes: list[str], least: int) -> tuple[ImageFiles, torch.Tensor]:
    """The images of a folder and their labels, listed once per machine.

    Args:
        folder: of class folders.
        classes: their names.
        least: images that each must hold.
    """
    changed = [(folder / name).stat().st_mtime_ns for name in classes]
    # Another list when images were added or removed, which changes their folder's time.
    key = hashlib.sha256(repr((str(folder), classes, changed)).encode()).hexdigest()[:20]
    listed = prepared(data_root(), f"list-{key}", _listing(folder, classes, least))
    files = ImageFiles(
        folder=str(folder), names=mapped(listed, "names"), ends=mapped(listed, "ends")
    )
    return files, torch.from_numpy(np.asarray(mapped(listed, "labels")))


def _listing(folder: Path, classes: list[str], least: int) -> Callable[[], Arrays]:
    def make() -> dict[str, NDArray[Any]]:
        names: list[str] = []
        firsts: set[str] = set()
        labels: list[int] = []
        for label, name in enumerate(classes):
            found = sorted(
                entry.name
                for entry in os.scandir(folder / name)
                if entry.name.lower().endswith(ENDINGS)
                and not entry.name.startswith(".")
                # Opening a pipe of that name would never end.
                and entry.is_file()
            )
            if len(found) < least:
                raise InputError(
                    "task.data_dir",
                    f"{str(folder / name)!r} must hold at least {least} image(s) "
                    f"({', '.join(ENDINGS)}), got {len(found)}",
                    "add images or remove the folder",
                )
            names += [f"{name}/{file}" for file in found]
            firsts.add(f"{name}/{found[0]}")
            labels += [label] * len(found)
        check_images(folder, names, firsts)
        encoded = [os.fsencode(name) for name in names]
        lengths = np.asarray([len(name) for name in encoded], dtype=np.int64)
        return {
            "names": np.frombuffer(b"".join(encoded), dtype=np.uint8),
            "ends": lengths.cumsum(),
            "labels": np.asarray(labels, dtype=np.int64),
        }

    return make
