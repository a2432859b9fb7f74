"""One record of several studies' trials, where their values are of one scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from esam_tune.errors import InputError
from esam_tune.study.record import StudyRecord
from esam_tune.study.spec import Constraint
from esam_tune.study.warm_start import scale_differences

# What a study's name cannot hold stands between it and its trial's id.
_OF = "/"


def check_comparable(records: Mapping[str, StudyRecord]) -> None:
    """Require that values of all studies are of one scale.

    Raises:
        InputError: naming the first study that differs, and in what.
    """
    (name, first), *others = records.items()
    for other, record in others:
        differs = scale_differences(first.spec, record.spec)
        own, theirs = (list(r.spec.objectives.items()) for r in (first, record))
        if own != theirs:
            texts = (", ".join(f"{key}: {way}" for key, way in each) for each in (own, theirs))
            differs = ("objectives were {!r}, are {!r}".format(*texts), *differs)
        if differs:
            raise InputError(
                "STUDY",
                f"{other!r} cannot be compared with {name!r}: {'; '.join(differs)}",
                "compare studies of one task, one training and the same objectives",
            )


def on_one_front(records: Mapping[str, StudyRecord]) -> StudyRecord:
    """One record of all studies' trials, named ``STUDY/TRIAL``; of a single study its own."""
    first = next(iter(records.values()))
    if len(records) == 1:
        return first
    own = [constraint for record in records.values() for constraint in record.spec.constraints]
    tightest: dict[tuple[str, str], Constraint] = {}
    for constraint in own:
        key = constraint.metric, constraint.relation
        known = tightest.setdefault(key, constraint)
        # By how much one bound breaks the other tells which is the tighter.
        if known.excess(constraint.bound) < 0:
            tightest[key] = constraint
    spec = replace(first.spec, constraints=tuple(tightest.values()))
    together = StudyRecord(spec, first.workers_per_trial, first.tracking_uri)
    for name, record in records.items():
        for trial in record.trials.values():
            trial_id = f"{name}{_OF}{trial.trial_id}"
            together.trials[trial_id] = replace(trial, trial_id=trial_id)
    return together


def study_and_trial(name: str) -> tuple[str, str]:
    """The study of a trial of the common record, and the trial's id in it."""
    study, _, trial_id = name.rpartition(_OF)
    return study, trial_id
