"""Settings that are worth a trial: they may keep the constraints, and none like them was tried."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from esam_tune.domains import Value
from esam_tune.study.dimensions import Range
from esam_tune.study.grid import admitted_points
from esam_tune.study.spec import StudySpec

Point = dict[str, Value]

# Shares of a range that are closer than this are one setting.
_SAME = 1e-3


class Worthwhile:
    """Knows what has been tried in a study.

    Args:
        spec: the study.
        admits: whether complete parameters may keep the constraints, as far as is known before
            they run.
    """

    def __init__(self, spec: StudySpec, admits: Callable[[Mapping[str, Value]], bool]) -> None:
        self._spec = spec
        self._admits = admits
        self._points = admitted_points(spec, admits)
        self.tried: list[Point] = []

    def add(self, searched: Mapping[str, Value]) -> None:
        """Take note of a trial, by its values of the dimensions."""
        self.tried.append(self._spec.completed(searched))

    def refusal(self, params: Mapping[str, Value]) -> str | None:
        """Why complete parameters are not worth a trial, or None."""
        if not self._admits(params):
            return "its predicted cost breaks a constraint"
        if any(_same(self._spec, params, other) for other in self.tried):
            return "tried already"
        return None

    def left(self) -> list[Point] | None:
        """Points of a space of few that are worth a trial; None for a space of many."""
        if self._points is None:
            return None
        known = {frozenset(params.items()) for params in self.tried}
        return [p for p in self._points if frozenset(self._spec.completed(p).items()) not in known]


def _same(spec: StudySpec, first: Mapping[str, Value], second: Mapping[str, Value]) -> bool:
    """Whether two complete settings are one but for rounding."""
    if first.keys() != second.keys():
        return False
    for key, value in first.items():
        dimension = spec.dimensions.get(key)
        if value == second[key]:
            continue
        if not isinstance(dimension, Range) or dimension.integer:
            return False
        # Where a parameter is not searched, its value may lie outside its range.
        if not dimension.contains(value) or not dimension.contains(second[key]):
            return False
        shares = [dimension.share(float(v)) for v in (value, second[key])]
        if abs(shares[0] - shares[1]) >= _SAME:
            return False
    return True
