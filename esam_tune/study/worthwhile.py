"""Settings that are worth a trial: they may keep the constraints, and none like them was tried."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from esam_tune.domains import Value
from esam_tune.study.dimensions import Range
from esam_tune.study.grid import admitted_points
from esam_tune.study.spec import StudySpec

Point = dict[str, Value]
_Exact = tuple[tuple[str, Value | None], ...]

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
        # By what must be equal, where in the ranges the rest of each lies.
        self._shares: dict[_Exact, list[list[float]]] = {}

    def add(self, searched: Mapping[str, Value]) -> None:
        """Take note of a trial, by its values of the dimensions."""
        params = self._spec.completed(searched)
        self.tried.append(params)
        exact, shares = _parts(self._spec, params)
        self._shares.setdefault(exact, []).append(shares)

    def refusal(self, params: Mapping[str, Value]) -> str | None:
        """Why complete parameters are not worth a trial, or None."""
        if not self._admits(params):
            return "its predicted cost breaks a constraint"
        exact, shares = _parts(self._spec, params)
        if any(_near(shares, other) for other in self._shares.get(exact, ())):
            return "tried already"
        return None

    def left(self) -> list[Point] | None:
        """Points of a space of few that are worth a trial; None for a space of many."""
        if self._points is None:
            return None
        known = {frozenset(params.items()) for params in self.tried}
        return [p for p in self._points if frozenset(self._spec.completed(p).items()) not in known]


def _parts(spec: StudySpec, params: Mapping[str, Value]) -> tuple[_Exact, list[float]]:
    """What two settings must have in common to be one, and the shares that may be a little off."""
    exact: dict[str, Value | None] = {}
    shares = []
    for key, value in sorted(params.items()):
        dimension = spec.dimensions.get(key)
        # Where a parameter is not searched, its value may lie outside its range.
        if isinstance(dimension, Range) and not dimension.integer and dimension.contains(value):
            exact[key] = None
            shares.append(dimension.share(float(value)))
        else:
            exact[key] = value
    return tuple(exact.items()), shares


def _near(first: list[float], second: list[float]) -> bool:
    return all(abs(a - b) < _SAME for a, b in zip(first, second, strict=True))
