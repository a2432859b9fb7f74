"""Results that changed after the sampler was told them: `refine` gave them more seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import optuna

_CONSTRAINTS = "constraints"  # beginning of the system attributes that hold a trial's constraints


def differs(told: Sequence[float], values: Sequence[float] | None) -> bool:
    """Whether a result is another than the sampler was told, but for a database's rounding."""
    if values is None or len(told) != len(values):
        return True
    return not all(math.isclose(*pair, rel_tol=1e-9) for pair in zip(told, values, strict=True))


def with_result(
    stored: optuna.trial.FrozenTrial,
    state: optuna.trial.TrialState,
    values: Sequence[float] | None,
) -> optuna.trial.FrozenTrial:
    """A stored trial with another result, and without the constraints that it broke before."""
    import optuna

    kept = {
        key: value for key, value in stored.system_attrs.items() if not key.startswith(_CONSTRAINTS)
    }
    return optuna.trial.create_trial(
        state=state,
        values=values,
        params=stored.params,
        distributions=stored.distributions,
        user_attrs=stored.user_attrs,
        system_attrs=kept,
    )


def told_anew(study: optuna.Study, changed: Mapping[int, optuna.trial.FrozenTrial]) -> optuna.Study:
    """An Optuna study with some of its finished trials replaced.

    Optuna changes no finished trial, so the study is written anew, trial by trial in order:
    numbers stay, and what a genetic algorithm noted of each trial. A process that dies on the way
    leaves fewer trials, which are filled in from the journal as for any storage that lost some.

    Args:
        study: as it is stored.
        changed: number of a trial -> what takes its place.
    """
    import optuna

    trials = study.get_trials()
    name, storage, directions = study.study_name, study._storage, study.directions
    optuna.delete_study(study_name=name, storage=storage)
    anew = optuna.create_study(study_name=name, storage=storage, directions=directions)
    anew.add_trials([changed.get(trial.number, trial) for trial in trials])
    return anew
