"""What `refine` finds out reaches the sampler when the study goes on."""

from __future__ import annotations

import optuna
import pytest
from study_events import WrittenStudy, study_spec

from esam_tune.study.optuna_storage import open_optuna_storage
from esam_tune.study.proposals import Proposals

STATES = optuna.trial.TrialState
TRIALS = 3


class Study:
    """A study of a sampler that has tried some settings under one seed."""

    def __init__(self, folder, *, sqlite=False, **changes):
        bound = {"val_accuracy": ">= 0.5"}
        self.spec = study_spec(**{"trials": 20, "baselines": None, "constraints": bound} | changes)
        # A file of Optuna's own kind waits for the disk less often.
        self.where = folder / "optuna.db" if sqlite else f"journal:///{folder}/optuna.log"
        self.journal = WrittenStudy(folder / "journal.jsonl", self.spec)
        proposals = self.open()
        for index in range(TRIALS):
            number, params = proposals.ask(index, self.journal.next_id)
            trial_id = self.journal.trial(0.5 + index / 100, 1.5, params=params, number=number)
            proposals.tell(self.journal.record().trials[trial_id])

    def open(self):
        proposals = Proposals(self.where, self.spec)
        proposals.settle(self.journal.record())
        return proposals

    def stored(self):
        storage = open_optuna_storage(self.where)
        return optuna.load_study(study_name=self.spec.name, storage=storage).get_trials()

    def refine(self, trial_id, accuracy, state="complete"):
        run = self.journal.replicate(trial_id, 1)
        self.journal.epoch(run, 2, val_accuracy=accuracy, step_flops_ratio=1.5)
        self.journal.end(run, state, None if state == "complete" else "because")


def of_trials(stored):
    """What must not change: numbers, settings, and what the algorithm noted."""
    return [
        (
            trial.number,
            trial.params,
            trial.user_attrs["esam_tune.trial_id"],
            {k: v for k, v in trial.system_attrs.items() if not k.startswith("constraints")},
        )
        for trial in stored
        if "esam_tune.trial_id" in trial.user_attrs
    ]


@pytest.mark.parametrize(("sampler", "sqlite"), [("tpe", True), ("nsga2", False)])
def test_a_refined_mean_is_told_when_the_study_goes_on(tmp_path, sampler, sqlite):
    study = Study(tmp_path, sampler=sampler, sqlite=sqlite)
    before = study.stored()
    study.refine("0001", 0.13)
    study.open()
    after = study.stored()
    assert of_trials(after) == of_trials(before)
    values = {t.user_attrs["esam_tune.trial_id"]: t.values for t in after if t.values}
    assert values["0001"] == [pytest.approx((0.51 + 0.13) / 2), 1.5]
    assert values["0002"] == [0.52, 1.5]
    (refined,) = [t for t in after if t.user_attrs.get("esam_tune.trial_id") == "0001"]
    # The mean breaks the constraint that the first seed kept.
    assert refined.constraints["val_accuracy"] == pytest.approx(0.5 - 0.32)
    # What has been told is not told again.
    study.open()
    assert [trial._trial_id for trial in study.stored()] == [trial._trial_id for trial in after]


def test_a_setting_that_diverges_under_another_seed_has_failed_for_the_sampler_too(tmp_path):
    study = Study(tmp_path)
    run = study.journal.replicate("0002", 1)
    study.journal.epoch(run, 1, val_accuracy=None, step_flops_ratio=1.5)
    study.journal.end(run, "failed", "val_accuracy is not finite")
    study.open()
    stored = study.stored()
    assert [t.state for t in stored] == [STATES.COMPLETE, STATES.COMPLETE, STATES.FAIL]
    assert stored[2].user_attrs["esam_tune.reason"] == "seed 1: val_accuracy is not finite"


def test_a_proposal_under_way_stays_under_way(tmp_path):
    study = Study(tmp_path)
    number, params = study.open().ask(TRIALS, study.journal.next_id)
    trial_id = study.journal.start(params, number=number)
    study.refine("0001", 0.9)
    proposals = study.open()
    assert study.stored()[number].state == STATES.RUNNING
    study.journal.epoch(trial_id, 2, val_accuracy=0.6, step_flops_ratio=1.5)
    study.journal.end(trial_id)
    proposals.tell(study.journal.record().trials[trial_id])
    assert study.stored()[number].values == [0.6, 1.5]


def test_a_death_while_the_study_is_written_anew_is_made_good(tmp_path, monkeypatch):
    study = Study(tmp_path)
    study.refine("0001", 0.91)
    real = optuna.Study.add_trials

    def die(self, trials):
        real(self, list(trials)[:2])
        raise KeyboardInterrupt

    monkeypatch.setattr(optuna.Study, "add_trials", die)
    with pytest.raises(KeyboardInterrupt):
        study.open()
    monkeypatch.undo()
    study.open()
    values = {t.user_attrs["esam_tune.trial_id"]: t.values[0] for t in study.stored()}
    assert values == {
        f"{index:04d}": pytest.approx(0.71 if index == 1 else 0.5 + index / 100)
        for index in range(TRIALS)
    }
