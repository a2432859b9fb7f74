"""A sampler for studies of accuracy against counted cost: the cost is known, only accuracy guessed.

What a step costs in FLOPs follows from its setting (:mod:`esam_tune.study.feasibility`); what a
trial learns does not. So one Gaussian process models the accuracy over the search space, and the
next setting is the one that is expected to add most hypervolume at its known cost.

A trial that was stopped early counts with what finished ones gained from that epoch to their end,
and the spread of that gain as noise. A running one counts with the model's own guess, so that
settings tried at the same time are apart ("kriging believer": Ginsbourger, Le Riche and Carraro
2010, "Kriging is well-suited to parallelize optimization").
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from esam_tune import metrics as keys
from esam_tune.domains import Value
from esam_tune.study.dimensions import Choice
from esam_tune.study.expected_gain import Floats, expected_gain, front_inside, score
from esam_tune.study.samplers import sobol_point
from esam_tune.study.spec import StudySpec, coordinates
from esam_tune.study.trial_record import TrialRecord
from esam_tune.study.warm_start import WarmTrial

Point = dict[str, Value]
# Candidates drawn from the whole space, and around each setting of the front.
_DRAWN = 1024
_AROUND = 64
# How far around, as a share of a range.
_SPREAD = 0.08
# The kernel is fitted to no more trials than this, drawn at random; the guess uses all.
_FITTED = 128
# A gain up to the end is a mean over no fewer trials than this.
_GAINS = 3


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A trial as the model takes it.

    Args:
        point: where it lies in the search space; None for a baseline outside of it, which is on the
            front and teaches the model nothing.
        cost: of its step.
        accuracies: after each epoch so far, in 0..1; of a trial with several seeds the first one's
            up to the mean of all at the end.
        ended: whether the last of them is its result.
        baseline: whether it is what the search is up against.
    """

    point: Mapping[str, Value] | None
    cost: float
    accuracies: Sequence[float]
    ended: bool
    baseline: bool = False


class KnownCost:
    """Proposes settings from what trials showed.

    Args:
        spec: a study whose objectives are ``spec.KNOWN_COST_OBJECTIVES``.
        price: the cost of complete parameters, in steps of the base optimizer.
    """

    def __init__(self, spec: StudySpec, price: Callable[[Mapping[str, Value]], float]) -> None:
        self._spec = spec
        self._price = price
        self._seen: dict[str, Seen] = {}
        self._warm: set[str] = set()

    def start(self, trial_id: str, params: Mapping[str, Value]) -> None:
        """Take note of a trial that begins."""
        self._take(trial_id, params, (), ended=False)

    def learn(self, trial: TrialRecord) -> None:
        """Take note of what is known of a trial."""
        shown, ended = [], False
        if trial.state in ("complete", "pruned"):
            shown = [value for value in trial.runs[0].accuracies if value is not None]
        if trial.state == "complete":
            shown, ended = [*shown[:-1], *trial.values([keys.VAL_ACCURACY])], True
        elif trial.state == "failed" and trial.diverged:
            # As bad as can be: so that its neighbours are not tried next.
            shown, ended = [0.0], True
        elif trial.state == "failed":
            # It was lost with its machine, and says nothing.
            self._seen.pop(trial.trial_id, None)
            return
        self._take(trial.trial_id, trial.params, shown, ended=ended, baseline=trial.baseline)

    def learn_warm(self, source: str, trial: WarmTrial) -> None:
        """Take note of an earlier study's result."""
        if trial.state == "complete":
            shown = trial.values([keys.VAL_ACCURACY])
            self._take(source, trial.params, shown, ended=True)
            self._warm.add(source)

    def _take(
        self,
        key: str,
        params: Mapping[str, Value],
        accuracies: Sequence[float],
        *,
        ended: bool,
        baseline: bool = False,
    ) -> None:
        self._seen[key] = Seen(
            point=coordinates(self._spec, params),
            cost=self._price(params),
            accuracies=accuracies,
            ended=ended,
            baseline=baseline,
        )

    def point(self, index: int, worth_a_trial: Callable[[Mapping[str, Value]], bool]) -> Point:
        """The next setting: values of the dimensions that its trial has, or nothing.

        The first ones spread over the space: with an earlier study's results, one more than there
        are dimensions.

        Args:
            index: of the proposal, from 0.
            worth_a_trial: whether complete parameters are; nothing is returned where no candidate
                is.
        """
        seen = [self._seen[key] for key in sorted(self._seen)]
        ended = [trial for trial in seen if trial.ended]
        inside = [trial for trial in ended if trial.point is not None]
        if index + len(self._warm) <= len(self._spec.dimensions) or len(inside) < 2:
            first = self._own(sobol_point(self._spec, index))
            return first if worth_a_trial(self._spec.completed(first)) else {}
        random = np.random.default_rng([self._spec.seed, index])
        points = np.array([[-trial.accuracies[-1], trial.cost] for trial in ended])
        corner = self._corner(ended, points)
        front = front_inside(points, corner)
        on_front = (points[:, None, :] == front).all(axis=2).any(axis=1)
        around = [t.point for t, member in zip(ended, on_front, strict=True) if member and t.point]
        candidates = [
            (point, params)
            for point in self._candidates(around, random)
            if worth_a_trial(params := self._spec.completed(point))
        ]
        if not candidates:
            return {}
        asked = np.array([encoded(self._spec, point) for point, _ in candidates])
        mean, deviation = self._guess(seen, asked, random)
        costs = np.array([self._price(params) for _, params in candidates])
        gains = expected_gain(mean, deviation, costs, front, corner)
        return candidates[int(np.argmax(gains))][0]

    def _corner(self, ended: Sequence[Seen], points: Floats) -> Floats:
        """The least accuracy and the greatest cost that count, minimised.

        Those of the cheapest and of the dearest baseline, SGD and SAM in most studies: what is no
        better than the one or dearer than the other helps nobody. Where baselines do not span a
        range of costs, all trials do. The study's constraints move the corner in.
        """
        baselines = points[[trial.baseline for trial in ended]]
        if len(baselines) and np.ptp(baselines[:, 1]) > 0:
            corner = np.array([baselines[baselines[:, 1].argmin(), 0], baselines[:, 1].max()])
        else:
            corner = points.max(axis=0)
        for constraint in self._spec.constraints:
            if constraint.metric == keys.VAL_ACCURACY and constraint.relation == ">=":
                corner[0] = min(corner[0], -constraint.bound)
            if constraint.metric == keys.STEP_FLOPS_RATIO and constraint.relation == "<=":
                corner[1] = min(corner[1], constraint.bound)
        return corner

    def _guess(
        self, seen: Sequence[Seen], asked: Floats, random: np.random.Generator
    ) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the final score at each encoded point."""
        inside = [(trial, trial.point) for trial in seen if trial.point is not None]
        rows = np.array([encoded(self._spec, point) for _, point in inside])
        guesses = [_final(trial, seen) for trial, _ in inside]
        known = np.array([guess is not None for guess in guesses])
        finals = np.array([guess for guess in guesses if guess is not None])
        inputs, scores, noise = rows[known], finals[:, 0], finals[:, 1]
        part = random.permutation(len(inputs))[:_FITTED]
        model = _fitted(_kernel(inputs.shape[1]), inputs[part], scores[part], noise[part])
        if (~known).any() or len(part) < len(inputs):
            running = rows[~known]
            believed = model.predict(running) if len(running) else np.empty(0)
            model = _fitted(
                model.kernel_,
                np.concatenate([inputs, running]),
                np.concatenate([scores, believed]),
                np.concatenate([noise, np.zeros(len(running))]),
                optimizer=None,
            )
        mean, deviation = model.predict(asked, return_std=True)
        return mean, deviation

    def _candidates(
        self, around: Sequence[Mapping[str, Value]], random: np.random.Generator
    ) -> list[Point]:
        """Points drawn from the whole space, and near some of it."""
        dimensions = self._spec.ordered.items()
        drawn = [{key: d.at(random.random()) for key, d in dimensions} for _ in range(_DRAWN)]
        drawn += [self._near(point, random) for point in around for _ in range(_AROUND)]
        return [self._own(point) for point in drawn]

    def _near(self, point: Mapping[str, Value], random: np.random.Generator) -> Point:
        """A point near another: ranges move a little, choices stay."""
        moved: Point = {}
        for key, dimension in self._spec.ordered.items():
            if key not in point:
                moved[key] = dimension.at(random.random())
            elif isinstance(dimension, Choice):
                moved[key] = point[key]
            else:
                share = dimension.share(float(point[key])) + _SPREAD * random.standard_normal()
                moved[key] = dimension.at(float(np.clip(share, 0.0, np.nextafter(1.0, 0.0))))
        return moved

    def _own(self, point: Mapping[str, Value]) -> Point:
        """What a point's trial has of it."""
        spec = self._spec
        return {key: point[key] for key in spec.ordered if spec.searches(key, point)}


