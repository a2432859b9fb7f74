"""A study as asked for: its task, its search space, its objectives and its baselines."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

from esam_tune.config import (
    HYPERPARAMETERS,
    OPTIMIZERS,
    TRIAL_TRAINING,
    TaskSettings,
    TrainingSettings,
    TrialSettings,
    complete_params,
    trial_settings,
)
from esam_tune.domains import Value
from esam_tune.metrics import STEP_FLOPS_RATIO, VAL_ACCURACY, Direction
from esam_tune.study.conditions import Condition, in_order
from esam_tune.study.dimensions import Choice, Dimension

# How a study's settings are proposed, see esam_tune.study.samplers.
SAMPLERS = ("tpe", "nsga2", "nsga3", "gp", "known_cost", "random", "qmc", "grid")
# What sampler known_cost is made for.
KNOWN_COST_OBJECTIVES = {VAL_ACCURACY: "max", STEP_FLOPS_RATIO: "min"}
# By what trials are stopped early, see esam_tune.study.rungs: by all objectives, by the accuracy
# alone, or not at all.
STOPPING_KINDS = ("pareto", "asha", "none")


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A setting that runs in every study, outside the search's budget."""

    label: str
    params: Mapping[str, Value]


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """What a trial must keep to be on the front: a metric's upper or lower bound."""

    metric: str
    relation: Literal["<=", ">="]
    bound: float

    def __str__(self) -> str:
        """The constraint as the space file writes it."""
        return f"{self.relation} {self.bound!r}"

    def excess(self, value: float) -> float:
        """By how much a value breaks the bound; at most 0 when it keeps it, infinite for NaN."""
        if math.isnan(value):
            return math.inf
        return value - self.bound if self.relation == "<=" else self.bound - value


@dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """Whether trials that fall behind are stopped before their last epoch.

    Args:
        kind: ``pareto`` ranks trials by all objectives, ``asha`` by the accuracy alone, ``none``
            lets every trial run to its end.
        grace_epochs: epochs before the first ranking, or None for one in eta of a trial's.
        eta: of the trials ranked together one in eta goes on, to eta times the epochs.
    """

    kind: str = "none"
    grace_epochs: int | None = None
    eta: float = 3.0


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """A study as asked for.

    Args:
        name: of the study, also of its folder.
        description: what the study asks, for people.
        task: what every trial trains.
        training: how; a trial's parameters may override lr and the like.
        fixed: parameters that are the same in all search trials, ``optimizer`` possibly among them.
        dimensions: parameters that are searched.
        objectives: metric -> ``max`` or ``min``, the first of each direction being the accuracy
            and the cost that picks and pictures go by.
        constraints: what a trial must keep to be on the front; they also steer the sampler.
        baselines: settings to compare with, in the order they run.
        trials: the search's budget, baselines not counted.
        max_concurrent: trials at a time, or None for as many as fit.
        seed: of the sampler, and the first of every setting's runs.
        seeds: runs of each setting, under ``seed``, ``seed + 1`` and so on; a trial stopped early
            has its first alone.
        sampler: that proposes settings, one of ``SAMPLERS``.
        early_stopping: of trials that fall behind.
        conditions: of the dimensions that only some trials search; without cycles.
    """

    name: str
    description: str
    task: TaskSettings
    training: TrainingSettings
    fixed: Mapping[str, Value]
    dimensions: Mapping[str, Dimension]
    objectives: Mapping[str, Direction]
    constraints: tuple[Constraint, ...]
    baselines: tuple[Baseline, ...]
    trials: int
    max_concurrent: int | None
    seed: int
    seeds: int = 1
    sampler: str = "tpe"
    early_stopping: EarlyStopping = EarlyStopping()
    conditions: Mapping[str, Condition] = field(default_factory=dict)

    @property
    def runs(self) -> int:
        """Trials in all, if none is turned away."""
        return (self.trials + len(self.baselines)) * self.seeds

    @property
    def accuracy_metric(self) -> str:
        """The objective that picks and pictures maximise."""
        return next(key for key, direction in self.objectives.items() if direction == "max")

    @property
    def cost_metric(self) -> str:
        """The objective that picks and pictures minimise."""
        return next(key for key, direction in self.objectives.items() if direction == "min")

    @property
    def optimizers(self) -> tuple[str, ...]:
        """The optimizers that search trials may use."""
        searched = self.dimensions.get("optimizer")
        names = searched.choices if isinstance(searched, Choice) else (self.fixed["optimizer"],)
        return tuple(map(str, names))

    @cached_property
    def ordered(self) -> dict[str, Dimension]:
        """The dimensions, each after those that its condition names; the optimizer is first."""
        return {key: self.dimensions[key] for key in in_order(self.dimensions, self.conditions)}

    def searched_with(self, optimizer: str) -> dict[str, Dimension]:
        """The dimensions that trials with this optimizer may have, its own choice aside."""
        return {
            key: dimension
            for key, dimension in self.ordered.items()
            if key != "optimizer" and _is_read(key, optimizer)
        }

    def searches(self, key: str, searched: Mapping[str, Value]) -> bool:
        """Whether a trial has a dimension.

        Args:
            key: of the dimension.
            searched: the trial's values of the dimensions that come before it in order.
        """
        return key == "optimizer" or self._has(key, self.resolved(searched))

    def resolved(self, searched: Mapping[str, Value]) -> dict[str, Value]:
        """The parameters of a search trial, its optimizer's defaults left out.

        Args:
            searched: values of dimensions; those that the trial does not have are dropped, and
                those of it that are missing stay so.
        """
        params = dict(self.fixed)
        for key in self.ordered:
            default = self.conditions[key].default if key in self.conditions else None
            if key == "optimizer" or self._has(key, params):
                if key in searched:
                    params[key] = searched[key]
            elif default is not None:
                params[key] = default
        optimizer = str(params["optimizer"])
        return {key: value for key, value in params.items() if _is_read(key, optimizer)}

    def _has(self, key: str, params: Mapping[str, Value]) -> bool:
        """Whether a trial has a dimension, given the parameters that come before it in order."""
        optimizer = str(params["optimizer"])
        condition = self.conditions.get(key)
        if not _is_read(key, optimizer):
            return False
        # What is fixed for all trials is none of those whose optimizer does not read it.
        own = {key: value for key, value in params.items() if _is_read(key, optimizer)}
        return condition is None or condition.holds({**self._usual(optimizer), **own})

    def completed(self, searched: Mapping[str, Value]) -> dict[str, Value]:
        """A search trial's complete parameters; what it does not search is dropped.

        Args:
            searched: a value of every dimension that the trial has, possibly of more.
        """
        return complete_params("search", self.resolved(searched))

    def _usual(self, optimizer: str) -> dict[str, Value]:
        """What holds in a trial with this optimizer where nothing else is said."""
        trained = {key: getattr(self.training, key) for key in TRIAL_TRAINING}
        return {**trained, **OPTIMIZERS[optimizer].defaults}

    def batch_sizes(self) -> list[tuple[str, int]]:
        """Batch sizes that trials may use, each with the field that asks for it."""
        sizes = [("training.batch_size", self.training.batch_size)]
        searched = self.dimensions.get("batch_size")
        if isinstance(searched, Choice):
            sizes += [("search.batch_size", int(value)) for value in searched.choices]
        elif searched is not None:
            sizes.append(("search.batch_size", int(searched.high)))
        condition = self.conditions.get("batch_size")
        if condition is not None and condition.default is not None:
            sizes.append(("search.batch_size.default", int(condition.default)))
        if "batch_size" in self.fixed:
            sizes.append(("search.batch_size", int(self.fixed["batch_size"])))
        for index, baseline in enumerate(self.baselines):
            if "batch_size" in baseline.params:
                field = f"baselines[{index}].batch_size"
                sizes.append((field, int(baseline.params["batch_size"])))
        return sizes

    def settings(
        self, params: Mapping[str, Value], origin: Mapping[str, Any], seed: int | None = None
    ) -> TrialSettings:
        """The full settings of a run with these parameters; ``seed`` None for the study's first."""
        return trial_settings(
            {
                "task": asdict(self.task),
                "training": asdict(self.training),
                "params": dict(params),
                "seed": self.seed if seed is None else seed,
                "origin": dict(origin),
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values in the space file's form: :func:`parse_space` reads them back."""
        search: dict[str, Any] = dict(self.fixed)
        for key, dimension in self.dimensions.items():
            if isinstance(dimension, Choice):
                search[key] = {"choices": list(dimension.choices)}
            else:
                search[key] = {
                    "low": dimension.low,
                    "high": dimension.high,
                    "log": dimension.log,
                }
            if key in self.conditions:
                search[key] |= self.conditions[key].to_dict()
        return {
            "name": self.name,
            "description": self.description,
            "task": asdict(self.task),
            "training": asdict(self.training),
            "search": search,
            "objectives": dict(self.objectives),
            "constraints": {c.metric: str(c) for c in self.constraints},
            "baselines": [{"label": b.label, **b.params} for b in self.baselines],
            "trials": self.trials,
            "max_concurrent": self.max_concurrent,
            "seed": self.seed,
            "seeds": self.seeds,
            "sampler": self.sampler,
            "early_stopping": asdict(self.early_stopping),
        }


def _is_read(key: str, optimizer: str) -> bool:
    """Whether a trial with this optimizer has a parameter."""
    return key not in HYPERPARAMETERS or key in OPTIMIZERS[optimizer].defaults


def describe_params(params: Mapping[str, Value]) -> str:
    """A trial's name for people, such as ``ESAM beta=0.42 gamma=0.50 rho=0.21``."""
    kind = OPTIMIZERS[str(params["optimizer"])]
    words = [kind.label]
    for key, value in params.items():
        usual = key not in ("beta", "gamma", "rho") and value == kind.defaults.get(key)
        if key == "optimizer" or usual:
            continue
        if isinstance(value, float):
            value = f"{value:.2f}" if key in ("beta", "gamma") else f"{value:#.2g}"
        words.append(f"{key}={value}")
    return " ".join(words)


def coordinates(spec: StudySpec, params: Mapping[str, Value]) -> dict[str, Value] | None:
    """Where a setting lies in the search space, or None when it lies outside.

    A setting lies inside when a search trial could have had it: what the space does not search
    must be as in every search trial. SAM and ASAM are points of a space over ESAM, at
    beta = gamma = 1.

    Args:
        spec: the study.
        params: a trial's complete parameters.
    """
    names = spec.optimizers
    point = dict(params)
    if point["optimizer"] in ("sam", "asam") and point["optimizer"] not in names:
        adaptive = point["optimizer"] == "asam"
        point.update(optimizer="esam", beta=1.0, gamma=1.0, adaptive=adaptive)
        # With all rows in the last pass there is nothing to select: any selection is the same.
        point["selection"] = spec.fixed.get("selection", "exact")
    if point["optimizer"] not in names:
        return None
    trained = {key: getattr(spec.training, key) for key in TRIAL_TRAINING}
    point = {**trained, **point}
    inside = {key: point[key] for key in spec.ordered if key in point and spec.searches(key, point)}
    if not all(spec.dimensions[key].contains(value) for key, value in inside.items()):
        return None
    return inside if {**trained, **spec.completed(inside)} == point else None
