"""Settings that may keep the constraints, where hardly any of the search space does."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from esam_tune.domains import Value
from esam_tune.study.dimensions import Choice, Dimension, Range
from esam_tune.study.spec import StudySpec

Point = dict[str, Value]
Admits = Callable[[Mapping[str, Value]], bool]

# Below this share of the space's random settings, samplers are not asked for long.
_SCARCE = 1 / 16
_DRAWS_FOR_SHARE = 256
_DRAWS = 1024
_CORNERS = 4096
# Around each of so many admitted points others are looked for, half as far away each time.
_ANCHORS = 16
_HALVINGS = 8


def is_scarce(spec: StudySpec, admits: Admits) -> bool:
    """Whether hardly any setting of the space may keep the constraints."""
    random = np.random.default_rng(spec.seed)
    drawn = (admits(spec.completed(_drawn(spec, random))) for _ in range(_DRAWS_FOR_SHARE))
    return sum(drawn) < _SCARCE * _DRAWS_FOR_SHARE


def admitted_near(spec: StudySpec, admits: Admits, seed: Sequence[int]) -> list[Point]:
    """Points of the space that may keep the constraints: drawn, at its corners, and around these.

    Args:
        spec: the study.
        admits: whether complete parameters may keep the constraints.
        seed: of the draws.

    Returns:
        Each with the dimensions that its trial has; none where no such point was found.
    """
    random = np.random.default_rng(seed)

    def admitted(points: Iterator[Point]) -> list[Point]:
        own = (_own(spec, point) for point in points)
        return [point for point in own if admits(spec.completed(point))]

    found = admitted(_drawn(spec, random) for _ in range(_DRAWS))
    found += admitted(itertools.islice(_corners(spec), _CORNERS))
    anchors = [found[i] for i in random.permutation(len(found))[:_ANCHORS]]
    around = (
        _between(spec, anchor, _drawn(spec, random), 0.5**halving)
        for anchor in anchors
        for halving in range(1, _HALVINGS + 1)
    )
    return found + admitted(around)


def _drawn(spec: StudySpec, random: np.random.Generator) -> Point:
    return {key: dimension.at(random.random()) for key, dimension in spec.ordered.items()}


def _corners(spec: StudySpec) -> Iterator[Point]:
    ends = [_ends(dimension) for dimension in spec.ordered.values()]
    for values in itertools.product(*ends):
        yield dict(zip(spec.ordered, values, strict=True))


def _ends(dimension: Dimension) -> tuple[Value, ...]:
    if isinstance(dimension, Choice):
        return dimension.choices
    ends = (dimension.low, dimension.high)
    return tuple(map(int, ends)) if dimension.integer else ends


def _between(spec: StudySpec, anchor: Point, other: Point, share: float) -> Point:
    """A point on the way from one to another: its ranges move, its choices are the first one's."""
    point = {**other, **anchor}
    for key, value in anchor.items():
        dimension = spec.dimensions[key]
        if isinstance(dimension, Range):
            start, end = (dimension.share(float(v)) for v in (value, other[key]))
            point[key] = dimension.at(min(start + share * (end - start), np.nextafter(1.0, 0.0)))
    return point


def _own(spec: StudySpec, point: Point) -> Point:
    return {key: point[key] for key in spec.ordered if spec.searches(key, point)}
