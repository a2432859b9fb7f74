"""Optuna's part: which setting to try next, learned from the trials that have ended."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from esam_tune.config import HYPERPARAMETERS, OPTIMIZERS, Value, complete_params
from esam_tune.study.record import StudyRecord, TrialRecord
from esam_tune.study.spec import Choice, Dimension, StudySpec, coordinates

if TYPE_CHECKING:
    import optuna

_TRIAL_ID = "esam_tune.trial_id"
# Settings asked for until one is admitted. Where hardly any part of the space is, a trial that
# breaks a constraint still tells the sampler something.
_ATTEMPTS = 64


class Proposals:
    """Asks Optuna for settings and tells it what became of them.

    The study is stored, but the journal remains the authority: opening brings Optuna's database
    up to date with it, whichever of the two an earlier process wrote last.

    Args:
        path: of the SQLite database, created when missing.
        spec: the study.
        admits: whether a setting may keep the constraints, as far as is known before it runs.
    """

    def __init__(
        self,
        path: Path,
        spec: StudySpec,
        admits: Callable[[Mapping[str, Value]], bool] = lambda _: True,
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._spec = spec
        self._admits = admits
        self._study = optuna.create_study(
            study_name=spec.name,
            storage=f"sqlite:///{path}",
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
                    self._study.tell(stored.number, state=optuna.trial.TrialState.FAIL)
        told = {stored.user_attrs.get(_TRIAL_ID) for stored in self._study.get_trials(False)}
        for trial in record.finished:
            if trial.optuna_number is None and trial.trial_id not in told:
                self.tell(trial)

    def ask(self, index: int) -> tuple[int, dict[str, Value]]:
        """Propose a setting.

        One whose predicted cost breaks a constraint is not worth a trial: Optuna is told that it
        failed, and asked again. The sampler is seeded anew each time, from ``index`` and the
        count of attempts, so that a study that was interrupted proposes what it would have
        proposed undisturbed.

        Args:
            index: of this search trial, counted from 0.

        Returns:
            The proposal's number, for :meth:`tell`, and the trial's complete parameters.
        """
        import optuna

        for attempt in range(_ATTEMPTS):
            number, params = self._propose([self._spec.seed, index, *filter(None, [attempt])])
            if self._admits(params) or attempt == _ATTEMPTS - 1:
                break
            self._study.tell(number, state=optuna.trial.TrialState.FAIL)
        return number, params

    def _propose(self, seed: list[int]) -> tuple[int, dict[str, Value]]:
        import optuna

        # Ten random trials, Optuna's default, would leave a short search no time to learn.
        startup = min(10, max(3, self._spec.trials // 3))
        self._study.sampler = optuna.samplers.TPESampler(
            seed=int(np.random.SeedSequence(seed).generate_state(1)[0]), n_startup_trials=startup
        )
        trial = self._study.ask()
        params: dict[str, Value] = dict(self._spec.fixed)
        for key, dimension in sorted(
            self._spec.dimensions.items(), key=lambda item: item[0] != "optimizer"
        ):
            reads = OPTIMIZERS[str(params["optimizer"])].defaults if "optimizer" in params else {}
            if key in HYPERPARAMETERS and key not in reads:
                continue
            params[key] = _suggest(trial, key, dimension)
        reads = OPTIMIZERS[str(params["optimizer"])].defaults
        used = {k: v for k, v in params.items() if k not in HYPERPARAMETERS or k in reads}
        return trial.number, complete_params("search", used)

    def tell(self, trial: TrialRecord) -> None:
        """Report the end of a trial: its objectives, or that it failed or was stopped early."""
        import optuna

        state = {
            "complete": optuna.trial.TrialState.COMPLETE,
            "pruned": optuna.trial.TrialState.PRUNED,
            "failed": optuna.trial.TrialState.FAIL,
        }[trial.state]
        values = trial.values(self._spec.objectives) if trial.state == "complete" else None
        if trial.optuna_number is not None:
            stored = self._study.get_trials(deepcopy=False)[trial.optuna_number]
            if not stored.state.is_finished() and values is not None:
                # The trial may have been proposed by an earlier process: no object of it is kept.
                self._constrain(optuna.trial.Trial(self._study, stored._trial_id), trial)
            self._study.tell(trial.optuna_number, values, state=state, skip_if_finished=True)
        elif values is not None:
            self._teach(trial, values)

    def _teach(self, trial: TrialRecord, values: list[float]) -> None:
        """Let the sampler learn from a baseline that lies in the search space."""
        import optuna

        point = coordinates(self._spec, trial.params)
        if point is None:
            return
        taught = optuna.trial.create_trial(
            params=point,
            distributions={key: _distribution(self._spec.dimensions[key]) for key in point},
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


def _distribution(dimension: Dimension) -> optuna.distributions.BaseDistribution:
    import optuna

    if isinstance(dimension, Choice):
        return optuna.distributions.CategoricalDistribution(dimension.choices)
    if dimension.integer:
        return optuna.distributions.IntDistribution(
            int(dimension.low), int(dimension.high), log=dimension.log
        )
    return optuna.distributions.FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _suggest(trial: optuna.Trial, key: str, dimension: Dimension) -> Any:
    if isinstance(dimension, Choice):
        return trial.suggest_categorical(key, dimension.choices)
    if dimension.integer:
        return trial.suggest_int(key, int(dimension.low), int(dimension.high), log=dimension.log)
    return trial.suggest_float(key, dimension.low, dimension.high, log=dimension.log)
