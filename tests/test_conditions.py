"""Parameters that are searched only where others have given values."""

from itertools import pairwise
from random import Random

import jsonschema
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from study_events import space_document, study_spec

from esam_tune.config import OPTIMIZERS, PARAMETERS, TRIAL_TRAINING, complete_params
from esam_tune.errors import InputError
from esam_tune.study import samplers
from esam_tune.study.conditions import Condition, in_order
from esam_tune.study.dimensions import Range
from esam_tune.study.feasibility import PredictedCost
from esam_tune.study.grid import grid_points, grid_size
from esam_tune.study.proposals import Proposals
from esam_tune.study.search_checks import check_budget
from esam_tune.study.space import parse_space
from esam_tune.study.space_schema import space_schema
from esam_tune.study.spec import SAMPLERS, coordinates

VALIDATOR = jsonschema.Draft202012Validator(space_schema())
# rho is searched in the adaptive form alone, and the period only with first-order selection.
FORMS = {
    "optimizer": {"choices": ["esam", "sgd"]},
    "selection": {"choices": ["exact", "first_order"]},
    "adaptive": {"choices": [False, True]},
    "every": {"low": 1, "high": 8, "log": True, "when": {"selection": "first_order"}},
    "rho": {"low": 0.1, "high": 4.0, "log": True, "when": {"adaptive": True}, "default": 0.0},
    "momentum": {"choices": [0.5, 0.8], "when": {"every": [2, 3], "optimizer": "esam"}},
}
LEVELS = FORMS | {"rho": {"choices": [0.1, 1.0], "when": {"adaptive": True}, "default": 0.0}}


def forms(**changes):
    searched = {key: value for key, value in (FORMS | changes).items() if value is not None}
    return space_document(search=searched)


# Each parameter may wait for those before it, whatever their place in the file.
SEARCHES = st.fixed_dictionaries(
    {"optimizer": st.sampled_from(["esam", {"choices": ["sgd", "esam"]}, {"choices": ["sam"]}])},
    optional={
        "every": st.sampled_from([2, {"low": 1, "high": 3}, {"choices": [1, 4]}]),
        "adaptive": st.sampled_from([True, {"choices": [True, False]}]),
        "beta": st.sampled_from([0.5, {"choices": [0.5, 1.0]}, {"low": 0.3, "high": 1.0}]),
        "rho": st.sampled_from([{"choices": [0.1]}, {"low": 0.1, "high": 1.0, "log": True}]),
        "lr": st.sampled_from([0.1, {"choices": [0.1, 0.2]}]),
        "batch_size": st.sampled_from([{"low": 8, "high": 64, "log": True}, {"choices": [16, 8]}]),
    },
)
WHENS = {
    "optimizer": st.sampled_from(["esam", ["sam", "sgd"], ["esam", "sam"]]),
    "every": st.sampled_from([1, [1, 2, 4], 3]),
    "adaptive": st.sampled_from([True, [False]]),
    "beta": st.sampled_from([0.5, [0.5, 1.0], 0.6]),
    "lr": st.sampled_from([0.1, 0.2]),
    "batch_size": st.sampled_from([8, [16, 64]]),
}


@st.composite
def conditional_documents(draw):
    search = draw(SEARCHES)
    names = draw(st.permutations([*search]))
    for key in names:
        parents = [name for name in search if name in WHENS and name != key]
        if not isinstance(search[key], dict) or not parents or not draw(st.booleans()):
            continue
        chosen = draw(st.lists(st.sampled_from(parents), min_size=1, max_size=2, unique=True))
        entry = {**search[key], "when": {parent: draw(WHENS[parent]) for parent in chosen}}
        if draw(st.booleans()):
            entry["default"] = draw(st.sampled_from([1, 0.5, 8, True]))
        search[key] = entry
    sampler = draw(st.sampled_from(["random", "qmc", "nsga2", "tpe"]))
    return space_document(search=search, trials=5, sampler=sampler)


def drawn(spec, seed):
    random = Random(seed)
    return {key: d.at(random.random()) for key, d in spec.dimensions.items()}


def test_what_is_fixed_is_not_met_by_a_trial_that_does_not_read_it():
    spec = study_spec(
        search={
            "optimizer": {"choices": ["sgd", "esam"]},
            "adaptive": True,
            "lr": {"choices": [0.1, 0.2], "when": {"adaptive": True}},
        }
    )
    assert spec.completed({"optimizer": "sgd", "lr": 0.2}) == {"optimizer": "sgd"}
    assert spec.completed({"optimizer": "esam", "lr": 0.2})["lr"] == 0.2


