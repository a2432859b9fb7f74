"""What data a task trains and validates on, in a line: a digest that changes when they do."""

import hashlib
from typing import Any

from torch import Tensor

from esam_tune.config import TaskSettings
from esam_tune.tasks.data import load_split
from esam_tune.tasks.splits import ArraySplit, Split
from esam_tune.tasks.stream import StreamSplit

_ROWS = 4096


def data_digest(task: TaskSettings) -> dict[str, Any]:
    """Name, digest and sizes of a task's training and validation splits; no test data is read.

    The digest covers which samples are in which split, their labels with the noise, and of arrays
    their pixels; images that are streamed count by the names of their files.

    Raises:
        InputError: when the data set is missing or corrupt.
    """
    digest = hashlib.sha256()
    splits = {name: load_split(task, name) for name in ("train", "val")}
    for split in splits.values():
        _add(digest, split.labels)
        _add_images(digest, split)
    train = splits["train"]
    return {
        "name": task.dataset,
        "digest": digest.hexdigest()[:16],
        "profile": {
            **{f"{name}_samples": len(split) for name, split in splits.items()},
            "classes": train.num_classes,
            "image_shape": list(train.image_shape),
            "label_noise": task.label_noise,
            "split_seed": task.split_seed,
        },
    }


def _add_images(digest: "hashlib._Hash", split: Split) -> None:
    if isinstance(split, ArraySplit):
        # In parts: the array may be a file larger than memory.
        for rows in split.rows.split(_ROWS):
            _add(digest, split.pixels[rows])
    elif isinstance(split, StreamSplit):
        _add(digest, split.rows)
        digest.update(split.files.names.tobytes())


def _add(digest: "hashlib._Hash", values: Tensor) -> None:
    digest.update(values.contiguous().numpy().tobytes())
