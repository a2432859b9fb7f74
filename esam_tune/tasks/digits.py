"""scikit-learn's handwritten digits: 1,797 real images of 8x8 pixels, shipped with the library."""

import numpy as np
import torch

from esam_tune.config import TaskSettings
from esam_tune.tasks.splits import ArraySplit, SplitName

# Samples kept from training: 20 % each. The rest, 1,079 images, trains.
HELD_OUT = 359
NUM_CLASSES = 10
IMAGE_SHAPE = (1, 8, 8)


def load_digits(task: TaskSettings, name: SplitName) -> ArraySplit:
    """One stratified split of the digits, as float32 of shape (n, 1, 8, 8).

    The images are standardised with the training split's mean and deviation.
    """
    images, labels, rows = _splits(task)
    chosen = rows[name]
    mean, deviation = _moments(images[rows["train"]])
    standard = torch.tensor((images[chosen] - mean) / deviation, dtype=torch.float32)
    return ArraySplit(
        pixels=standard[:, None],
        rows=torch.arange(len(chosen)),
        labels=torch.tensor(labels[chosen], dtype=torch.int64),
        num_classes=NUM_CLASSES,
        image_shape=IMAGE_SHAPE,
    )


def digits_moments(task: TaskSettings) -> tuple[float, float]:
    """Mean and deviation of the training images' pixels, which lie between 0 and 16."""
    images, _, rows = _splits(task)
    return _moments(images[rows["train"]])


def _splits(task: TaskSettings) -> tuple[np.ndarray, np.ndarray, dict[SplitName, np.ndarray]]:
    """All images, shape (1797, 8, 8), their labels, and the rows of each split."""
    # scikit-learn takes over a second to import: only a process that trains pays for it.
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    bunch = datasets.load_digits()
    rows = np.arange(len(bunch.target))
    seed = task.split_seed
    rest, test = train_test_split(
        rows, test_size=HELD_OUT, stratify=bunch.target, random_state=seed
    )
    train, val = train_test_split(
        rest, test_size=HELD_OUT, stratify=bunch.target[rest], random_state=seed
    )
    return bunch.images, bunch.target, {"train": train, "val": val, "test": test}


def _moments(images: np.ndarray) -> tuple[float, float]:
    return float(images.mean()), float(images.std())
