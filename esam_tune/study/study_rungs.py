"""A study's rungs: from its space file's words and its journal's metrics to who is stopped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from esam_tune import journal
from esam_tune.journal import Event
from esam_tune.metrics import (
    COST_METRICS,
    EPOCH,
    EPOCH_SECONDS,
    FINAL_METRICS,
    IMAGES_PER_SECOND,
)
from esam_tune.study.record import StudyRecord
from esam_tune.study.rungs import MARGIN, Objectives, Rungs, rung_epochs

# Objectives that tell what a step costs, not what was learned: no epoch changes them but by noise.
STATIC = (*COST_METRICS, EPOCH_SECONDS, IMAGES_PER_SECOND)


class StudyRungs:
    """A study's rungs, fed with what its trials report.

    Args:
        record: of the study; says which trials are baselines, which run to their end.
    """

    def __init__(self, record: StudyRecord) -> None:
        spec = record.spec
        stopping = spec.early_stopping
        self._trials = record.trials
        self._objectives = {
            key: direction
            for key, direction in spec.objectives.items()
            if key not in FINAL_METRICS and (stopping.kind != "asha" or key == spec.accuracy_metric)
        }
        last = spec.training.epochs
        grace = stopping.grace_epochs or max(1, round(last / stopping.eta))
        self._rungs = Rungs(
            () if stopping.kind == "none" else rung_epochs(grace, stopping.eta, last),
            stopping.eta,
            Objectives(
                static=tuple(key in STATIC for key in self._objectives),
                contender_margin=0.0 if spec.baselines else math.log1p(MARGIN),
            ),
        )

    @classmethod
    def rebuilt(cls, record: StudyRecord, events: Iterable[Event]) -> StudyRungs:
        """The rungs as they stood after the events of the study's journal."""
        rungs = cls(record)
        for event in events:
            if event["event"] == journal.EPOCH:
                rungs.report(event["trial_id"], event["metrics"])
        return rungs

    def report(self, trial_id: str, metrics: Mapping[str, Any]) -> bool:
        """Take an epoch's metrics in; whether the trial goes on.

        One reported before changes nothing: a trial that goes on from a checkpoint repeats some.
        Further seeds of a setting take no part: it has been through the rungs with its first.
        """
        if trial_id not in self._trials:
            return True
        costs = [self._cost(key, metrics.get(key)) for key in self._objectives]
        exempt = self._trials[trial_id].baseline
        return self._rungs.report(trial_id, int(metrics[EPOCH]), costs, exempt=exempt)

    def stopped(self, trial_id: str) -> str | None:
        """Why a trial was stopped, or None for one that was not."""
        return self._rungs.stopped(trial_id)

    def _cost(self, key: str, value: float | None) -> float:
        """A metric as the rungs take it: minimised, of a cost the logarithm."""
        if value is None:
            return math.nan
        if key in STATIC:
            value = math.log(value) if value > 0 else math.nan
        return -value if self._objectives[key] == "max" else value