@given(document=conditional_documents(), seed=st.integers(0, 99))
@settings(max_examples=150)
def test_any_conditional_space_is_refused_or_holds_what_it_proposes(document, seed):
    try:
        spec = parse_space(document, "x")
    except InputError:
        return
    assert VALIDATOR.is_valid(document)
    assert VALIDATOR.is_valid(spec.to_dict())
    assert parse_space(spec.to_dict(), "y") == parse_space(document, "small")
    order = [*spec.ordered]
    for key, condition in spec.conditions.items():
        assert all(order.index(p) < order.index(key) for p in condition.when if p in order)
    params = spec.completed(drawn(spec, seed))
    assert complete_params("p", params) == params
    # What a trial has is what it searches, no more: a setting lies where it was drawn.
    point = coordinates(spec, params)
    assert point is not None
    assert spec.completed(point) == params
    assert set(point) == {key for key in spec.dimensions if spec.searches(key, point)}
    for key, condition in spec.conditions.items():
        kind = OPTIMIZERS[params["optimizer"]].defaults
        if key in point or (key not in kind and key not in TRIAL_TRAINING):
            continue
        usual = {k: getattr(spec.training, k) for k in TRIAL_TRAINING} | kind
        held = {**usual, **params}
        assert not all(held.get(p) in values for p, values in condition.when.items())
        expected = usual[key] if condition.default is None else condition.default
        assert held[key] == expected
    size = grid_size(spec)
    if size is not None and size < 3000:
        points = [spec.completed(point) for point in grid_points(spec)]
        assert len(points) == size == len({frozenset(p.items()) for p in points})
        assert params in points


def test_conditions_are_looked_at_with_the_values_that_trials_have():
    spec = parse_space(forms(), "x")
    assert [*spec.ordered] == ["optimizer", "selection", "adaptive", "every", "rho", "momentum"]
    exact = {"optimizer": "esam", "selection": "exact", "adaptive": False, "every": 3, "rho": 2.0}
    # Neither the period nor what waits for it is searched: the optimizer's own period is 1.
    assert spec.completed({**exact, "momentum": 0.5}) == complete_params(
        "p", {"optimizer": "esam", "rho": 0.0}
    )
    first = {**exact, "selection": "first_order", "adaptive": True, "momentum": 0.5}
    assert spec.completed(first) == complete_params("p", first)
    assert spec.completed({"optimizer": "sgd", "momentum": 0.5}) == {"optimizer": "sgd"}
    assert spec.dimensions["every"] == Range(low=1.0, high=8.0, log=True, integer=True)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_proposes_what_a_trial_has(tmp_path, sampler):
    spec = study_spec(search=LEVELS if sampler == "grid" else FORMS, sampler=sampler, trials=12)
    price = PredictedCost(spec, 1)
    proposals = Proposals(tmp_path / "optuna.db", spec, price=price)
    proposed = [proposals.ask(index, f"{index:04d}")[1] for index in range(9)]
    assert len({frozenset(params.items()) for params in proposed}) == 9
    assert any(params.get("adaptive") for params in proposed)
    for params in proposed:
        if params["optimizer"] == "sgd":
            assert params == {"optimizer": "sgd"}
            continue
        assert params["rho"] == 0.0 or params["adaptive"]
        assert params["every"] == 1 or params["selection"] == "first_order"
        assert ("momentum" in params) == (params["every"] in (2, 3))
        assert coordinates(spec, params) is not None
    # Each is found again, and known to the next process as what it was.
    again = Proposals(tmp_path / "optuna.db", spec, price=price)
    again._note_tried()
    assert again._worthwhile.tried == proposed


