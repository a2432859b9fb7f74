"""A study as plain data for pictures and pages, from its journal alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

import numpy as np

from esam_tune import journal, pareto_front
from esam_tune import metrics as keys
from esam_tune.errors import escaped
from esam_tune.intervals import difference_interval
from esam_tune.journal import Event
from esam_tune.pareto_front import Rule
from esam_tune.report.study import Axis, Curve, Difference, Moment, Study, Trial
from esam_tune.study.dimensions import Choice
from esam_tune.study.folder import StudyFolder
from esam_tune.study.front_table import SHORT_NAMES, format_mean
from esam_tune.study.record import StudyRecord
from esam_tune.study.reproduction import commands, origin, setup
from esam_tune.study.spec import StudySpec
from esam_tune.study.trial_record import TrialRecord
from esam_tune.yaml_file import yaml_text


def study_data(folder: StudyFolder, record: StudyRecord, rule: Rule) -> Study:
    """What pictures and pages show of a study.

    What users typed is as they typed it, but for characters that no text holds.

    Args:
        folder: of the study, whose journal tells the epochs and the times.
        record: of the study.
        rule: by which the setting is chosen.

    Raises:
        JournalError: when the journal is damaged.
    """
    spec = record.spec
    told = _Told(record)
    for event, _ in journal.read(folder.journal):
        told.hear(event)
    chosen = record.pick(rule)
    front = {trial.trial_id for trial in record.front()}
    columns = tuple(dict.fromkeys([*spec.objectives, *keys.COST_METRICS]))
    trials = tuple(
        Trial(
            trial_id=trial.trial_id,
            label=trial.label,
            params=trial.params,
            baseline=trial.baseline,
            on_front=trial.trial_id in front,
            state=trial.state,
            reason=trial.reason,
            infeasible=tuple(record.infeasible(trial)) if trial.state == "complete" else (),
            seeds=len(trial.complete_runs),
            values=dict(zip(columns, trial.values(columns), strict=True)),
            intervals={
                key: interval for key in columns if (interval := trial.interval(key)) is not None
            },
            cells={key: format_mean(trial, key) for key in columns},
            curves=tuple(told.curves(trial)),
            difference=_difference(trial, chosen, spec.accuracy_metric),
        )
        for trial in record.trials.values()
    )
    return Study(
        name=spec.name,
        question=escaped(spec.description),
        setup=setup(record),
        state=told.state,
        objectives=spec.objectives,
        accuracy=spec.accuracy_metric,
        cost=spec.cost_metric,
        columns=columns,
        headings={key: SHORT_NAMES.get(key, key.replace("_", " ")) for key in columns},
        constraints=tuple(f"{c.metric} {c}" for c in spec.constraints),
        rule=rule,
        chosen=None if chosen is None else chosen.trial_id,
        trials=trials,
        axes=_axes(spec),
        history=tuple(_history(record, told.ends)),
        budget=spec.trials,
        seconds=told.seconds,
        origin=origin(record, told.started),
        space=yaml_text(spec.to_dict()),
        commands=commands(folder, record, told.started, rule),
    )


class _Told:
    """What the journal tells beyond the record: epochs, times, and how the study ended.

    Args:
        record: of the study, as it is at the journal's end.
    """

    def __init__(self, record: StudyRecord) -> None:
        self._record = record
        self._metric = record.spec.accuracy_metric
        self._epochs: dict[str, dict[int, float]] = {}
        self._clock: float | None = None
        self.started: Event = {}
        self.state: Any = "unfinished"
        self.seconds = 0.0
        # Trial id -> seconds that the study had run when the last seed asked for had ended.
        self.ends: dict[str, float] = {}

    def hear(self, event: Event) -> None:
        """Take the journal's next event in."""
        kind, time = event["event"], float(event["time"])
        # Between two processes of a study no time is spent on it.
        if self._clock is not None and kind not in (journal.STUDY_RESUME, journal.BUDGET):
            self.seconds += max(0.0, time - self._clock)
        self._clock = time
        if kind == journal.STUDY:
            self.started = event
        elif kind == journal.STUDY_RESUME:
            self.state = "unfinished"
        elif kind == journal.STUDY_END:
            self.state = event["state"]
        elif kind == journal.EPOCH:
            value = event["metrics"].get(self._metric)
            if value is not None:
                epochs = self._epochs.setdefault(event["trial_id"], {})
                epochs[int(event["metrics"]["epoch"])] = value
        elif kind == journal.TRIAL_END:
            run = self._record.runs[event["trial_id"]]
            trial = self._record.trials[run.trial_id]
            # Seeds that `refine` adds do not put a trial's end off: it was on the front before.
            if run.run_id in [asked.run_id for asked in trial.runs[: trial.seeds]]:
                self.ends[trial.trial_id] = self.seconds

    def curves(self, trial: TrialRecord) -> Iterable[Curve]:
        """The accuracy of a trial's runs, epoch by epoch; without those that reported none."""
        for run in trial.runs:
            epochs = self._epochs.get(run.run_id, {})
            if epochs:
                yield Curve(seed=run.seed, epochs=tuple(epochs), values=tuple(epochs.values()))


def _difference(trial: TrialRecord, chosen: TrialRecord | None, metric: str) -> Difference | None:
    """A complete trial's accuracy minus the chosen one's."""
    if chosen is None or trial is chosen or trial.state != "complete":
        return None
    ours, theirs = trial.by_seed(metric), chosen.by_seed(metric)
    common = ours.keys() & theirs.keys()
    if not common:
        return None
    return Difference(
        mean=fmean(ours[seed] - theirs[seed] for seed in common),
        interval=difference_interval(ours, theirs),
        seeds=len(common),
    )


def _axes(spec: StudySpec) -> tuple[Axis, ...]:
    return tuple(
        Axis(key=key, choices=dimension.choices)
        if isinstance(dimension, Choice)
        else Axis(key=key, log=dimension.log, low=dimension.low, high=dimension.high)
        for key, dimension in spec.dimensions.items()
    )


def _history(record: StudyRecord, ends: Mapping[str, float]) -> Iterable[Moment]:
    """The front's hypervolume at each trial's end, as a share of the objectives' box.

    The box reaches from the best to the worst value of each objective among all complete trials
    that keep the constraints, so the shares of one study can be compared, those of two cannot. A
    trial counts with its final means from its end on.
    """
    objectives = record.spec.objectives
    rows = {
        trial.trial_id: trial.values(objectives)
        for trial in record.complete
        if not record.infeasible(trial)
    }
    if not rows:
        return
    costs = pareto_front.minimised(list(rows.values()), list(objectives.values()))
    best, worst = costs.min(axis=0), costs.max(axis=0)
    box = float(np.prod(worst - best))
    if not (math.isfinite(box) and box > 0):
        return
    by_id = dict(zip(rows, costs, strict=True))
    seen = np.empty((0, len(objectives)))
    for ended, (trial_id, seconds) in enumerate(sorted(ends.items(), key=lambda e: e[1]), 1):
        if trial_id in by_id:
            seen = np.vstack([seen, by_id[trial_id]])
            # What is dominated never counts again.
            seen = seen[pareto_front.front(seen)]
        share = pareto_front.hypervolume(seen, worst) / box
        yield Moment(seconds=seconds, ended=ended, share=share)
