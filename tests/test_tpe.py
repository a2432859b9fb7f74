"""TPE that divides the trials once a proposal: as Optuna's own proposes, with less work."""

import optuna
import pytest
from optuna.samplers import TPESampler

from esam_tune.study.tpe import TPE

TRIALS = 40


@pytest.fixture
def divisions(monkeypatch):
    """How often trials were divided, while Optuna's code runs as it is."""
    calls = []
    names = vars(__import__(TPESampler.__module__, fromlist=["_split_trials"]))
    divide = names["_split_trials"]
    monkeypatch.setitem(names, "_split_trials", lambda *a: calls.append(a) or divide(*a))
    return calls


def searched(sampler):
    """Points that a search over three parameters, one of them not always there, comes to."""
    study = optuna.create_study(directions=["maximize", "minimize"])
    points = []
    for index in range(TRIALS):
        study.sampler = sampler(seed=index, n_startup_trials=5)
        trial = study.ask()
        kind = trial.suggest_categorical("optimizer", ["esam", "sgd"])
        rho = trial.suggest_float("rho", 0.01, 1.0, log=True) if kind == "esam" else 0.0
        share = trial.suggest_float("beta", 0.1, 1.0)
        points.append(trial.params)
        if index % 7 == 3:
            trial.set_constraint("cost", share - 0.5)
        states = {5: optuna.trial.TrialState.PRUNED, 8: optuna.trial.TrialState.FAIL}
        if index % 10 in states:
            study.tell(trial, state=states[index % 10])
        else:
            study.tell(trial, [share - (rho - 0.2) ** 2, 1 + share])
    return points


def test_proposals_are_those_of_optunas_own(divisions):
    expected = searched(TPESampler)
    optunas = len(divisions)
    divisions.clear()
    assert searched(TPE) == expected
    assert sum(len(point) for point in expected[10:]) > 2 * (TRIALS - 10)
    # Of the trials that learn, one each.
    assert optunas > 2 * len(divisions) > 0
    assert len(divisions) <= TRIALS


def test_an_optuna_with_other_names_goes_on_as_it_is(monkeypatch):
    expected = searched(TPESampler)
    monkeypatch.setattr("esam_tune.study.tpe._DIVIDE", "_divide_trials")
    assert searched(TPE) == expected
    monkeypatch.setattr("esam_tune.study.tpe._SAMPLE", "_draw")
    assert searched(TPE) == expected
