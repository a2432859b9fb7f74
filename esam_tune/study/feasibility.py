"""What is known of a setting before it runs: the cost of its step, and so whether it is allowed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import product
from random import Random
from typing import TYPE_CHECKING

from esam_tune import metrics as keys
from esam_tune.config import TaskSettings, complete_params
from esam_tune.domains import Value
from esam_tune.errors import InputError
from esam_tune.study.dimensions import Choice, Dimension, Range
from esam_tune.study.spec import Constraint, StudySpec

if TYPE_CHECKING:
    from esam_tune.optim.cost_model import StepWork

# The cost model agrees with counting to this share.
_TOLERANCE = 0.02
# The parameters that the cost of a step depends on.
_PRICED = ("optimizer", "beta", "gamma", "selection", "every", "batch_size")
# Batch sizes that are counted each: seconds for a large network.
_COUNTED = 8
# Settings whose cost is compared, within a second or so.
_MOST_CORNERS = 5_000


class PredictedCost:
    """Predicts `step_flops_ratio` from the parts of the study's network, counted once a batch size.

    Args:
        spec: the study.
        workers: of a trial, which share the rows of a batch.
    """

    def __init__(self, spec: StudySpec, workers: int) -> None:
        self._spec = spec
        self._workers = workers
        sizes = _sizes(spec)
        many = len(sizes) > _COUNTED or isinstance(spec.dimensions.get("batch_size"), Range)
        # One count for all sizes: all parts are in proportion to the rows.
        self._counted_rows = max(sizes) // workers if many else None

    def __call__(self, params: Mapping[str, Value]) -> float:
        """The cost of a step with these complete parameters, over the base optimizer's."""
        from esam_tune.optim import step_cost

        training = self._spec.training
        batch_size = int(params.get("batch_size", training.batch_size))
        rows = batch_size // self._workers
        work = replace(_measured(self._spec.task, self._counted_rows or rows), rows=rows)
        return step_cost(
            work,
            method=str(params["optimizer"]),
            # A compiled clean pass computes every weight's gradient: SWP saves nothing there.
            beta=1.0 if training.compile else float(params.get("beta", 1.0)),
            gamma=float(params.get("gamma", 1.0)),
            selection=str(params.get("selection", "exact")),
            every=int(params.get("every", 1)),
        )

    def admits(self, params: Mapping[str, Value]) -> bool:
        """Whether a setting's predicted cost keeps the study's constraints on it."""
        # Counting the parts of a large network takes seconds.
        return not _on_cost(self._spec) or self.allows(self(params))

    def cheapest_and_dearest(self) -> tuple[tuple[float, str], tuple[float, str]]:
        """The ends of the predicted cost over the search space, each with a setting that has it."""
        corners = list(_corners(self._spec, self._workers))
        described = [" ".join(f"{k}={v}" for k, v in corner.items()) for corner in corners]
        priced = list(zip(map(self, map(_completed, corners)), described, strict=True))
        return min(priced), max(priced)

    def drawn(self, count: int) -> list[float]:
        """The predicted costs of settings drawn at random from the search space."""
        random = Random(self._spec.seed)
        return [self(_completed(_drawn(self._spec, random))) for _ in range(count)]

    def allows(self, cost: float) -> bool:
        """Whether a predicted cost keeps the study's constraints on it."""
        return all(_excess(c, cost) <= 0 for c in _on_cost(self._spec))

    def check(self) -> None:
        """Require that some setting of the space keeps each constraint on the counted cost.

        Raises:
            InputError: naming the constraint and the end of the predicted cost.
        """
        constraints = _on_cost(self._spec)
        if not constraints:
            return
        cheapest, dearest = self.cheapest_and_dearest()
        for constraint in constraints:
            below = constraint.relation == "<="
            cost, setting = cheapest if below else dearest
            if _excess(constraint, cost) > 0:
                raise InputError(
                    f"constraints.{constraint.metric}",
                    f"no setting of the search space can keep {constraint}: the "
                    f"{'least' if below else 'greatest'} predicted cost is {cost:.2f} ({setting})",
                    f"{'raise' if below else 'lower'} the bound or widen the search"
                    + (", such as to smaller beta and gamma or selection: first_order" * below),
                )


@lru_cache(maxsize=16)
def _measured(task: TaskSettings, rows: int) -> StepWork:
    """The parts of a step of the task's network on so many rows."""

    from esam_tune.optim import measure_step_work
    from esam_tune.tasks.data import step_example

    return measure_step_work(*step_example(task, rows))


