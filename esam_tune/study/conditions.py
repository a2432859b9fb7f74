"""Conditions of a search space: a parameter that is searched only where others have given values.

The values that a condition looks at are those a trial has, searched or not: where its parent is not
searched itself, the parent's default counts. A parameter that the trial's optimizer does not read
has no value, and no condition on it holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from esam_tune.domains import Value


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Where a parameter is searched, and what holds elsewhere.

    Args:
        when: other parameters, each with the values under which this one is searched; all must
            have one of theirs.
        default: the parameter's value elsewhere; None for the optimizer's own, or the training's.
    """

    when: Mapping[str, tuple[Value, ...]]
    default: Value | None = None

    def holds(self, values: Mapping[str, Value]) -> bool:
        """Whether a trial with these values has the parameter in its search."""
        return all(key in values and values[key] in allowed for key, allowed in self.when.items())

    def to_dict(self) -> dict[str, object]:
        """The condition as the space file writes it."""
        written: dict[str, object] = {"when": {key: list(v) for key, v in self.when.items()}}
        return written if self.default is None else {**written, "default": self.default}


def in_order(names: Iterable[str], conditions: Mapping[str, Condition]) -> list[str]:
    """Parameters such that each comes after those its condition names; the optimizer is first.

    Raises:
        ValueError: naming the parameters of a cycle, in its order.
    """
    left = sorted(names, key=lambda name: name != "optimizer")
    ordered: list[str] = []
    while left:
        ready = [name for name in left if not _waits_for(name, left, conditions)]
        if not ready:
            raise ValueError(" -> ".join(_cycle(left, conditions)))
        # One at a time, so that parameters without conditions keep the file's order.
        ordered.append(ready[0])
        left.remove(ready[0])
    return ordered


def _waits_for(name: str, left: Iterable[str], conditions: Mapping[str, Condition]) -> list[str]:
    parents = conditions[name].when if name in conditions else {}
    return [other for other in left if other in parents]


def _cycle(left: list[str], conditions: Mapping[str, Condition]) -> list[str]:
    path = [left[0]]
    while (parent := _waits_for(path[-1], left, conditions)[0]) not in path:
        path.append(parent)
    return [*path[path.index(parent) :], parent]
