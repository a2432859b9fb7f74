"""Constraints of a space file: read, kept by the front, taught to the sampler, checked early."""

import math

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from study_events import WrittenStudy, space_document, study_spec

from esam_tune.errors import InputError
from esam_tune.optim import rule_of_thirds, step_cost
from esam_tune.study import feasibility
from esam_tune.study.feasibility import PredictedCost
from esam_tune.study.proposals import Proposals
from esam_tune.study.space import parse_space
from esam_tune.study.spec import Constraint

LEAST = {"step_flops_ratio": "<= 1.4"}
EXACT_AS_PUBLISHED = {
    "optimizer": "esam",
    "selection": "exact",
    "beta": 0.5,
    "gamma": 0.5,
    "rho": {"low": 0.02, "high": 1.0, "log": True},
}


def test_a_constraint_is_read_and_written_back():
    spec = study_spec(constraints={"step_flops_ratio": "<= 1.4", "val_accuracy": ">=  9e-1"})
    assert spec.constraints == (
        Constraint(metric="step_flops_ratio", relation="<=", bound=1.4),
        Constraint(metric="val_accuracy", relation=">=", bound=0.9),
    )
    assert parse_space(spec.to_dict(), default_name="x") == spec


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["<=", ">="]))
def test_any_bound_survives_the_journal(bound, relation):
    spec = study_spec(constraints={"val_loss": f"{relation} {bound!r}"})
    assert parse_space(spec.to_dict(), default_name="x").constraints == spec.constraints


def test_a_study_without_constraints_has_none():
    assert study_spec().constraints == ()
    assert study_spec(constraints={}).constraints == ()


@pytest.mark.parametrize(
    ("section", "field"),
    [
        ({"step_flops_ratio": 1.4}, "constraints.step_flops_ratio"),
        ({"step_flops_ratio": "1.4"}, "constraints.step_flops_ratio"),
        ({"step_flops_ratio": "< 1.4"}, "constraints.step_flops_ratio"),
        ({"step_flops_ratio": "<= cheap"}, "constraints.step_flops_ratio"),
        ({"step_flops_ratio": "<= nan"}, "constraints.step_flops_ratio"),
        ({"step_flops_ratio": "<= 1.4 2"}, "constraints.step_flops_ratio"),
        ({"step_flops_ratio": "<= 1_000"}, "constraints.step_flops_ratio"),
        ({"step_flops_ratio": "<= 1e999"}, "constraints.step_flops_ratio"),
        ({"test_accuracy": ">= 0.9"}, "constraints.test_accuracy"),
        ({"speed": "<= 1"}, "constraints.speed"),
        (["step_flops_ratio"], "constraints"),
    ],
)
def test_a_constraint_that_cannot_be_read_is_named(section, field):
    with pytest.raises(InputError) as caught:
        parse_space(space_document(constraints=section), default_name="x")
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("relation", "value", "excess"),
    [("<=", 1.5, 0.5), ("<=", 1.0, 0.0), ("<=", 0.5, -0.5), (">=", 0.5, 0.5), (">=", 2.0, -1.0)],
)
def test_excess_is_positive_where_the_bound_is_broken(relation, value, excess):
    constraint = Constraint(metric="val_loss", relation=relation, bound=1.0)
    assert constraint.excess(value) == excess
    assert constraint.excess(math.nan) == math.inf


class Finished:
    """A study of four ended trials, one of which is best and too dear."""

    def __init__(self, folder, **changes):
        self.spec = study_spec(**changes)
        self.journal = WrittenStudy(folder / "journal.jsonl", self.spec)
        self.ids = [
            self._trial(accuracy, cost)
            for accuracy, cost in [(0.7, 1.0), (0.9, 1.4), (0.8, 1.5), (0.95, 2.0)]
        ]
        self.record = self.journal.record()

    def _trial(self, accuracy, cost):
        trial_id = self.journal.start({"optimizer": "esam"})
        self.journal.epoch(trial_id, 2, val_accuracy=accuracy, step_flops_ratio=cost)
        self.journal.end(trial_id, "complete")
        return trial_id

    def front(self, *bounds):
        return [trial.trial_id for trial in self.record.front(*bounds)]


def test_the_front_and_the_picks_keep_the_study_s_constraints(tmp_path):
    study = Finished(tmp_path, constraints=LEAST)
    assert study.front() == study.ids[:2]
    assert study.record.pick("accuracy").trial_id == study.ids[1]


