"""What Optuna says of a study: importance of the parameters, from the record alone."""

import pytest
from report_studies import ReportStudy, full_study

from esam_tune.study.optuna_view import FEWEST_TRIALS, importances, rebuilt


def test_the_parameter_that_matters_is_found_for_each_objective(tmp_path):
    found = importances(full_study(tmp_path, trials=30).record())
    assert {(f.objective, f.evaluator) for f in found} == {
        (key, name)
        for key in ("val_accuracy", "step_flops_ratio")
        for name in ("fANOVA", "PED-ANOVA")
    }
    for each in found:
        assert sum(each.shares.values()) == pytest.approx(1.0)
        assert set(each.shares) == {"beta", "gamma", "rho"}
        if each.evaluator == "fANOVA":
            most = max(each.shares, key=each.shares.get)
            assert most == ("rho" if each.objective == "val_accuracy" else "gamma")


def test_importance_is_the_same_each_time(tmp_path):
    record = full_study(tmp_path, trials=12).record()
    assert importances(record) == importances(record)


def test_baselines_count_where_they_lie_in_the_space(tmp_path):
    record = full_study(tmp_path, trials=5).record()
    # SAM is ESAM at beta = gamma = 1; SGD is no point of the space.
    trials = rebuilt(record).get_trials()
    assert len(trials) == 6
    assert trials[0].params == {"beta": 1.0, "gamma": 1.0, "rho": 0.5}
    assert trials[0].values == record.trials["0001"].values(record.spec.objectives)


def test_too_few_trials_and_equal_values_are_not_weighed(tmp_path):
    few = full_study(tmp_path, trials=FEWEST_TRIALS - 2)
    assert importances(few.record()) == ()
    equal = ReportStudy(tmp_path, name="equal")
    for number in range(FEWEST_TRIALS):
        beta = 0.3 + 0.05 * number
        params = {"optimizer": "esam", "beta": beta, "gamma": 0.5, "rho": 0.1}
        equal.setting(0.9, 1.0 + beta, params=params, number=number)
    assert {found.objective for found in importances(equal.record())} == {"step_flops_ratio"}


def test_a_parameter_that_only_some_trials_have_is_weighed_by_one_evaluator(tmp_path):
    search = {
        "optimizer": {"choices": ["esam", "msam"]},
        "beta": {"low": 0.3, "high": 1.0},
        "rho": {"low": 0.02, "high": 1.0, "log": True},
    }
    study = ReportStudy(tmp_path, search=search)
    for number in range(12):
        rho = 0.05 + 0.05 * number
        params = {"optimizer": "esam", "beta": 0.3 + 0.05 * number, "gamma": 0.5, "rho": rho}
        if number % 2:
            params = {"optimizer": "msam", "rho": rho}
        study.setting(0.9 - 0.01 * number, 1.0 + 0.05 * number, params=params, number=number)
    by_name = {f.evaluator: set(f.shares) for f in importances(study.record())}
    assert by_name == {"fANOVA": {"optimizer", "rho"}, "PED-ANOVA": {"optimizer", "rho", "beta"}}
