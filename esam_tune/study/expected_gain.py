"""How much a setting of known cost and uncertain accuracy may add to a front: pure arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from esam_tune import pareto_front

Floats = npt.NDArray[np.float64]

# An error below this counts as this: otherwise a single trial without a mistake would be
# infinitely far from all others.
_LEAST_ERROR = 1e-3
_NODES = 24


def score(accuracies: npt.ArrayLike) -> Floats:
    """What is modelled of accuracies in 0..1: minus the logarithm of the error.

    In it 97 % and 98 % are further apart than 77 % and 78 %.
    """
    errors = 1.0 - np.asarray(accuracies, dtype=np.float64)
    scores: Floats = -np.log(np.maximum(errors, _LEAST_ERROR))
    return scores


def accuracy(scores: Floats) -> Floats:
    """The accuracy of a score; 0 below that of no right answer."""
    return np.clip(1.0 - np.exp(-scores), 0.0, 1.0)


def front_inside(points: Floats, corner: Floats) -> Floats:
    """The front of the points below a corner, ascending in its first column.

    Args:
        points: Shape (n, 2), minimised.
        corner: Shape (2,).

    Returns:
        Shape (k, 2), without repetitions.
    """
    inside = points[(points < corner).all(axis=1)]
    return np.unique(inside[pareto_front.front(inside)], axis=0)


def expected_gain(
    mean: Floats, deviation: Floats, costs: Floats, front: Floats, corner: Floats
) -> Floats:
    """Expected hypervolume that each candidate adds to a front of accuracy and cost.

    The expected hypervolume improvement of Emmerich, Giannakoglou and Naujoks 2006, "Single- and
    multiobjective evolutionary optimization assisted by Gaussian random field metamodels", where
    one of two objectives is certain: an integral over the other, taken by Gauss-Hermite quadrature.

    Args:
        mean: Shape (n,): of the candidates' scores, see :func:`score`.
        deviation: Shape (n,): their standard deviations.
        costs: Shape (n,): the candidates' costs.
        front: Shape (k, 2): minus accuracy and cost, as :func:`front_inside` gives them.
        corner: Shape (2,): minus the least accuracy that counts, and the greatest cost.

    Returns:
        Shape (n,), in accuracy times cost.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    outcomes = -accuracy(mean[:, None] + deviation[:, None] * nodes)
    # Better than the front's first row, all that is cheaper than the corner is new; between two
    # rows, what is cheaper than the first of them.
    starts = np.append(-1.0, front[:, 0])
    ends = np.append(front[:, 0], corner[0])
    heights = np.append(corner[1], front[:, 1]) - costs[:, None]
    widths = ends - np.maximum(starts, outcomes[:, :, None])
    added = (np.maximum(widths, 0.0) * np.maximum(heights, 0.0)[:, None, :]).sum(axis=2)
    gains: Floats = added @ weights / weights.sum()
    return gains
