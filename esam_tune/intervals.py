"""How sure a mean over seeds is, and whether two means differ: Student's t, on arrays alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

CONFIDENCE = 0.95

Interval = tuple[float, float]


def standard_error(values: Sequence[float]) -> float | None:
    """Standard error of the mean of n independent values; None for fewer than two.

    Args:
        values: shape (n,), finite, in any unit, which is the result's, too.
    """
    if len(values) < 2:
        return None
    return float(np.std(values, ddof=1)) / math.sqrt(len(values))


def mean_interval(values: Sequence[float]) -> Interval | None:
    """The 95 % interval of the mean of n independent values, by Student's t with n - 1 degrees.

    It is wide for few values, as it must be: 12.7 standard errors either side for two, 4.3 for
    three, 2.8 for five. None for fewer than two, which say nothing of how they spread.

    Args:
        values: shape (n,), finite.
    """
    error = standard_error(values)
    if error is None:
        return None
    # Here, and not from scipy.stats: that takes a second to import, and every verb would wait.
    from scipy.special import stdtrit

    mean = float(np.mean(values))
    half = error * float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2))
    return mean - half, mean + half


def difference_interval(first: Mapping[int, float], second: Mapping[int, float]) -> Interval | None:
    """The 95 % interval of the mean difference of two settings over the seeds that both ran.

    Runs of one seed share their initial weights and the order of their batches, so the difference
    is taken seed by seed (a paired t-test): what a seed does to both settings drops out.

    An accuracy is a multiple of one image's share. On a few hundred images two differences are
    often equal and their interval has no width, so that with two seeds up to a tenth of truly equal
    settings is told apart; from three seeds on it is a twentieth, as it should be.

    Args:
        first: seed to value.
        second: likewise.

    Returns:
        The interval of first - second; None with fewer than two common seeds.
    """
    common = sorted(first.keys() & second.keys())
    return mean_interval([first[seed] - second[seed] for seed in common])