def test_a_bound_asked_for_now_stands_in_place_of_the_study_s(tmp_path):
    study = Finished(tmp_path, constraints=LEAST)
    assert study.front({"step_flops_ratio": 1.2}) == study.ids[:1]
    assert study.front({"step_flops_ratio": 3.0}) == [study.ids[0], study.ids[1], study.ids[3]]
    assert study.front({}, {"val_accuracy": 0.8}) == study.ids[1:2]


def test_infeasible_trials_are_marked_with_the_constraint_they_break(tmp_path):
    study = Finished(tmp_path, constraints=LEAST | {"val_accuracy": ">= 0.8"})
    marks = [study.record.infeasible(study.record.trials[trial_id]) for trial_id in study.ids]
    dear, poor = "step_flops_ratio <= 1.4", "val_accuracy >= 0.8"
    assert marks == [[poor], [], [dear], [dear]]


class SearchWithConstraint:
    """Proposals of a study whose accuracy rises with its cost."""

    def __init__(self, folder, trials, **changes):
        self.spec = study_spec(trials=trials, **changes)
        self.path = folder / "optuna.db"
        self.journal = WrittenStudy(folder / "journal.jsonl", self.spec)
        self.proposals = Proposals(self.path, self.spec)

    def run(self, index, *, lost=False):
        number, params = self.proposals.ask(index, self.journal.next_id)
        trial_id = self.journal.start(params, number=number)
        cost = (3 + params["beta"] + 3 * params["gamma"]) / 3
        self.journal.epoch(trial_id, 2, val_accuracy=0.5 + cost / 5, step_flops_ratio=cost)
        self.journal.end(trial_id, "complete")
        if not lost:
            self.proposals.tell(self.journal.record().trials[trial_id])
        return cost

    def reopen(self):
        self.proposals = Proposals(self.path, self.spec)
        self.proposals.settle(self.journal.record())

    def stored(self):
        study = optuna.load_study(study_name=self.spec.name, storage=f"sqlite:///{self.path}")
        return study.get_trials()


def test_the_sampler_is_told_by_how_much_each_trial_breaks_a_constraint(tmp_path):
    search = SearchWithConstraint(tmp_path, 4, constraints=LEAST)
    costs = [search.run(0), search.run(1, lost=True)]
    search.reopen()
    told = [trial.constraints["step_flops_ratio"] for trial in search.stored()]
    assert told == pytest.approx([cost - 1.4 for cost in costs])


@pytest.mark.parametrize(
    ("metric", "bound", "excess"),
    [
        # The cost of a step is what it is; accuracy may have grown yet.
        ("step_flops_ratio", "<= 1.1", 0.3),
        ("step_flops_ratio", "<= 1.5", -0.1),
        ("val_accuracy", ">= 0.8", 0.2 + 0.3),
        ("val_accuracy", ">= 0.5", -0.1),
    ],
)
def test_a_trial_that_was_stopped_early_is_constrained_too(tmp_path, metric, bound, excess):
    search = SearchWithConstraint(tmp_path, 4, constraints={metric: bound})
    ends = ((0.5, 1.2, "complete"), (0.6, 1.4, "pruned"))
    for index, (accuracy, cost, state) in enumerate(ends):
        _, params = search.proposals.ask(index, search.journal.next_id)
        trial_id = search.journal.start(params)
        search.journal.epoch(trial_id, 1, val_accuracy=accuracy, step_flops_ratio=cost)
        search.journal.end(trial_id, state)
        search.proposals.tell(search.journal.record().trials[trial_id])
    assert search.stored()[1].state == optuna.trial.TrialState.PRUNED
    assert search.stored()[1].constraints[metric] == pytest.approx(excess)


def test_a_baseline_in_the_space_teaches_its_constraint_too(tmp_path):
    search = SearchWithConstraint(tmp_path, 4, constraints=LEAST)
    trial_id = search.journal.start({"optimizer": "sam", "rho": 0.2}, baseline=True)
    search.journal.epoch(trial_id, 2, val_accuracy=0.9, step_flops_ratio=2.0)
    search.journal.end(trial_id, "complete")
    search.reopen()
    (taught,) = search.stored()
    assert taught.constraints["step_flops_ratio"] == pytest.approx(0.6)


