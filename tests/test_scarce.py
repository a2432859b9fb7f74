"""Search spaces of which hardly anything may keep the constraints."""

import optuna
import pytest
from study_events import study_spec

from esam_tune.study.feasibility import PredictedCost
from esam_tune.study.proposals import Proposals
from esam_tune.study.scarce import admitted_near, is_scarce
from esam_tune.study.spec import SAMPLERS

# Of the settings only SGD's one costs no more than a step of SGD; there is no end to the others.
ONE_POINT = {
    "optimizer": {"choices": ["esam", "sgd"]},
    "beta": {"low": 0.3, "high": 1.0},
    "rho": {"low": 0.1, "high": 1.0, "log": True},
}
CORNER = {
    "optimizer": "esam",
    "beta": {"low": 0.3, "high": 1.0},
    "gamma": {"low": 0.3, "high": 1.0},
    "rho": {"low": 0.1, "high": 1.0, "log": True},
}


def turned_down(spec, path):
    study = optuna.load_study(study_name=spec.name, storage=f"sqlite:///{path}")
    return sum(trial.state == optuna.trial.TrialState.FAIL for trial in study.get_trials())


@pytest.mark.parametrize("sampler", [s for s in SAMPLERS if s != "grid"])
def test_where_one_setting_of_an_endless_space_is_admitted_it_runs_and_the_search_ends(
    tmp_path, sampler
):
    spec = study_spec(search=ONE_POINT, sampler=sampler, constraints={"step_flops_ratio": "<= 1"})
    predicted = PredictedCost(spec, 1)
    path = tmp_path / "optuna.db"
    proposals = Proposals(path, spec, predicted.admits, price=predicted)
    assert proposals.ask(0, "0000")[1] == {"optimizer": "sgd"}
    assert proposals.ask(1, "0001") is None
    # As would another process, which was started to go on.
    assert Proposals(path, spec, predicted.admits, price=predicted).ask(1, "0001") is None
    assert turned_down(spec, path) <= 2 * 64 + 1


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "qmc"])
def test_in_a_small_corner_different_admitted_settings_are_found_quickly(tmp_path, sampler):
    spec = study_spec(search=CORNER, sampler=sampler, trials=6)

    def admits(params):
        # One setting in ten thousand or so.
        return params["beta"] < 0.307 and params["gamma"] < 0.307

    path = tmp_path / "optuna.db"
    proposals = Proposals(path, spec, admits)
    assert is_scarce(spec, admits)
    asked = [proposals.ask(index, str(index))[1] for index in range(6)]
    assert all(map(admits, asked))
    assert len({frozenset(params.items()) for params in asked}) == 6
    assert turned_down(spec, path) <= 6 * 8
    again = Proposals(tmp_path / "again.db", spec, admits)
    assert [again.ask(index, str(index))[1] for index in range(6)] == asked


def test_points_that_are_found_hold_what_their_trials_have():
    spec = study_spec(search=ONE_POINT)
    assert not is_scarce(spec, lambda _: True)
    points = admitted_near(spec, lambda params: params["optimizer"] == "sgd", [0])
    assert points
    assert all(point == {"optimizer": "sgd"} for point in points)
    assert admitted_near(spec, lambda _: False, [0]) == []
