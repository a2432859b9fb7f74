"""Stored learning curves as a search finds them: the file of learning_curves.py, read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esam_tune.domains import Value
from esam_tune.study.dimensions import Range
from esam_tune.study.space import parse_space
from esam_tune.study.spec import StudySpec

CURVES = Path(__file__).parent / "results" / "learning_curves_digits.parquet"
REFERENCES = ("SGD", "SAM rho=0.5 (tuned)")


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A setting with what it reported.

    Args:
        name: of the run.
        params: complete.
        accuracy: after each epoch, in 0..1.
        cost: of a step over plain SGD's, counted.
    """

    name: str
    params: Mapping[str, Value]
    accuracy: tuple[float, ...]
    cost: float

    @property
    def point(self) -> tuple[float, float]:
        """What a finished run adds to the front, minimised."""
        return -self.accuracy[-1], self.cost


@dataclass(frozen=True, kw_only=True)
class Task:
    """The stored curves with what a search over them needs to know.

    Args:
        spec: of the space they were drawn from.
        settings: the search's.
        baselines: by label.
        reference: the corner of the hypervolume's box, minimised accuracy and cost.
    """

    spec: StudySpec
    settings: tuple[Curve, ...]
    baselines: Mapping[str, Curve]
    reference: tuple[float, float]


def load(path: Path, without: Sequence[str] = ()) -> Task:
    """Read the Parquet file of learning_curves.py, some optimizers left out of space and pool."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    runs: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        runs.setdefault(row["run"], []).append(row)
    curves = {
        name: Curve(
            name=name,
            params=json.loads(rows[0]["params"]),
            accuracy=tuple(row["val_accuracy"] for row in rows),
            cost=rows[-1]["step_flops_ratio"],
        )
        for name, rows in runs.items()
    }
    baselines = {name: curves[name] for name, rows in runs.items() if rows[0]["baseline"]}
    accurate, cheap = (baselines[name] for name in REFERENCES)
    space = json.loads(table.schema.metadata[b"space"])
    choices = space["search"]["optimizer"]["choices"]
    space["search"]["optimizer"]["choices"] = [name for name in choices if name not in without]
    space["baselines"] = [b for b in space["baselines"] if b["optimizer"] not in without]
    spec = parse_space(space, default_name="curves")
    labels = {baseline.label for baseline in spec.baselines}
    baselines = {name: curve for name, curve in baselines.items() if name in labels}
    return Task(
        spec=spec,
        settings=tuple(
            curve
            for name, curve in curves.items()
            if not runs[name][0]["baseline"] and curve.params["optimizer"] not in without
        ),
        baselines=baselines,
        reference=(-accurate.accuracy[-1], cheap.cost),
    )


class Pool:
    """The stored settings that a search has not run yet."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._left = dict(enumerate(task.settings))

    def take(self, params: Mapping[str, Value]) -> Curve | None:
        """The nearest one left, those of the same optimizer first; None when none is left."""
        if not self._left:
            return None
        found = min(self._left, key=lambda index: self._distance(params, self._left[index]))
        return self._left.pop(found)

    def _distance(self, params: Mapping[str, Value], curve: Curve) -> tuple[bool, float]:
        squares = 0.0
        for key in params.keys() & curve.params.keys() & self._task.spec.dimensions.keys():
            dimension = self._task.spec.dimensions[key]
            if isinstance(dimension, Range):
                there, here = float(curve.params[key]), float(params[key])
                squares += (dimension.share(there) - dimension.share(here)) ** 2
        return curve.params["optimizer"] != params["optimizer"], squares
