"""Optuna's part: which setting to try next, learned from the trials that have ended."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from esam_tune.config import Value
from esam_tune.study.grid import grid_size
from esam_tune.study.optuna_storage import open_optuna_storage
from esam_tune.study.record import StudyRecord, TrialRecord
from esam_tune.study.samplers import distribution, flat_point, propose
from esam_tune.study.spec import Range, StudySpec, coordinates

if TYPE_CHECKING:
    import optuna

# User attributes of Optuna's trials.
_TRIAL_ID = "esam_tune.trial_id"
_REASON = "esam_tune.reason"
# Why a proposal never became a trial; such ones hold no place in the study.
_TURNED_DOWN = "esam_tune.turned_down"
# Settings asked for until one is admitted. Where hardly any part of the space is, a trial that
# breaks a constraint still tells the sampler something.
_ATTEMPTS = 64
# Shares of a range that are closer than this are one setting.
_SAME = 1e-3


class Proposals:
    """Asks Optuna for settings and tells it what became of them.

    The study is stored, but the journal remains the authority: opening brings Optuna's storage
    up to date with it, whichever of the two an earlier process wrote last.

    Args:
        where: file of an SQLite database, created when missing, or an Optuna storage's URL.
        spec: the study.
        admits: whether a setting may keep the constraints, as far as is known before it runs.
        study_name: in the storage; the study's own name where the storage holds no other.

    Raises:
        InputError: when the storage refuses.
    """

    def __init__(
        self,
        where: Path | str,
        spec: StudySpec,
        admits: Callable[[Mapping[str, Value]], bool] = lambda _: True,
        *,
        study_name: str | None = None,
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._spec = spec
        self._admits = admits
        # Settings that became trials, of the first so many of the storage's trials.
        self._settings: list[dict[str, Value]] = []
        self._seen = 0
        self._study = optuna.create_study(
            study_name=study_name or spec.name,
            storage=open_optuna_storage(where),
            directions=["maximize" if d == "max" else "minimize" for d in spec.objectives.values()],
            load_if_exists=True,
        )

    def settle(self, record: StudyRecord) -> None:
        """Tell Optuna of every trial whose end it does not know, and drop proposals never run."""
        import optuna

        known = {trial.trial_id: trial for trial in record.trials.values()}
        running = {trial.optuna_number for trial in known.values() if trial.state == "running"}
        for stored in self._study.get_trials(deepcopy=False):
            if stored.state == optuna.trial.TrialState.RUNNING and stored.number not in running:
                started = [t for t in known.values() if t.optuna_number == stored.number]
                if started:
                    self.tell(started[0])
                else:
                    self._turn_down(stored.number, "proposed by a process that died before use")
        told = {
            stored.user_attrs.get(_TRIAL_ID)
            for stored in self._study.get_trials(deepcopy=False)
            if _TURNED_DOWN not in stored.user_attrs
        }
        for trial in record.finished:
            if trial.optuna_number is None and trial.trial_id not in told:
                self.tell(trial)

    def ask(self, index: int, trial_id: str | None = None) -> tuple[int, dict[str, Value]]:
        """Propose a setting.

        One whose predicted cost breaks a constraint is not worth a trial, nor is one that was
        tried already but for rounding: Optuna is told that it failed, and asked again. The sampler
        is made anew each time, from ``index`` and the count of attempts, so that a study that was
        interrupted proposes what it would have proposed undisturbed.

        Args:
            index: of this search trial, counted from 0.
            trial_id: that the trial will have, for Optuna's user attributes.

        Returns:
            The proposal's number, for :meth:`tell`, and the trial's complete parameters.
        """
        tried = self._tried()
        for attempt in range(_ATTEMPTS):
            trial, params = propose(self._study, self._spec, index, attempt)
            refusal = self._refusal(params, tried)
            if refusal is None or attempt == _ATTEMPTS - 1:
                break
            self._turn_down(trial.number, refusal)
        if trial_id is not None:
            trial.set_user_attr(_TRIAL_ID, trial_id)
        return trial.number, params

    def _refusal(self, params: Mapping[str, Value], tried: list[dict[str, Value]]) -> str | None:
        """Why a setting is not worth a trial, or None."""
        if not self._admits(params):
            return "its predicted cost breaks a constraint"
        if any(_same(self._spec, params, other) for other in tried):
            return "tried already"
        return None

    def _tried(self) -> list[dict[str, Value]]:
        """Settings of the space that have been or are being tried; none where all were."""
        for stored in self._study.get_trials(deepcopy=False)[self._seen :]:
            if _TURNED_DOWN not in stored.user_attrs:
                self._settings.append(self._spec.completed(stored.params))
            self._seen += 1
        size = grid_size(self._spec)
        if size is not None and len({tuple(p.items()) for p in self._settings}) >= size:
            # A space gone through is gone through again.
            return []
        return self._settings

    def _turn_down(self, number: int, reason: str) -> None:
        import optuna

        self._attribute(number, _TURNED_DOWN, reason)
        self._study.tell(number, state=optuna.trial.TrialState.FAIL)

    def _attribute(self, number: int, key: str, value: str) -> None:
        """Set a user attribute of a stored trial, which an earlier process may have asked for."""
        import optuna

        stored = self._study.get_trials(deepcopy=False)[number]
        if not stored.state.is_finished():
            optuna.trial.Trial(self._study, stored._trial_id).set_user_attr(key, value)

    def tell(self, trial: TrialRecord) -> None:
        """Report the end of a trial: its objectives, or that it failed or was stopped early."""
        import optuna

        state = {
            "complete": optuna.trial.TrialState.COMPLETE,
            "pruned": optuna.trial.TrialState.PRUNED,
            "failed": optuna.trial.TrialState.FAIL,
        }[trial.state]
        values = trial.values(self._spec.objectives) if trial.state == "complete" else None
        if trial.optuna_number is None:
            if values is not None:
                self._teach(trial, values)
            return
        self._attribute(trial.optuna_number, _TRIAL_ID, trial.trial_id)
        if trial.reason is not None:
            self._attribute(trial.optuna_number, _REASON, trial.reason)
        stored = self._study.get_trials(deepcopy=False)[trial.optuna_number]
        if not stored.state.is_finished() and values is not None:
            # The trial may have been proposed by an earlier process: no object of it is kept.
            self._constrain(optuna.trial.Trial(self._study, stored._trial_id), trial)
        self._study.tell(trial.optuna_number, values, state=state, skip_if_finished=True)

    def _teach(self, trial: TrialRecord, values: list[float]) -> None:
        """Let the sampler learn from a baseline that lies in the search space."""
        import optuna

        point = coordinates(self._spec, trial.params)
        if point is None:
            return
        point = flat_point(self._spec, point)
        taught = optuna.trial.create_trial(
            params=point,
            distributions={key: distribution(self._spec.dimensions[key]) for key in point},
            values=values,
            user_attrs={_TRIAL_ID: trial.trial_id},
        )
        self._constrain(taught, trial)
        self._study.add_trial(taught)

    def _constrain(
        self, stored: optuna.trial.Trial | optuna.trial.FrozenTrial, trial: TrialRecord
    ) -> None:
        """Tell the sampler by how much a complete trial breaks each constraint."""
        for constraint in self._spec.constraints:
            excess = constraint.excess(trial.values([constraint.metric])[0])
            stored.set_constraint(constraint.metric, min(excess, sys.float_info.max))


def _same(spec: StudySpec, first: Mapping[str, Value], second: Mapping[str, Value]) -> bool:
    """Whether two complete settings are one but for rounding."""
    if first.keys() != second.keys():
        return False
    for key, value in first.items():
        dimension = spec.dimensions.get(key)
        if isinstance(dimension, Range) and not dimension.integer:
            shares = [dimension.share(float(v)) for v in (value, second[key])]
            if abs(shares[0] - shares[1]) >= _SAME:
                return False
        elif value != second[key]:
            return False
    return True