@pytest.mark.parametrize(
    ("params", "point"),
    [
        (
            {"optimizer": "esam", "beta": 0.6, "gamma": 0.5, "rho": 0.0},
            {"optimizer": "esam", "selection": "exact", "adaptive": False},
        ),
        ({"optimizer": "esam", "rho": 0.5}, None),
        (
            {"optimizer": "esam", "adaptive": True, "rho": 0.5},
            {"optimizer": "esam", "selection": "exact", "adaptive": True, "rho": 0.5},
        ),
        ({"optimizer": "esam", "rho": 0.0, "every": 2}, None),
        ({"optimizer": "esam", "rho": 0.0, "momentum": 0.5}, None),
        (
            {"optimizer": "esam", "rho": 0.0, "selection": "first_order", "every": 2}
            | {"momentum": 0.5},
            {"optimizer": "esam", "selection": "first_order", "adaptive": False, "every": 2}
            | {"momentum": 0.5},
        ),
        # The training's momentum of 0.9 is none of the choices.
        ({"optimizer": "esam", "rho": 0.0, "selection": "first_order", "every": 2}, None),
        ({"optimizer": "sgd"}, {"optimizer": "sgd"}),
    ],
)
def test_where_a_setting_lies_in_a_conditional_space(params, point):
    assert coordinates(parse_space(forms(), "x"), complete_params("p", params)) == point


def test_a_value_outside_the_range_is_not_taken_for_one_at_its_end(tmp_path, monkeypatch):
    """rho = 0, its value where it is not searched, has no place on the range's log scale."""
    search = {"optimizer": "esam", "adaptive": FORMS["adaptive"], "rho": FORMS["rho"]}
    proposals = Proposals(tmp_path / "optuna.db", study_spec(search=search))
    values = iter([False, True, 0.1, False, True, 0.1002, True, 0.2])

    def suggest(trial, key, dimension):
        value = next(values)
        fixed = samplers._Point({key: value})
        monkeypatch.setattr(trial.study, "sampler", fixed, raising=False)
        return trial._suggest(key, samplers.distribution(dimension))

    monkeypatch.setattr(samplers, "suggest", suggest)
    told = [proposals.ask(index, str(index))[1] for index in range(3)]
    assert [params["rho"] for params in told] == [0.0, 0.1, 0.2]


def test_a_grid_counts_what_conditions_leave():
    spec = study_spec(search=LEVELS, sampler="grid", trials=1)
    # selection exact, or first_order with 6 periods and 2 with two momenta; times rho's 1 + 2.
    assert grid_size(spec) == (1 + 6 + 2 * 2) * 3 + 1
    with pytest.raises(InputError, match="at most 34, the settings of the space"):
        check_budget(study_spec(search=LEVELS, sampler="grid", trials=35), lambda _: True)


def test_a_space_whose_conditions_tell_too_much_apart_is_not_counted():
    values = list(range(1, 101))
    search = {
        "optimizer": "esam",
        "every": {"low": 1, "high": 1_000_000},
        "batch_size": {"low": 1, "high": 1_000},
        "rho": {"choices": [0.1, 0.2], "when": {"every": values, "batch_size": values}},
    }
    spec = study_spec(search=search, sampler="grid", trials=1_000)
    assert grid_size(spec) is None
    check_budget(spec, lambda _: True)
    search["rho"]["when"] = {"every": 5}
    assert grid_size(study_spec(search=search)) == (999_999 + 2) * 1_000


def test_the_cost_s_ends_are_those_of_settings_that_conditions_allow():
    search = {
        "optimizer": "esam",
        "selection": {"choices": ["exact", "first_order"]},
        "gamma": {"low": 0.2, "high": 1.0, "when": {"selection": "first_order"}, "default": 0.9},
        "rho": {"low": 0.1, "high": 1.0},
    }
    predicted = PredictedCost(study_spec(search=search), 1)
    (least, cheapest), _ = predicted.cheapest_and_dearest()
    assert least == predicted(
        complete_params("p", {"optimizer": "esam", "selection": "first_order", "gamma": 0.2})
    )
    assert "selection=first_order" in cheapest
    assert least <= min(predicted.drawn(64))
    # What is not searched costs what its default does.
    search["selection"] = {"choices": ["exact"]}
    search["gamma"]["when"] = {"optimizer": "esam", "selection": ["exact"]}
    search["gamma"]["low"] = 0.5
    search["every"] = {"choices": [1, 2]}
    search["gamma"]["when"] = {"every": 2}
    predicted = PredictedCost(study_spec(search=search), 1)
    every_step = predicted(complete_params("p", {"optimizer": "esam", "gamma": 0.9}))
    assert predicted.cheapest_and_dearest()[1][0] == every_step


def test_batch_sizes_hold_the_one_that_is_not_searched():
    search = forms()["search"] | {
        "batch_size": {"choices": [32], "when": {"adaptive": True}, "default": 2048}
    }
    assert ("search.batch_size.default", 2048) in study_spec(search=search).batch_sizes()


