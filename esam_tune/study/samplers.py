"""Samplers by name: where a study's next setting comes from.

Optuna's own where it has a good one. A space of this project has conditions (beta only where the
optimizer reads it, and those that the space file states), which TPE and random sampling take as
they are. NSGA-II, NSGA-III and the Gaussian process know flat spaces only: they are given every
dimension in every trial, and what the trial does not search is dropped afterwards. Quasi-random
points and grids need no history at all, so they are functions of the proposal's index.

Every sampler is made anew for each proposal, seeded by the study's seed and the proposal's index;
all it remembers is in Optuna's storage. So a study that was interrupted goes on with the proposals
it would have made undisturbed.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import optuna

from esam_tune.domains import Value
from esam_tune.study.dimensions import Choice, Dimension
from esam_tune.study.grid import grid_points
from esam_tune.study.spec import StudySpec
from esam_tune.study.tpe import TPE

# Samplers that need every dimension in every trial.
_FLAT = ("nsga2", "nsga3", "gp")
# Samplers that may insist on a setting that was turned down (of the cheapest optimizer there may be
# one alone): after so many attempts every second one is random.
_LEARNING = ("tpe", *_FLAT)
_INSISTING = 4
# Where the points of a second attempt begin: behind those of any budget to be expected. No power of
# two, at whose distance the points of a Sobol sequence share their leading digits, and so choices.
_STRIDE = 4099


def propose(
    study: optuna.Study, spec: StudySpec, index: int, attempt: int = 0
) -> tuple[optuna.Trial, dict[str, Value]]:
    """Ask for one setting.

    Args:
        study: the stored study, which the sampler learns from.
        spec: what is searched, and by which sampler.
        index: of the proposal, from 0.
        attempt: how often this proposal was turned down already.

    Returns:
        Optuna's trial and the complete parameters.
    """
    study.sampler = build_sampler(spec, index, attempt)
    trial = study.ask()
    params: dict[str, Value] = {}
    for key, dimension in spec.ordered.items():
        if spec.sampler in _FLAT or spec.searches(key, params):
            params[key] = suggest(trial, key, dimension)
    return trial, spec.completed(params)


def propose_point(
    study: optuna.Study, spec: StudySpec, index: int, points: Sequence[Mapping[str, Value]]
) -> tuple[optuna.Trial, dict[str, Value]]:
    """Take one of some points at random, as :func:`propose` does of the whole space."""
    point = points[int(np.random.default_rng([spec.seed, index]).integers(len(points)))]
    study.sampler = _Point(flat_point(spec, point))
    trial = study.ask()
    dimensions = spec.dimensions if spec.sampler in _FLAT else point
    for key in dimensions:
        suggest(trial, key, spec.dimensions[key])
    return trial, spec.completed(point)


def build_sampler(spec: StudySpec, index: int, attempt: int = 0) -> optuna.samplers.BaseSampler:
    """The study's sampler as it makes one proposal; arguments as in :func:`propose`."""
    words = [spec.seed, index, *filter(None, [attempt])]
    seed = int(np.random.SeedSequence(words).generate_state(1)[0])
    # Ten random trials, Optuna's default, would leave a short search no time to learn.
    startup = min(10, max(3, spec.trials // 3))
    # A population of fifty, Optuna's default, would be random search to most budgets.
    population = min(50, max(4, spec.trials // 4))
    if spec.sampler in _LEARNING and attempt >= _INSISTING and attempt % 2:
        return optuna.samplers.RandomSampler(seed=seed)
    match spec.sampler:
        case "tpe":
            return TPE(seed=seed, n_startup_trials=startup)
        case "nsga2":
            return _NSGAII(seed=seed, population_size=population)
        case "nsga3":
            return _NSGAIII(seed=seed, population_size=population)
        case "gp":
            # Without greenlet it is slower, which is no news to users.
            logging.getLogger("optuna._gp.batched_lbfgsb").setLevel(logging.ERROR)
            with _experiments():
                return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup)
        case "random":
            return optuna.samplers.RandomSampler(seed=seed)
        case "qmc" | "known_cost":  # the latter before it knows enough to choose, or finds nothing
            return _Point(sobol_point(spec, index + attempt * _STRIDE))
        case "grid":
            # A grid is gone through in an order that the seed shuffles, so that its first part is
            # no corner of it.
            points = list(grid_points(spec))
            order = np.random.default_rng(spec.seed).permutation(len(points))
            return _Point(points[order[(index + attempt) % len(points)]])
    raise AssertionError(f"no sampler {spec.sampler!r}")


def flat_point(spec: StudySpec, point: Mapping[str, Value]) -> dict[str, Value]:
    """A known point of the space as the study's sampler takes it.

    To samplers of flat spaces, dimensions that the point lacks are given their middle: without
    them Optuna would take them out of the space for good.
    """
    if spec.sampler not in _FLAT:
        return dict(point)
    return {**{key: d.at(0.5) for key, d in spec.dimensions.items()}, **point}


def first_generation(spec: StudySpec) -> dict[str, int]:
    """What makes a trial that was not proposed here one of a genetic algorithm's first parents.

    Where there are as many as a population, the first proposal is their child already.
    """
    kinds: dict[str, Any] = {"nsga2": _NSGAII, "nsga3": _NSGAIII}
    if spec.sampler not in kinds:
        return {}
    return {kinds[spec.sampler]._get_generation_key(): 0}


def sobol_point(spec: StudySpec, index: int) -> dict[str, Value]:
    """A point of a scrambled Sobol sequence over the dimensions; the spec's seed scrambles it."""
    from scipy.stats import qmc

    sobol = qmc.Sobol(len(spec.dimensions), seed=spec.seed)
    if index:
        sobol.fast_forward(index)
    (shares,) = sobol.random(1).tolist()
    return {key: d.at(x) for (key, d), x in zip(spec.ordered.items(), shares, strict=True)}


def distribution(dimension: Dimension) -> optuna.distributions.BaseDistribution:
    """A dimension as Optuna's storage knows it."""
    if isinstance(dimension, Choice):
        return optuna.distributions.CategoricalDistribution(dimension.choices)
    if dimension.integer:
        return optuna.distributions.IntDistribution(
            int(dimension.low), int(dimension.high), log=dimension.log
        )
    return optuna.distributions.FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def suggest(trial: optuna.Trial, key: str, dimension: Dimension) -> Any:
    """Let the sampler choose a dimension's value."""
    if isinstance(dimension, Choice):
        return trial.suggest_categorical(key, dimension.choices)
    if dimension.integer:
        return trial.suggest_int(key, int(dimension.low), int(dimension.high), log=dimension.log)
    return trial.suggest_float(key, dimension.low, dimension.high, log=dimension.log)


@contextmanager
def _experiments() -> Iterator[None]:
    """Take samplers that Optuna calls experimental without a word to the user of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


class _Generations(optuna.samplers.BaseSampler):
    """Chooses a generation's parents apart from making a child of them.

    Optuna does both with the same random numbers, and gives parents by rank the first time and by
    number once they are stored, so that a proposal would depend on whether another of its
    generation, which may have been lost, was asked for before.
    """

    def __init__(self, **arguments: Any) -> None:
        with _experiments():
            super().__init__(**arguments)
        self._arguments = arguments

    def sample_relative(
        self,
        study: optuna.Study,
        trial: optuna.trial.FrozenTrial,
        search_space: dict[str, optuna.distributions.BaseDistribution],
    ) -> dict[str, Any]:
        """A child of the stored parents, made by a sampler that did not choose them."""
        sampler: Any = self
        generation = sampler.get_trial_generation(study, trial)
        sampler.get_parent_population(study, generation)
        other: Any = type(self)(**self._arguments)
        child: dict[str, Any] = super(_Generations, other).sample_relative(
            study, trial, search_space
        )
        return child


class _NSGAII(_Generations, optuna.samplers.NSGAIISampler):
    pass


class _NSGAIII(_Generations, optuna.samplers.NSGAIIISampler):
    pass


class _Point(optuna.samplers.BaseSampler):
    """Suggests one point, whatever the study holds."""

    def __init__(self, point: Mapping[str, Value]) -> None:
        self._point = point

    def infer_relative_search_space(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial
    ) -> dict[str, optuna.distributions.BaseDistribution]:
        """Nothing is sampled together."""
        return {}

    def sample_relative(
        self,
        study: optuna.Study,
        trial: optuna.trial.FrozenTrial,
        search_space: dict[str, optuna.distributions.BaseDistribution],
    ) -> dict[str, Any]:
        """Nothing is sampled together."""
        return {}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: optuna.trial.FrozenTrial,
        param_name: str,
        param_distribution: optuna.distributions.BaseDistribution,
    ) -> Any:
        """The point's value of the parameter."""
        return self._point[param_name]