def _sizes(spec: StudySpec) -> set[int]:
    return {size for _, size in spec.batch_sizes()}


def _on_cost(spec: StudySpec) -> list[Constraint]:
    return [c for c in spec.constraints if c.metric == keys.STEP_FLOPS_RATIO]


def _excess(constraint: Constraint, predicted: float) -> float:
    """By how much a prediction breaks a bound beyond what may be the prediction's own error."""
    slack = 1 - _TOLERANCE if constraint.relation == "<=" else 1 + _TOLERANCE
    return constraint.excess(predicted * slack)


def _corners(spec: StudySpec, workers: int) -> Iterator[dict[str, Value]]:
    """Settings at the ends of every priced dimension: the cost's extremes are among them."""
    rows = _compared_rows(spec, workers)
    ends: dict[str, tuple[Value, ...]] = {}
    named = {key for condition in spec.conditions.values() for key in condition.when}
    for key, dimension in spec.ordered.items():
        if key not in _PRICED and key not in named:
            continue
        # What a condition tells apart has ends of its own.
        told_apart = {v for c in spec.conditions.values() for v in c.when.get(key, ())}
        if isinstance(dimension, Choice):
            ends[key] = _extremes(key, dimension, told_apart, rows)
        else:
            asked = {int(v) for v in told_apart}
            beside = {value + step for value in asked for step in (-1, 0, 1)}
            ends[key] = (*_ends(dimension), *filter(dimension.contains, sorted(beside)))
            if key == "gamma":
                ends[key] += _just_below_one(dimension, rows)
    corners = math.prod(map(len, ends.values()))
    if corners > _MOST_CORNERS:
        raise InputError(
            "search",
            "its choices and conditions tell too many costs apart to see whether the constraint on "
            f"cost can be kept: must be at most {_MOST_CORNERS}, got {corners}",
            "give fewer choices, or drop the constraint",
        )
    for values in product(*ends.values()):
        yield _priced(spec, dict(zip(ends, values, strict=True)))


def _extremes(
    key: str, dimension: Choice, told_apart: set[Value], rows: set[int]
) -> tuple[Value, ...]:
    """The choices at which cost may have its ends: it rises or falls with beta, gamma and every."""
    if key not in ("beta", "gamma", "every"):
        return dimension.choices
    ordered = sorted(map(float, dimension.choices))
    kept = {ordered[0], ordered[-1], *told_apart}
    for count in rows if key == "gamma" else ():
        kept |= set([value for value in ordered if value * count < count - 0.5][-1:])
    return tuple(value for value in dimension.choices if value in kept)


def _just_below_one(gamma: Range, rows: set[int]) -> tuple[float, ...]:
    """The largest gammas that leave a row out: dearer than gamma = 1, which selects nothing."""
    largest = {1 - 1 / count for count in rows}
    return tuple(value for value in largest if gamma.contains(value))


def _compared_rows(spec: StudySpec, workers: int) -> set[int]:
    """A worker's rows of the batch sizes whose costs are compared: all of a few, of many the ends.

    Each worker selects among its own rows.
    """
    sizes = _sizes(spec)
    compared = sizes if len(sizes) <= _COUNTED else {min(sizes), max(sizes)}
    return {max(1, size // workers) for size in compared}


def _drawn(spec: StudySpec, random: Random) -> dict[str, Value]:
    point = {key: _value(dimension, random) for key, dimension in spec.dimensions.items()}
    return _priced(spec, point)


def _value(dimension: Dimension, random: Random) -> Value:
    if isinstance(dimension, Choice):
        return random.choice(dimension.choices)
    if dimension.integer:
        return random.randint(int(dimension.low), int(dimension.high))
    if dimension.log:
        return math.exp(random.uniform(math.log(dimension.low), math.log(dimension.high)))
    return random.uniform(dimension.low, dimension.high)


def _priced(spec: StudySpec, point: Mapping[str, Value]) -> dict[str, Value]:
    """The parameters of a point's trial that the cost of its step depends on."""
    return {key: value for key, value in spec.resolved(point).items() if key in _PRICED}


def _completed(corner: dict[str, Value]) -> dict[str, Value]:
    return complete_params("search", corner)


def _ends(dimension: Range) -> tuple[Value, ...]:
    if dimension.integer:
        return int(dimension.low), int(dimension.high)
    return dimension.low, dimension.high