@pytest.mark.parametrize(
    ("changes", "field", "problem"),
    [
        ({"rho": FORMS["rho"] | {"when": {}}}, "search.rho.when", "must name a parameter"),
        ({"rho": FORMS["rho"] | {"when": "adaptive"}}, "search.rho.when", "must be a mapping"),
        ({"rho": FORMS["rho"] | {"when": {"adaptve": True}}}, "search.rho.when.adaptve", "unknown"),
        ({"rho": FORMS["rho"] | {"when": {"adaptive": []}}}, "search.rho.when.adaptive", "value"),
        ({"rho": FORMS["rho"] | {"when": {"adaptive": 1}}}, "search.rho.when.adaptive", "true or"),
        ({"rho": FORMS["rho"] | {"default": -1}}, "search.rho.default", ">= 0"),
        ({"rho": {"low": 0.1, "high": 1, "default": 1}}, "search.rho.default", "no `when`"),
        ({"adaptive": False}, "search.rho.when.adaptive", "adaptive is always False"),
        ({"adaptive": None}, "search.rho.when.adaptive", "adaptive is not in this section"),
        (
            {"every": FORMS["every"] | {"when": {"selection": "frist_order"}}},
            "search.every.when.selection",
            "one of exact, first_order",
        ),
        (
            {"selection": {"choices": ["exact"]}},
            "search.every.when.selection",
            "must be a value that selection may have, got 'first_order'",
        ),
        (
            {"beta": {"low": 0.3, "high": 1.0}, "rho": FORMS["rho"] | {"when": {"beta": 0.5}}},
            "search.rho.when.beta",
            "beta has a range",
        ),
        (
            {"optimizer": {"choices": ["esam"], "when": {"adaptive": True}}},
            "search.optimizer.when",
            "depends on nothing",
        ),
        ({"rho": FORMS["rho"] | {"when": {"rho": 1.0}}}, "search.rho.when", "circle: rho -> rho"),
        (
            {
                "selection": FORMS["selection"] | {"when": {"momentum": 0.5}},
                "every": FORMS["every"],
            },
            "search.selection.when",
            "circle: selection -> momentum -> every -> selection",
        ),
    ],
)
def test_a_condition_that_cannot_be_is_refused(changes, field, problem):
    with pytest.raises(InputError) as error:
        parse_space(forms(**changes), "x")
    assert error.value.field == field
    assert problem in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"rho": FORMS["rho"] | {"when": {}}},
        {"rho": FORMS["rho"] | {"when": {"adaptive": []}}},
        {"rho": {"low": 0.1, "high": 1, "default": 1}},
        {"optimizer": {"choices": ["esam"], "when": {"adaptive": True}}},
    ],
    ids=str,
)
def test_the_schema_refuses_what_no_condition_can_be(changes):
    assert VALIDATOR.is_valid(forms())
    assert not VALIDATOR.is_valid(forms(**changes))


def test_a_condition_s_parent_may_be_fixed_from_the_command_line():
    spec = parse_space(forms(adaptive=True), "x")
    assert spec.completed({"optimizer": "esam", "selection": "exact", "rho": 2.0})["rho"] == 2.0


@given(st.dictionaries(st.sampled_from("abcdef"), st.sets(st.sampled_from("abcdef")), max_size=6))
def test_an_order_or_a_true_circle_is_found(waits):
    conditions = {k: Condition(when=dict.fromkeys(v, (1,))) for k, v in waits.items() if v}
    try:
        order = in_order(waits, conditions)
    except ValueError as error:
        path = str(error).split(" -> ")
        assert path[0] == path[-1]
        assert all(later in conditions[key].when for key, later in pairwise(path))
        return
    assert sorted(order) == sorted(waits)
    for key, parents in waits.items():
        assert all(order.index(p) < order.index(key) for p in parents if p in order)


def test_optuna_stores_a_log_scaled_integer_as_one():
    spec = parse_space(forms(), "x")
    stored = samplers.distribution(spec.dimensions["every"])
    assert stored == optuna.distributions.IntDistribution(1, 8, log=True)
    assert {spec.dimensions["every"].at(share / 64) for share in range(64)} == {*range(1, 9)}
    assert {"every", "batch_size"} <= {k for k, d in PARAMETERS.items() if d.kind is int}
