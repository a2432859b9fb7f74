"""Early stopping with several objectives: rungs at which trials are ranked against each other.

Asynchronous successive halving in its stopping form (Li et al. 2020, "A System for Massively
Parallel Hyperparameter Tuning") with the multi-objective ranking of MO-ASHA (Schmucker et al.
2021, "Multi-objective Asynchronous Successive Halving"): whoever reaches a rung is sorted with all
who reached it before into non-dominated layers, and goes on if it is among the best 1/eta.

A cost that is known from the first step needs care that neither paper takes: the cheapest trial
is never dominated, however badly it learns. So baselines, and in a study without any all trials,
also beat a trial that learned less than they at a cost *up to a margin below theirs*; and whom a
baseline beats stands behind all others, whatever its layer. A bad learner goes on only while
nothing of about its price does better. In the order within a layer, too, being cheapest counts no
more than being apart.

Nothing here is random or timed: the same reports in the same order give the same decisions, so a
study's journal rebuilds its rungs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

# By how much dearer than a trial, as a share of its cost, what beats it may be.
MARGIN = 0.1


@dataclass(frozen=True, kw_only=True)
class Objectives:
    """What trials are ranked by, every column minimised.

    Args:
        static: whether each column is a cost that does not change while a trial learns; such a
            column holds logarithms, so that a margin is a share. One column at least is learned.
        margin: of baselines in static columns, in the columns' own (logarithmic) unit.
        contender_margin: the same of all others. Where baselines bound the bad learners, 0 leaves
            neighbours on the front apart.
    """

    static: tuple[bool, ...]
    margin: float = math.log1p(MARGIN)
    contender_margin: float = 0.0

    def beats(self, first: Floats, second: Floats, contends: Bools) -> Bools:
        """Who of the first beats whom of the second.

        A row beats another if it dominates it, or if it is at least as good in every learned
        column, better in one, and in no static column dearer by more than the margin. This has no
        cycles, and whoever dominates a row is beaten by no more rows than it is.

        Args:
            first: Shape (n, m), finite.
            second: Shape (k, m), finite.
            contends: Shape (n,): whether each of the first is a contender, and no baseline.

        Returns:
            Shape (n, k): [i, j] says whether row i of the first beats row j of the second.
        """
        static = np.array(self.static)
        ours, theirs = first[:, None, :], second[None, :, :]
        as_good, better = ours <= theirs, ours < theirs
        every, some = np.logical_and.reduce, np.logical_or.reduce
        beats: Bools = every(as_good, axis=2) & some(better, axis=2)
        margin = np.where(contends, self.contender_margin, self.margin)[:, None, None]
        about_as_cheap = every((ours <= theirs + margin)[..., static], axis=2)
        learned_more = every(as_good[..., ~static], axis=2) & some(better[..., ~static], axis=2)
        beats |= learned_more & about_as_cheap
        return beats

    def crowding(self, costs: Floats) -> Floats:
        """How far apart each row of a layer stands from its neighbours.

        The crowding distance of NSGA-II (Deb et al. 2002), but that only the best row of a learned
        column is infinitely far, and rows that are equal are not apart at all; the other ends
        count the gap on their one side twice.

        Args:
            costs: Shape (n, m), finite: the rows of one layer.

        Returns:
            Shape (n,): sum over the columns of the gap between the neighbours on both sides, each
            as a share of the column's extent.
        """
        distance = np.zeros(len(costs))
        for column, static in zip(costs.T, self.static, strict=True):
            extent = np.ptp(column)
            if extent == 0:
                continue
            values = np.unique(column)
            gaps = np.diff(values)
            left, right = np.append(gaps[0], gaps), np.append(gaps, gaps[-1])
            apart = ((left + right) / extent)[np.searchsorted(values, column)]
            if not static:
                apart = np.where(column == values[0], math.inf, apart)
            # A value that several rows share sets none of them apart.
            shared = (column[:, None] == column[None, :]).sum(axis=1) > 1
            distance += np.where(shared & np.isfinite(apart), 0.0, apart)
        twins = np.logical_and.reduce(costs[:, None, :] == costs[None, :, :], axis=2)
        return np.where(twins.sum(axis=1) > 1, 0.0, distance)


def layers(beats: Bools) -> npt.NDArray[np.int64]:
    """Non-dominated layer of each row, from 0: a row's is the next after those that beat it.

    Args:
        beats: Shape (n, n), without cycles; see :meth:`Objectives.beats`.

    Returns:
        Shape (n,). A row that beats another is in a lower layer.
    """
    found = np.full(len(beats), -1, dtype=np.int64)
    beaten_by = beats.sum(axis=0)
    layer = 0
    while (found < 0).any():
        members = (found < 0) & (beaten_by == 0)
        assert members.any(), "the relation has no cycles"
        found[members] = layer
        beaten_by -= beats[members].sum(axis=0)
        layer += 1
    return found


@dataclass(kw_only=True)
class _Rung:
    """Everyone who reached one epoch: values, who beats whom, and whose places are counted."""

    epoch: int
    objectives: Objectives
    costs: Floats = field(init=False)
    beats: Bools = field(init=False)
    contenders: Bools = field(init=False)

    def __post_init__(self) -> None:
        self.costs = np.empty((0, len(self.objectives.static)))
        self.beats = np.empty((0, 0), dtype=np.bool_)
        self.contenders = np.empty(0, dtype=np.bool_)

    def add(self, costs: Sequence[float], *, contender: bool) -> None:
        """Take one more in."""
        row = np.array([costs], dtype=np.float64)
        self.beats = np.pad(self.beats, (0, 1))
        own = np.array([contender])
        self.beats[-1, :-1] = self.objectives.beats(row, self.costs, own)[0]
        self.beats[:-1, -1] = self.objectives.beats(self.costs, row, self.contenders)[:, 0]
        self.costs = np.concatenate([self.costs, row])
        self.contenders = np.append(self.contenders, contender)

    def ahead(self) -> int:
        """How many contenders stand strictly before the one that came last.

        Those that no baseline beats come first, then lower layers, then who is further apart.
        """
        beaten = np.logical_or.reduce(self.beats[~self.contenders], axis=0)
        found = layers(self.beats)
        own = found == found[-1]
        distance = np.full(len(found), 0.0)
        distance[own] = self.objectives.crowding(self.costs[own])
        behind = (found > found[-1]) | (own & (distance <= distance[-1]))
        before = np.where(beaten == beaten[-1], ~behind, ~beaten)
        return int((self.contenders & before).sum())


def rung_epochs(grace: int, eta: float, last: int) -> tuple[int, ...]:
    """Epochs after which trials are ranked: grace, eta * grace, eta**2 * grace, ... before `last`.

    Args:
        grace: the first one, in epochs, at least 1.
        eta: ratio of one to the next, above 1.
        last: a trial's epochs; nobody is stopped there.
    """
    epochs: list[int] = []
    power = 0
    while (epoch := round(grace * eta**power)) < last:
        # Ratios near 1 round to the same epoch several times.
        if not epochs or epoch > epochs[-1]:
            epochs.append(epoch)
        power += 1
    return tuple(epochs)


class Rungs:
    """Decides at each rung whether a trial goes on; takes reports in the order of the journal.

    Args:
        epochs: of the rungs, ascending; see :func:`rung_epochs`.
        eta: of those at a rung, one in eta goes on (rounded up).
        objectives: what they are ranked by.
    """

    def __init__(self, epochs: Sequence[int], eta: float, objectives: Objectives) -> None:
        self._rungs = [_Rung(epoch=epoch, objectives=objectives) for epoch in epochs]
        self._eta = eta
        self._passed: dict[str, int] = {}
        self._stopped: dict[str, str] = {}

    def report(
        self, trial_id: str, epoch: int, costs: Sequence[float], *, exempt: bool = False
    ) -> bool:
        """Take a trial's report in.

        A report that was taken in before changes nothing and is answered as it was then.

        Args:
            trial_id: of the trial.
            epoch: absolute, from 1.
            costs: the objectives' values after it, minimised; those of static columns as
                logarithms.
            exempt: whether the trial always goes on: it is compared with, but takes no place.

        Returns:
            Whether the trial goes on.
        """
        for rung in self._rungs:
            reached = rung.epoch <= epoch
            if trial_id in self._stopped or not reached:
                break
            if rung.epoch > self._passed.get(trial_id, 0):
                self._passed[trial_id] = rung.epoch
                self._rank(rung, trial_id, costs, exempt=exempt)
        return trial_id not in self._stopped

    def stopped(self, trial_id: str) -> str | None:
        """Why a trial was stopped, or None for one that was not."""
        return self._stopped.get(trial_id)

    def _rank(self, rung: _Rung, trial_id: str, costs: Sequence[float], *, exempt: bool) -> None:
        if not all(map(math.isfinite, costs)):
            if not exempt:
                self._stopped[trial_id] = (
                    f"stopped after epoch {rung.epoch}: an objective is not finite"
                )
            return
        rung.add(costs, contender=not exempt)
        if exempt:
            return
        ahead, count = rung.ahead(), int(rung.contenders.sum())
        if ahead >= math.ceil(count / self._eta):
            self._stopped[trial_id] = (
                f"stopped after epoch {rung.epoch}: rank {ahead + 1} of {count}"
            )