def test_the_sampler_keeps_to_the_constraint_once_it_has_learned(tmp_path):
    """Accuracy rises with cost, so without the constraint the search goes where cost is high."""
    bound = {"step_flops_ratio": "<= 1.6"}
    free = SearchWithConstraint(tmp_path / "free", 40)
    held = SearchWithConstraint(tmp_path / "held", 40, constraints=bound)
    kept = {
        search: sum(cost <= 1.6 for cost in [search.run(index) for index in range(40)][15:])
        for search in (free, held)
    }
    assert kept[held] >= kept[free] + 5


def third_cost(params):
    return step_cost(rule_of_thirds(), beta=params["beta"], gamma=params["gamma"])


def test_a_setting_known_to_be_too_dear_costs_no_trial(tmp_path):
    spec = study_spec(constraints=LEAST)
    proposals = Proposals(tmp_path / "o.db", spec, lambda params: third_cost(params) <= 1.6)
    asked = [proposals.ask(index, str(index)) for index in range(5)]
    assert all(third_cost(params) <= 1.6 for _, params in asked)
    again = Proposals(tmp_path / "again.db", spec, lambda params: third_cost(params) <= 1.6)
    assert [again.ask(index, str(index)) for index in range(5)] == asked
    study = optuna.load_study(study_name=spec.name, storage=f"sqlite:///{tmp_path / 'o.db'}")
    states = {trial.state for trial in study.get_trials() if trial.number not in dict(asked)}
    assert states == {optuna.trial.TrialState.FAIL}


def test_where_nothing_is_admitted_the_search_ends(tmp_path):
    proposals = Proposals(tmp_path / "o.db", study_spec(), lambda _: False)
    assert proposals.ask(0, "0000") is None


@pytest.mark.parametrize("beta", [0.3, 0.7])
def test_the_predicted_cost_of_a_setting_is_the_cost_model_s(beta):
    spec = study_spec()
    predicted = PredictedCost(spec, workers=1)
    params = {"optimizer": "esam", "beta": beta, "gamma": 0.5, "selection": "exact", "every": 2}
    work = feasibility._measured(spec.task, 64)
    assert predicted(params) == step_cost(work, beta=beta, gamma=0.5, every=2)
    assert predicted({"optimizer": "sgd"}) == 1.0
    assert predicted({"optimizer": "sam", "rho": 0.1, "every": 1}) == pytest.approx(2.0)


def test_a_compiled_network_is_priced_without_what_swp_would_save():
    compiled = {"epochs": 1, "batch_size": 64, "lr": 0.1, "compile": True}
    params = {"optimizer": "esam", "beta": 0.3, "gamma": 0.5, "selection": "exact", "every": 1}
    predicted = PredictedCost(study_spec(training=compiled), 1)
    assert predicted(params) == predicted({**params, "beta": 1.0})


def test_without_a_constraint_on_cost_nothing_is_counted(monkeypatch):
    monkeypatch.setattr(feasibility, "_measured", lambda *_: pytest.fail("counted"))
    spec = study_spec(constraints={"val_accuracy": ">= 0.5"})
    assert PredictedCost(spec, 1).admits({"optimizer": "esam", "beta": 0.3})


def test_a_range_of_batch_sizes_is_counted_once(monkeypatch):
    search = {"optimizer": "esam", "gamma": {"low": 0.1, "high": 1.0}}
    sizes = {"batch_size": {"low": 4, "high": 64}}
    ranged = PredictedCost(study_spec(search=search | sizes), 1)
    chosen = PredictedCost(study_spec(search=search), 1)
    params = {"optimizer": "esam", "beta": 0.5, "gamma": 0.3, "selection": "first_order"}
    expected = {size: chosen({**params, "batch_size": size}) for size in (4, 5, 37, 64)}
    counted = []
    real = feasibility._measured
    monkeypatch.setattr(
        feasibility, "_measured", lambda task, rows: counted.append(rows) or real(task, rows)
    )
    assert {size: ranged({**params, "batch_size": size}) for size in expected} == pytest.approx(
        expected, rel=1e-6
    )
    assert set(counted) == {64}