def encoded(spec: StudySpec, point: Mapping[str, Value]) -> list[float]:
    """A point as coordinates in 0..1: a range has one, a choice one for each of its values.

    A range that the point's trial does not have lies in the middle.
    """
    row: list[float] = []
    for key, dimension in spec.ordered.items():
        if isinstance(dimension, Choice):
            row += [float(point.get(key) == choice) for choice in dimension.choices]
        else:
            row.append(dimension.share(float(point[key])) if key in point else 0.5)
    return row


def _final(trial: Seen, seen: Sequence[Seen]) -> tuple[float, float] | None:
    """A trial's score at its end, and the variance of that if it is a guess; None for unknown."""
    epochs = len(trial.accuracies)
    if epochs == 0:
        return None
    last = float(score(trial.accuracies[-1]))
    if trial.ended:
        return last, 0.0
    gains = [
        float(score(other.accuracies[-1]) - score(other.accuracies[epochs - 1]))
        for other in seen
        if other.ended and len(other.accuracies) > epochs
    ]
    if len(gains) < _GAINS:
        return None
    return last + float(np.mean(gains)), float(np.var(gains, ddof=1))


def _kernel(columns: int) -> Any:
    """A prior over the encoded space: smooth, of a scale of its own in each column, with noise.

    In units of the scores' standard deviation and of the columns' range.
    """
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    shape = Matern(np.full(columns, 0.5), (0.1, 20.0), nu=2.5)
    return ConstantKernel(1.0, (0.05, 20.0)) * shape + WhiteKernel(0.02, (1e-4, 0.5))


def _fitted(kernel: Any, inputs: Floats, scores: Floats, noise: Floats, **how: Any) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor

    spread = float(np.std(scores)) or 1.0
    model = GaussianProcessRegressor(
        kernel, alpha=1e-8 + noise / spread**2, normalize_y=True, **how
    )
    with warnings.catch_warnings():
        # A scale at its bound, or a fit cut short, still is a usable model.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(inputs, scores)
