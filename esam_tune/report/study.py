"""A study as pictures and pages show it: plain data, handed over by the study's own room."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from esam_tune.pareto_front import Direction
from esam_tune.report.front import FrontPoint

Interval: TypeAlias = tuple[float, float]
Value: TypeAlias = float | int | str | bool


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The accuracy metric of one run, epoch by epoch."""

    seed: int
    epochs: tuple[int, ...]
    values: tuple[float, ...]  # as many


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A setting's accuracy minus the chosen one's, over the seeds that both ran.

    Args:
        mean: of the differences, in the metric's unit.
        interval: the 95 % interval of the mean; None with fewer than two common seeds.
        seeds: common to both.
    """

    mean: float
    interval: Interval | None
    seeds: int

    @property
    def tied(self) -> bool:
        """Whether the interval cannot tell the two apart."""
        return self.interval is not None and self.interval[0] <= 0.0 <= self.interval[1]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One setting of the study.

    Args:
        trial_id: in the study.
        label: what it is, for the reader.
        params: complete.
        baseline: whether it is one of the settings that the search is up against.
        on_front: whether no other dominates it.
        state: what became of it.
        reason: why it failed or was stopped, or None.
        infeasible: constraints that it breaks, in words.
        seeds: complete runs.
        values: metric to mean over them, NaN where it has none.
        intervals: metric to the mean's 95 % interval, where there is one.
        cells: metric to the mean as a table shows it, with half its interval.
        curves: of its runs, those of stopped ones included.
        predicted_cost: of a step over the base optimizer's, in FLOPs, or None where unknown.
        difference: from the chosen setting, or None.
    """

    trial_id: str
    label: str
    params: Mapping[str, Value]
    baseline: bool
    on_front: bool
    state: Literal["running", "complete", "pruned", "failed"]
    reason: str | None
    infeasible: tuple[str, ...]
    seeds: int
    values: Mapping[str, float]
    intervals: Mapping[str, Interval]
    cells: Mapping[str, str]
    curves: tuple[Curve, ...] = ()
    predicted_cost: float | None = None
    difference: Difference | None = None

    @property
    def feasible(self) -> bool:
        """Whether it is complete and keeps the constraints."""
        return self.state == "complete" and not self.infeasible


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A searched parameter.

    Args:
        key: of the parameter.
        log: whether the search went over its logarithm.
        choices: in order, or empty for a number.
        low: the least number searched.
        high: the greatest.
    """

    key: str
    log: bool = False
    choices: tuple[Value, ...] = ()
    low: float = math.nan
    high: float = math.nan

    def place(self, trial: Trial) -> float:
        """Where a trial lies along the axis: at its number, or at its choice's number from 0.

        NaN where the trial lacks the parameter, or has a value that was not searched: a trial that
        does not search a conditional parameter has its default, or the optimizer's own value.
        """
        value = trial.params.get(self.key)
        if value is None:
            return math.nan
        if self.choices:
            return float(self.choices.index(value)) if value in self.choices else math.nan
        number = float(value)
        return number if self.low <= number <= self.high else math.nan


@dataclass(frozen=True, kw_only=True)
class Moment:
    """How far the front was when a trial had ended.

    Args:
        seconds: that the study had run, pauses between its processes left out.
        ended: trials so far.
        share: of the box between the best and the worst value of each objective, dominated.
    """

    seconds: float
    ended: int
    share: float


@dataclass(frozen=True, kw_only=True)
class Importance:
    """What share of an objective's variation each parameter explains, by one evaluator.

    Args:
        objective: metric key.
        evaluator: its name, for the reader.
        shares: parameter to share; they add up to 1.
        trials: that it was computed from.
    """

    objective: str
    evaluator: str
    shares: Mapping[str, float]
    trials: int


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study so far.

    Args:
        name: of the study.
        question: that it asks, in the user's words; may be empty.
        setup: what is searched, on what, how: sentences.
        state: ``done``, ``interrupted``, ``failed``, or ``unfinished`` where no end is recorded.
        objectives: metric to direction.
        accuracy: the objective that picks and pictures maximise.
        cost: the one they minimise.
        columns: metrics of tables.
        headings: metric to its short name.
        constraints: in words.
        rule: by which the setting was chosen.
        chosen: id of the chosen trial, or None.
        trials: all of them, in the order of starting.
        axes: searched parameters, in the space file's order.
        history: of the front, a moment for each ended trial; empty without an area to speak of.
        budget: search trials that were asked for.
        seconds: that the study has run.
        origin: name and value of what it was made with: versions, commit, device, data, seeds.
        space: the space file, in full.
        commands: that make and use the study, in order, each with what it is for.
        importances: by objective and evaluator.
    """

    name: str
    question: str
    setup: tuple[str, ...]
    state: Literal["done", "interrupted", "failed", "unfinished"]
    objectives: Mapping[str, Direction]
    accuracy: str
    cost: str
    columns: tuple[str, ...]
    headings: Mapping[str, str]
    constraints: tuple[str, ...]
    rule: str
    chosen: str | None
    trials: tuple[Trial, ...]
    axes: tuple[Axis, ...]
    history: tuple[Moment, ...]
    budget: int
    seconds: float
    origin: tuple[tuple[str, str], ...]
    space: str
    commands: tuple[tuple[str, str], ...]
    importances: tuple[Importance, ...] = field(default=())

    @property
    def choice(self) -> Trial | None:
        """The chosen trial."""
        return next((trial for trial in self.trials if trial.trial_id == self.chosen), None)

    @property
    def complete(self) -> list[Trial]:
        """Trials with a result, in the order of starting."""
        return [trial for trial in self.trials if trial.state == "complete"]

    @property
    def searched(self) -> list[Trial]:
        """Search trials with a result, in the order of starting."""
        return [trial for trial in self.complete if not trial.baseline]

    @property
    def front(self) -> list[Trial]:
        """Trials that no other dominates, by cost."""
        on_front = [trial for trial in self.trials if trial.on_front]
        return sorted(on_front, key=lambda trial: trial.values[self.cost])

    @property
    def off_front(self) -> list[Trial]:
        """Complete baselines that others dominate, by cost."""
        rest = [trial for trial in self.complete if trial.baseline and not trial.on_front]
        return sorted(rest, key=lambda trial: trial.values[self.cost])

    @property
    def rival(self) -> Trial | None:
        """The most accurate baseline that may be chosen; among equals the cheapest."""
        baselines = [trial for trial in self.complete if trial.baseline and trial.feasible]
        best = sorted(baselines, key=lambda t: (-t.values[self.accuracy], t.values[self.cost]))
        return best[0] if best else None

    @property
    def several_seeds(self) -> bool:
        """Whether some setting has more than one complete run."""
        return any(trial.seeds > 1 for trial in self.trials)

    def points(self) -> Sequence[FrontPoint]:
        """The trials that have ended, as the front's picture takes them."""
        return [
            FrontPoint(
                trial_id=trial.trial_id,
                label=trial.label,
                accuracy=trial.values[self.accuracy],
                cost=trial.values[self.cost],
                baseline=trial.baseline,
                on_front=trial.on_front,
                state=trial.state,
                accuracy_interval=trial.intervals.get(self.accuracy),
                cost_interval=trial.intervals.get(self.cost),
            )
            for trial in self.trials
            if trial.state != "running"
        ]