def test_many_choices_are_compared_by_those_at_the_ends(monkeypatch):
    """Each of some thousand values of each parameter would take days."""
    shares = [step / 1_000 for step in range(1, 1_001)]
    search = {
        "optimizer": "esam",
        "beta": {"choices": shares},
        "gamma": {"choices": shares},
        "every": {"choices": list(range(1, 1_001))},
        "batch_size": {"choices": list(range(32, 64))},
    }
    counted = []
    real = feasibility._measured
    monkeypatch.setattr(
        feasibility, "_measured", lambda task, rows: counted.append(rows) or real(task, rows)
    )
    spec = study_spec(search=search)
    predicted = PredictedCost(spec, 1)
    (least, cheap), (most, dear) = predicted.cheapest_and_dearest()
    assert set(counted) == {64}
    assert "beta=0.001 gamma=0.001" in cheap
    assert "beta=1.0" in dear
    # With gamma = 1 nothing is selected, which is cheaper than to leave one row out of 64.
    assert "gamma=0.992" in dear
    drawn = predicted.drawn(200)
    assert least <= min(drawn)
    assert max(drawn) <= most


def test_conditions_that_tell_too_many_costs_apart_are_refused():
    search = {
        "optimizer": "esam",
        "every": {"low": 1, "high": 100_000},
        "batch_size": {"choices": list(range(1, 60))},
        "gamma": {"low": 0.1, "high": 1.0, "when": {"every": list(range(1, 2_000, 3))}},
    }
    with pytest.raises(InputError, match="tell too many costs apart"):
        PredictedCost(study_spec(search=search, constraints=LEAST), 1).check()


def test_the_rows_of_a_worker_set_how_many_are_selected():
    """Of 4 rows a quarter is one row, of 2 it is still one."""
    spec = study_spec(training={"epochs": 1, "batch_size": 4, "lr": 0.1})
    params = {"optimizer": "esam", "beta": 1.0, "gamma": 0.25, "selection": "exact", "every": 1}
    assert PredictedCost(spec, 2)(params) == pytest.approx(PredictedCost(spec, 1)(params) + 0.25)


@pytest.mark.parametrize("gamma", [{"low": 0.5, "high": 1.0}, {"choices": [0.5, 0.96, 0.98, 1.0]}])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_dearest_setting_leaves_out_one_of_a_workers_rows(workers, gamma):
    spec = study_spec(search={"optimizer": "esam", "beta": 1.0, "gamma": gamma, "rho": 0.1})
    predicted = PredictedCost(spec, workers)
    shares = gamma.get("choices") or [share / 1000 for share in range(500, 1001)]
    params = {"optimizer": "esam", "beta": 1.0, "selection": "exact"}
    _, (most, _) = predicted.cheapest_and_dearest()
    assert most == pytest.approx(max(predicted({**params, "gamma": each}) for each in shares))


def test_the_ends_of_the_cost_are_found_over_optimizers_and_periods():
    spec = study_spec(
        search={
            "optimizer": {"choices": ["esam", "looksam", "msam"]},
            "beta": {"low": 0.5, "high": 0.9},
            "gamma": 0.5,
            "rho": {"low": 0.02, "high": 1.0},
            "every": {"low": 1, "high": 4},
        }
    )
    (least, cheap), (most, dear) = PredictedCost(spec, 1).cheapest_and_dearest()
    assert (least, cheap) == (1.0, "optimizer=msam")
    assert (most, dear) == (pytest.approx(2.0), "optimizer=looksam every=1")


def test_a_bound_that_exact_esam_cannot_keep_is_named_before_launch():
    spec = study_spec(search=EXACT_AS_PUBLISHED, constraints=LEAST)
    with pytest.raises(InputError) as caught:
        PredictedCost(spec, 1).check()
    assert caught.value.field == "constraints.step_flops_ratio"
    assert "least predicted cost is 1.6" in str(caught.value)
    assert "beta=0.5 gamma=0.5" in str(caught.value)
    first_order = {**EXACT_AS_PUBLISHED, "selection": "first_order"}
    PredictedCost(study_spec(search=first_order, constraints=LEAST), 1).check()


def test_a_bound_above_every_cost_is_named_too():
    with pytest.raises(InputError, match=r"greatest predicted cost is 2\.32"):
        PredictedCost(study_spec(constraints={"step_flops_ratio": ">= 3"}), 1).check()


def test_what_training_decides_is_not_judged_beforehand():
    spec = study_spec(constraints={"val_accuracy": ">= 1.0", "step_time_ratio": "<= 0.1"})
    PredictedCost(spec, 1).check()
    assert PredictedCost(spec, 1).admits({"optimizer": "sam"})
