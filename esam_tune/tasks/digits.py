"""scikit-learn's handwritten digits: 1,797 real images of 8x8 pixels, shipped with the library."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

# Samples kept from training: 20 % each. The rest, 1,079 images, trains.
HELD_OUT = 359
NUM_CLASSES = 10


def load_digits(
    name: Literal["train", "val", "test"], split_seed: int
) -> tuple[Tensor, Tensor, int]:
    """One stratified split of the digits.

    Args:
        name: of the split.
        split_seed: fixes which image belongs to which split.

    Returns:
        Images of shape (n, 1, 8, 8), standardised with the training split's mean and deviation;
        labels of shape (n,); the count of classes.
    """
    # scikit-learn takes over a second to import: only a process that trains pays for it.
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    bunch = datasets.load_digits()
    rows = np.arange(len(bunch.target))
    rest, test = train_test_split(
        rows, test_size=HELD_OUT, stratify=bunch.target, random_state=split_seed
    )
    train, val = train_test_split(
        rest, test_size=HELD_OUT, stratify=bunch.target[rest], random_state=split_seed
    )
    chosen = {"train": train, "val": val, "test": test}[name]
    mean, deviation = bunch.images[train].mean(), bunch.images[train].std()
    images = torch.tensor((bunch.images[chosen] - mean) / deviation, dtype=torch.float32)
    labels = torch.tensor(bunch.target[chosen], dtype=torch.int64)
    return images[:, None], labels, NUM_CLASSES
