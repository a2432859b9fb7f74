"""Spaces of choices and integers, which hold a finite number of settings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping

from esam_tune.domains import Value
from esam_tune.study.spec import Choice, Dimension, Range, StudySpec

# Settings that are looked at one by one, within a second or so.
FEW = 4096


def float_ranges(spec: StudySpec) -> list[str]:
    """The dimensions that no grid can go through."""
    return [
        key
        for key, dimension in spec.dimensions.items()
        if isinstance(dimension, Range) and not dimension.integer
    ]


def grid_size(spec: StudySpec) -> int | None:
    """How many distinct settings the space holds, or None for one with a float range."""
    if float_ranges(spec):
        return None
    return sum(
        math.prod(len(_levels(d)) for d in spec.searched_with(optimizer).values())
        for optimizer in spec.optimizers
    )


def grid_points(spec: StudySpec) -> Iterator[dict[str, Value]]:
    """Every distinct setting of a space without float ranges, in a fixed order."""
    searched = spec.dimensions.get("optimizer")
    for optimizer in spec.optimizers:
        own = spec.searched_with(optimizer)
        named: dict[str, Value] = {} if searched is None else {"optimizer": optimizer}
        for values in itertools.product(*(_levels(d) for d in own.values())):
            yield {**named, **dict(zip(own, values, strict=True))}


def admitted_points(
    spec: StudySpec, admits: Callable[[Mapping[str, Value]], bool]
) -> list[dict[str, Value]] | None:
    """The settings of a space of few that may keep its constraints; None for one of many.

    Args:
        spec: the study.
        admits: whether complete parameters may keep the constraints.
    """
    size = grid_size(spec)
    if size is None or size > FEW:
        return None
    return [point for point in grid_points(spec) if admits(spec.completed(point))]


def _levels(dimension: Dimension) -> tuple[Value, ...]:
    if isinstance(dimension, Choice):
        return dimension.choices
    assert dimension.integer, "the reader of space files admits no grid over a float range"
    return tuple(range(int(dimension.low), int(dimension.high) + 1))
