"""Optuna's storage, read in memory and written through to one that outlives the process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState


class MirroredStorage(InMemoryStorage):  # type: ignore[misc]  # Optuna is read without types
    """One study in memory, each of whose changes is written to a stored one.

    Optuna reads a database anew for each value that it samples, as others may have written to it,
    and commits each value by itself. A study's driver is the only writer, so its memory is never
    behind; and a trial is written whole, in one transaction, when its first user attribute tells
    what became of its sampling, or when it ends.

    Trials have their numbers for ids here, whatever ids they have in the storage: so what a genetic
    algorithm keeps of a generation's parents, by their ids, holds in the next process, too.

    Args:
        stored: that the study is written to.
    """

    def __init__(self, stored: BaseStorage) -> None:
        super().__init__()
        self._stored = stored
        # Ids in the storage: of the study, and of each trial by its id here. A trial that is being
        # sampled has none yet.
        self._there = -1
        self._ids: dict[int, int] = {}

    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        """Make a study in both places, or read the one that is there.

        Raises:
            DuplicatedStudyError: when there is one, which is known here from now on.
        """
        try:
            self._there = self._stored.create_new_study(directions, study_name)
        except DuplicatedStudyError:
            self._read(study_name)
            raise
        return int(super().create_new_study(directions, study_name))

    def _read(self, study_name: str | None) -> None:
        if study_name in self._study_name_to_id:
            return
        there = self._there = self._stored.get_study_id_from_name(study_name)
        here = super().create_new_study(self._stored.get_study_directions(there), study_name)
        for key, value in self._stored.get_study_user_attrs(there).items():
            super().set_study_user_attr(here, key, value)
        for key, value in self._stored.get_study_system_attrs(there).items():
            super().set_study_system_attr(here, key, value)
        for trial in self._stored.get_all_trials(there, deepcopy=False):
            self._ids[super().create_new_trial(here, trial)] = trial._trial_id

    def delete_study(self, study_id: int) -> None:
        """Delete the study in both places."""
        self._stored.delete_study(self._there)
        super().delete_study(study_id)
        self._ids = {}
        self._max_trial_id = -1

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """Set in both places."""
        super().set_study_user_attr(study_id, key, value)
        self._stored.set_study_user_attr(self._there, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Set in both places."""
        super().set_study_system_attr(study_id, key, value)
        self._stored.set_study_system_attr(self._there, key, value)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Add a trial: in both places one that is whole, here alone one that is to be sampled."""
        trial_id = int(super().create_new_trial(study_id, template_trial))
        if template_trial is not None:
            self._write(trial_id)
        return trial_id

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: Any
    ) -> None:
        """Set here, and in the storage once the trial is there."""
        super().set_trial_param(trial_id, param_name, param_value_internal, distribution)
        if trial_id in self._ids:
            self._stored.set_trial_param(
                self._ids[trial_id], param_name, param_value_internal, distribution
            )

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set here, and in the storage once the trial is there."""
        super().set_trial_system_attr(trial_id, key, value)
        if trial_id in self._ids:
            self._stored.set_trial_system_attr(self._ids[trial_id], key, value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set in both places; the trial is written if it is not there yet."""
        super().set_trial_user_attr(trial_id, key, value)
        if trial_id in self._ids:
            self._stored.set_trial_user_attr(self._ids[trial_id], key, value)
        else:
            self._write(trial_id)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Set in both places; the trial is written if it is not there yet."""
        changed = bool(super().set_trial_state_values(trial_id, state, values))
        if trial_id in self._ids:
            self._stored.set_trial_state_values(self._ids[trial_id], state, values)
        else:
            self._write(trial_id)
        return changed

    def _write(self, trial_id: int) -> None:
        whole = self.get_trial(trial_id)
        self._ids[trial_id] = self._stored.create_new_trial(self._there, whole)
