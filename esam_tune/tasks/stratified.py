"""Stratified splits."""

import torch
from torch import Tensor

from esam_tune.tasks.seeds import seeded


def split_rows(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split rows in two, with the same share of every class in the second part.

    Each class gives ``share`` of its rows, rounded, yet at least one, and keeps at least one.

    Args:
        labels: shape (n,), int64; each class that occurs has at least two rows.
        share: of the second part, in (0, 1).
        seed: fixes which rows go there.

    Returns:
        Row indices of the first part and of the second, each ascending.
    """
    generator = seeded(seed, "split")
    shuffled = torch.randperm(len(labels), generator=generator)
    by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]
    counts = torch.bincount(labels)
    position = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels[by_class]]
    taken = (counts * share).round().long().clamp(min=1)
    taken = torch.minimum(taken, counts - 1)
    second = position < taken[labels[by_class]]
    return by_class[~second].sort().values, by_class[second].sort().values
