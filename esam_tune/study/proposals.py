"""Optuna's part: which setting to try next, learned from the trials that have ended."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from esam_tune.domains import Value
from esam_tune.journal import Patience, no_patience
from esam_tune.study.known_cost import KnownCost
from esam_tune.study.mirrored_storage import MirroredStorage
from esam_tune.study.optuna_storage import open_optuna_storage
from esam_tune.study.optuna_trials import constrain, holds, state_of, values_of
from esam_tune.study.record import StudyRecord
from esam_tune.study.refined_results import differs, told_anew, with_result
from esam_tune.study.samplers import (
    distribution,
    first_generation,
    flat_point,
    propose,
    propose_point,
)
from esam_tune.study.scarce import admitted_near, is_scarce
from esam_tune.study.spec import StudySpec, coordinates
from esam_tune.study.trial_record import TrialRecord
from esam_tune.study.warm_start import WarmStart, WarmTrial
from esam_tune.study.worthwhile import Worthwhile

if TYPE_CHECKING:
    import optuna

_log = logging.getLogger(__name__)

# User attributes of Optuna's trials.
_TRIAL_ID = "esam_tune.trial_id"
_REASON = "esam_tune.reason"
# Why a proposal never became a trial; such ones hold no place in the study.
_TURNED_DOWN = "esam_tune.turned_down"
# The earlier study and trial whose result the sampler was given; such ones are no trials here.
_WARM = "esam_tune.warm_start"
# Settings asked for until one is admitted, after which admitted ones are looked for.
_ATTEMPTS = 64
# The same where there are so few that a sampler hardly comes across them.
_ATTEMPTS_OF_FEW = 8


class Proposals:
    """Asks Optuna for settings and tells it what became of them.

    The study is stored, but the journal remains the authority: opening brings Optuna's storage
    up to date with it, whichever of the two an earlier process wrote last.

    Args:
        where: file of an SQLite database, created when missing, or an Optuna storage's URL.
        spec: the study.
        admits: whether a setting may keep the constraints, as far as is known before it runs.
        price: what a setting's step is predicted to cost; sampler ``known_cost`` needs it.
        study_name: in the storage; the study's own name where the storage holds no other.
        warm: what earlier studies found.
        patience: with a storage that is locked, full or away.

    Raises:
        InputError: when the storage refuses.
    """

    def __init__(
        self,
        where: Path | str,
        spec: StudySpec,
        admits: Callable[[Mapping[str, Value]], bool] = lambda _: True,
        *,
        price: Callable[[Mapping[str, Value]], float] | None = None,
        study_name: str | None = None,
        warm: Sequence[WarmStart] = (),
        patience: Patience = no_patience,
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._spec = spec
        self._admits = admits
        self._worthwhile = Worthwhile(spec, admits)
        self._scarce = self._worthwhile.left() is None and is_scarce(spec, admits)
        # Settings of studies of another task, to be tried first.
        self._first = [trial.params for start in warm if start.differs for trial in start.trials]
        # So many of the storage's trials are known to have been tried, or not to have been.
        self._seen = 0
        # Where the storage holds each trial of the journal.
        self._numbers: dict[str, int] = {}
        self._known_cost: KnownCost | None = None
        if spec.sampler == "known_cost":
            assert price is not None, "this sampler needs prices"
            self._known_cost = KnownCost(spec, price)
        self._study = optuna.create_study(
            study_name=study_name or spec.name,
            storage=MirroredStorage(open_optuna_storage(where, patience)),
            directions=["maximize" if d == "max" else "minimize" for d in spec.objectives.values()],
            load_if_exists=True,
        )
        self._learn(warm)

    def settle(self, record: StudyRecord) -> None:
        """Bring Optuna's storage up to date with the journal, which knows all trials.

        Ends that the storage does not know are told, trials that it lacks (it may be new, or an
        older copy) are added, proposals that never became a trial are dropped, and results that
        more seeds have changed since are told anew.
        """
        import optuna

        self._tell_anew(record)
        self._numbers = {}
        for stored in self._study.get_trials(deepcopy=False):
            trial = record.trials.get(stored.user_attrs.get(_TRIAL_ID, ""))
            if _TURNED_DOWN in stored.user_attrs:
                continue
            if trial and trial.trial_id not in self._numbers and holds(self._spec, stored, trial):
                self._numbers[trial.trial_id] = stored.number
            elif stored.state == optuna.trial.TrialState.RUNNING:
                self._turn_down(stored.number, "proposed by a process that died before use")
        for trial in record.trials.values():
            if self._known_cost is not None:
                self._known_cost.learn(trial)
            if trial.trial_id not in self._numbers:
                self._add(trial)
            elif trial.state != "running":
                self.tell(trial)

    def _tell_anew(self, record: StudyRecord) -> None:
        import optuna

        changed = {}
        told = self._study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
        for stored in told:
            trial = record.trials.get(stored.user_attrs.get(_TRIAL_ID, ""))
            if trial is None or trial.state == "running" or not holds(self._spec, stored, trial):
                continue
            if differs(stored.values, values_of(self._spec, trial)):
                new = with_result(stored, state_of(trial), values_of(self._spec, trial))
                if trial.reason is not None:
                    new.set_user_attr(_REASON, trial.reason)
                constrain(self._study, self._spec, new, trial)
                changed[stored.number] = new
        if changed:
            self._study = told_anew(self._study, changed)

    def ask(self, index: int, trial_id: str) -> tuple[int, dict[str, Value]] | None:
        """Propose a setting.

        One whose predicted cost breaks a constraint is not worth a trial, nor is one that was
        tried already but for rounding: Optuna is told that it failed, and asked again. The sampler
        is made anew each time, from ``index`` and the count of attempts, so that a study that was
        interrupted proposes what it would have proposed undisturbed.

        Args:
            index: of this search trial, counted from 0.
            trial_id: that the trial will have, by which :meth:`tell` knows it.

        Returns:
            The proposal's number in Optuna's study, and the trial's complete parameters; None when
            every setting of the space that may keep the constraints, as far as one is found, has
            been tried.
        """
        self._note_tried()
        left = self._worthwhile.left()
        if left is not None and not left:
            _log.warning("every setting of the space that may keep the constraints has been tried")
            return None
        proposed = self._proposed_first(index) or self._proposed_by_cost(index)
        attempts = _ATTEMPTS_OF_FEW if self._scarce or left is not None else _ATTEMPTS
        for attempt in range(attempts if proposed is None else 0):
            trial, params = propose(self._study, self._spec, index, attempt)
            refusal = self._worthwhile.refusal(params)
            if refusal is None:
                proposed = trial, params
                break
            self._turn_down(trial.number, refusal)
        if proposed is None:
            left = self._looked_for(index) if left is None else left
            if not left:
                _log.warning("no setting is found that may keep the constraints and is not tried")
                return None
            proposed = propose_point(self._study, self._spec, index, left)
        trial, params = proposed
        trial.set_user_attr(_TRIAL_ID, trial_id)
        self._numbers[trial_id] = trial.number
        if self._known_cost is not None:
            self._known_cost.start(trial_id, params)
        return trial.number, params

    def _proposed_first(self, index: int) -> tuple[optuna.Trial, dict[str, Value]] | None:
        """The setting of another task's study that is to be tried now, if any and worth a trial."""
        if index >= len(self._first) or self._worthwhile.refusal(self._first[index]) is not None:
            return None
        point = coordinates(self._spec, self._first[index])
        assert point is not None, "settings outside of the space are left out of a warm start"
        return propose_point(self._study, self._spec, index, [point])

    def _proposed_by_cost(self, index: int) -> tuple[optuna.Trial, dict[str, Value]] | None:
        """The setting of sampler ``known_cost``, if that is the study's and finds one."""
        if self._known_cost is None:
            return None
        worth = self._known_cost.point(index, lambda p: self._worthwhile.refusal(p) is None)
        return propose_point(self._study, self._spec, index, [worth]) if worth else None

    def _looked_for(self, index: int) -> list[dict[str, Value]]:
        """Points worth a trial where the sampler finds none."""
        points = admitted_near(self._spec, self._admits, [self._spec.seed, index])
        return [p for p in points if self._worthwhile.refusal(self._spec.completed(p)) is None]

    def _learn(self, warm: Sequence[WarmStart]) -> None:
        """Give the sampler the results of earlier studies that it has not been given yet.

        They are no trials of the study: a setting of theirs may be tried again, as it could never
        come onto the front otherwise.
        """
        stored = self._study.get_trials(deepcopy=False)
        known = {trial.user_attrs.get(_WARM) for trial in stored}
        for start in warm:
            for trial in () if start.differs else start.trials:
                source = f"{start.study_id}/{trial.trial_id}"
                point = coordinates(self._spec, trial.params)
                if source not in known and point is not None:
                    self._store(trial, point, {_WARM: source})
                if self._known_cost is not None:
                    self._known_cost.learn_warm(source, trial)

    def _note_tried(self) -> None:
        """Take note of the settings in the storage that have been or are being tried."""
        for stored in self._study.get_trials(deepcopy=False)[self._seen :]:
            if not stored.user_attrs.keys() & {_TURNED_DOWN, _WARM}:
                self._worthwhile.add(stored.params)
            self._seen += 1

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

        if self._known_cost is not None:
            self._known_cost.learn(trial)
        number = self._numbers.get(trial.trial_id)
        if number is None:
            self._add(trial)
            return
        stored = self._study.get_trials(deepcopy=False)[number]
        if stored.state.is_finished():
            return
        if trial.reason is not None:
            self._attribute(number, _REASON, trial.reason)
        # The trial may have been proposed by an earlier process: no object of it is kept.
        constrain(self._study, self._spec, optuna.trial.Trial(self._study, stored._trial_id), trial)
        self._study.tell(number, values_of(self._spec, trial), state=state_of(trial))

    def _add(self, trial: TrialRecord) -> None:
        """Store a trial that no proposal of the storage became.

        Of a baseline the sampler learns where it lies in the search space and has a result.
        """
        point = coordinates(self._spec, trial.params)
        if point is None or (trial.baseline and trial.state != "complete"):
            return
        attributes = {_TRIAL_ID: trial.trial_id}
        if trial.reason is not None:
            attributes[_REASON] = trial.reason
        self._numbers[trial.trial_id] = len(self._study.get_trials(deepcopy=False))
        self._store(trial, point, attributes)

    def _store(
        self, trial: TrialRecord | WarmTrial, point: dict[str, Value], attributes: dict[str, str]
    ) -> None:
        import optuna

        point = flat_point(self._spec, point)
        added = optuna.trial.create_trial(
            state=state_of(trial),
            params=point,
            distributions={key: distribution(self._spec.dimensions[key]) for key in point},
            values=values_of(self._spec, trial),
            user_attrs=attributes,
            system_attrs=first_generation(self._spec) if _WARM in attributes else {},
        )
        constrain(self._study, self._spec, added, trial)
        self._study.add_trial(added)
