"""A trial of the journal, as Optuna is told of it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from esam_tune.study.spec import StudySpec, coordinates
from esam_tune.study.study_rungs import STATIC
from esam_tune.study.trial_record import TrialRecord
from esam_tune.study.warm_start import WarmTrial

if TYPE_CHECKING:
    import optuna


def holds(spec: StudySpec, stored: optuna.trial.FrozenTrial, trial: TrialRecord) -> bool:
    """Whether a stored trial has the parameters of the journal's trial of its id."""
    point = coordinates(spec, trial.params)
    return point is not None and point.items() <= stored.params.items()


def values_of(spec: StudySpec, trial: TrialRecord | WarmTrial) -> list[float] | None:
    """A trial's objectives, in the study's order; None where it has not run to its end."""
    return trial.values(spec.objectives) if trial.state == "complete" else None


def state_of(trial: TrialRecord | WarmTrial) -> optuna.trial.TrialState:
    """What became of a trial, by Optuna's name."""
    import optuna

    return {
        "running": optuna.trial.TrialState.RUNNING,
        "complete": optuna.trial.TrialState.COMPLETE,
        "pruned": optuna.trial.TrialState.PRUNED,
        "failed": optuna.trial.TrialState.FAIL,
    }[trial.state]


def constrain(
    study: optuna.Study,
    spec: StudySpec,
    stored: optuna.trial.Trial | optuna.trial.FrozenTrial,
    trial: TrialRecord | WarmTrial,
) -> None:
    """Tell the sampler by how much a trial breaks each constraint.

    What a trial costs is known from its first epoch. What it would have learned is not: one that
    was stopped while it broke such a constraint ranks behind all that ran to their end.
    """
    if trial.state not in ("complete", "pruned"):
        return
    for constraint in spec.constraints:
        excess = constraint.excess(trial.values([constraint.metric])[0])
        if trial.state == "pruned" and excess > 0 and constraint.metric not in STATIC:
            excess += _worst(study, constraint.metric)
        stored.set_constraint(constraint.metric, min(excess, sys.float_info.max))


def _worst(study: optuna.Study, metric: str) -> float:
    """The largest excess of a complete trial over the constraint on a metric, or 0."""
    import optuna

    complete = [optuna.trial.TrialState.COMPLETE]
    stored = study.get_trials(deepcopy=False, states=complete)
    excesses: list[float] = [trial.constraints.get(metric, 0.0) for trial in stored]
    return max([0.0, *excesses])
