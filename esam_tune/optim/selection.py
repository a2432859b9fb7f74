"""Which rows of a batch the sharpness-aware pass uses.

Source: Du et al., ICLR 2022 (arXiv 2110.03141), section 3.2.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from esam_tune.optim.arguments import checked_share


def num_selected(num_rows: int, gamma: float) -> int:
    """``max(1, round(gamma * num_rows))``, with Python's rounding of halves to even."""
    return max(1, round(gamma * num_rows))


def select_rows(increase: Tensor, gamma: float) -> Tensor:
    """The rows with the largest loss increase.

    Ties go to the lower row index. NaN, which tells nothing about sharpness, ranks below
    everything else, so such a row is chosen only when the others do not suffice.

    Args:
        increase: shape (n,), the loss at the perturbed weights less the loss at the weights, or a
            score that ranks like it.
        gamma: share of the rows to select, in (0, 1].

    Returns:
        A LongTensor of shape (k,), k = max(1, round(gamma * n)), row indices in ascending order,
        on the device of `increase`.

    Raises:
        TypeError: when `increase` is not a floating-point tensor or `gamma` not a number.
        ValueError: when `increase` is not of shape (n,) with n >= 1, or `gamma` outside (0, 1].
    """
    gamma = checked_share("gamma", gamma)
    if not isinstance(increase, Tensor) or not increase.is_floating_point():
        raise TypeError(f"increase must be a floating-point tensor, got {increase!r}")
    if increase.dim() != 1 or increase.numel() == 0:
        raise ValueError(
            f"increase must have shape (n,) with n >= 1, got shape {tuple(increase.shape)}"
        )
    ranked = increase.detach().nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    order = torch.sort(ranked, descending=True, stable=True).indices
    return order[: num_selected(increase.numel(), gamma)].sort().values


def split_rows(rows: Tensor | None, counts: Sequence[int]) -> tuple[list[Tensor | None], list[int]]:
    """Rows of a batch as rows of each of its micro-batches, and how many each got.

    Args:
        rows: ascending row indices into the micro-batches one after the other; None for all.
        counts: rows in each micro-batch.

    Returns:
        For each micro-batch its own row indices, None for all, and their number. With several
        micro-batches the numbers have to be fetched from the device.
    """
    if rows is None:
        return [None] * len(counts), list(counts)
    if len(counts) == 1:
        return [rows], [rows.numel()]
    parts: list[Tensor | None] = []
    start = 0
    for count in counts:
        parts.append(rows[(rows >= start) & (rows < start + count)] - start)
        start += count
    return parts, [part.numel() for part in parts if part is not None]
