"""Spaces of choices and integers, which hold a finite number of settings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from esam_tune.domains import Value
from esam_tune.study.dimensions import Choice, Dimension, Range
from esam_tune.study.spec import StudySpec

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
    """How many distinct settings the space holds.

    None for one with a float range, or whose conditions tell so many settings apart that they
    cannot be counted within a second or so.
    """
    if float_ranges(spec):
        return None
    if math.prod(len(_kinds(spec, key)) for key in spec.ordered) > FEW:
        return None
    return _size(spec, [*spec.ordered], {})


def _size(spec: StudySpec, keys: list[str], point: dict[str, Value]) -> int:
    """Settings that begin with a point, which lacks a value of each of the keys."""
    if not keys:
        return 1
    key, *rest = keys
    if not spec.searches(key, point):
        return _size(spec, rest, point)
    return sum(
        count * _size(spec, rest, {**point, key: value}) for value, count in _kinds(spec, key)
    )


def _kinds(spec: StudySpec, key: str) -> list[tuple[Value, int]]:
    """A value of each kind that the conditions tell apart, with how many are of that kind."""
    levels = _levels(spec.dimensions[key])
    if key == "optimizer":
        return [(value, 1) for value in levels]
    told_apart = {value for c in spec.conditions.values() for value in c.when.get(key, ())}
    named = [value for value in told_apart if value in levels]
    others = itertools.islice((value for value in levels if value not in told_apart), 1)
    return [(value, 1) for value in named] + [(value, len(levels) - len(named)) for value in others]


def grid_points(spec: StudySpec) -> Iterator[dict[str, Value]]:
    """Every distinct setting of a space without float ranges, in a fixed order."""
    return _points(spec, [*spec.ordered], {})


def _points(
    spec: StudySpec, keys: list[str], point: dict[str, Value]
) -> Iterator[dict[str, Value]]:
    if not keys:
        yield point
        return
    key, *rest = keys
    if not spec.searches(key, point):
        yield from _points(spec, rest, point)
        return
    for value in _levels(spec.dimensions[key]):
        yield from _points(spec, rest, {**point, key: value})


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


def _levels(dimension: Dimension) -> Sequence[Value]:
    if isinstance(dimension, Choice):
        return dimension.choices
    assert dimension.integer, "the reader of space files admits no grid over a float range"
    return range(int(dimension.low), int(dimension.high) + 1)
