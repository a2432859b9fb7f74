"""The search space file: each rule, the round trip, and where settings lie in a space."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from study_events import space_document, study_spec

from esam_tune.config import OPTIMIZERS, PARAMETERS, complete_params, trial_settings
from esam_tune.errors import InputError
from esam_tune.metrics import OBJECTIVES
from esam_tune.study.dimensions import Choice, Range
from esam_tune.study.space import Overrides, assigned_space, check_name, load_space, parse_space
from esam_tune.study.spec import StudySpec, coordinates, describe_params

SPACES = sorted(Path(__file__).parents[1].joinpath("search_spaces").glob("*.yaml"))

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**400), 10**400),
    st.floats(),
    st.text(max_size=6),
    st.lists(st.integers(-2, 2), max_size=3),
    st.dictionaries(st.text(max_size=6), st.integers(), max_size=2),
)
NUMBERS = st.floats(-1, 3) | st.integers(-1, 70)
DIMENSIONS = st.one_of(
    NUMBERS,
    st.sampled_from([*OPTIMIZERS, "exact", True]),
    st.fixed_dictionaries(
        {"low": NUMBERS, "high": NUMBERS}, optional={"log": st.booleans(), "step": NUMBERS}
    ),
    st.fixed_dictionaries(
        {"choices": st.lists(NUMBERS | st.sampled_from([*OPTIMIZERS]), max_size=3)}
    ),
    JUNK,
)
BASELINES = st.fixed_dictionaries(
    {"optimizer": st.sampled_from([*OPTIMIZERS]) | JUNK},
    optional={"rho": NUMBERS, "lr": NUMBERS, "label": st.text(max_size=4) | JUNK},
)
DOCUMENTS = st.fixed_dictionaries(
    {
        "task": st.just({"dataset": "digits", "model": "small_cnn"}) | JUNK,
        "training": st.just({"epochs": 1, "batch_size": 8, "lr": 0.1}) | JUNK,
        "search": st.builds(
            lambda optimizer, rest: {"optimizer": optimizer, **rest},
            st.just("esam") | DIMENSIONS,
            st.dictionaries(st.sampled_from([*PARAMETERS][1:]), DIMENSIONS, max_size=3),
        ),
        "objectives": st.just({"val_accuracy": "max", "step_time_ratio": "min"})
        | st.dictionaries(st.sampled_from([*OBJECTIVES]), st.sampled_from(["max", "min"]))
        | JUNK,
        "trials": st.integers(1, 50) | JUNK,
    },
    optional={
        "name": st.just("a.name-1") | JUNK,
        "description": st.text() | JUNK,
        "baselines": st.lists(BASELINES | JUNK, max_size=3) | JUNK,
        "max_concurrent": st.integers(1, 4) | JUNK,
        "seed": st.integers(0, 9) | JUNK,
        "trails": JUNK,
    },
)


def search(**changes):
    return space_document(search={**space_document()["search"], **changes})


def sgd_alone(**entries):
    return space_document(search={"optimizer": "sgd", **entries})


def baselines(*entries):
    return space_document(baselines=list(entries))


def spec_or_error(document):
    try:
        return parse_space(document, "default")
    except InputError as error:
        return error


def refusal(document):
    error = spec_or_error(document)
    assert isinstance(error, InputError)
    assert len(str(error).splitlines()) == 1
    return error


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_every_space_in_the_repository_loads_and_carries_its_files_name(path):
    spec = load_space(path)
    assert spec.name == path.stem
    assert spec.description
    assert parse_space(spec.to_dict(), "other") == spec


def test_there_are_spaces_in_the_repository():
    assert "digits_noisy" in [path.stem for path in SPACES]


def test_a_document_becomes_the_study_it_describes():
    spec = study_spec(
        search={
            "optimizer": {"choices": ["sgd", "esam"]},
            "beta": 0.5,
            "rho": {"low": 0.01, "high": 1, "log": True},
            "batch_size": {"low": 16, "high": 64},
            "adaptive": {"choices": [True, False]},
        },
        baselines=[{"optimizer": "sam"}, {"label": "mine", "optimizer": "sgd", "lr": 1}],
        max_concurrent=2,
    )
    assert spec.fixed == {"beta": 0.5}
    assert spec.dimensions == {
        "optimizer": Choice(choices=("sgd", "esam")),
        "rho": Range(low=0.01, high=1.0, log=True),
        "batch_size": Range(low=16.0, high=64.0, integer=True),
        "adaptive": Choice(choices=(True, False)),
    }
    assert [b.label for b in spec.baselines] == ["SAM rho=0.050", "mine"]
    assert spec.baselines[1].params == {"optimizer": "sgd", "lr": 1.0}
    assert spec.batch_sizes() == [("training.batch_size", 64), ("search.batch_size", 64)]
    assert (spec.accuracy_metric, spec.cost_metric) == ("val_accuracy", "step_flops_ratio")
    assert parse_space(spec.to_dict(), "other") == spec


def test_a_document_without_its_optional_parts_has_defaults():
    document = space_document(name=None, description=None, baselines=None, seed=None)
    spec = parse_space(document, default_name="from_file")
    assert (spec.name, spec.description, spec.baselines) == ("from_file", "", ())
    assert (spec.seed, spec.max_concurrent) == (0, None)
    assert (spec.sampler, spec.early_stopping.kind, spec.seeds) == ("tpe", "none", 1)
    assert spec.constraints == ()


@pytest.mark.parametrize(
    ("assignment", "remedy"),
    [
        ("task.epochs=10", "did you mean 'training.epochs'?"),
        ("search.epochs=10", "did you mean 'training.epochs'?"),
        ("epochs=10", "did you mean 'training.epochs'?"),
        ("task.lr=0.1", "did you mean 'training.lr' or 'search.lr'?"),
        ("training.rho=0.1", "did you mean 'search.rho'?"),
        ("training.trials=9", "did you mean 'trials' outside of training?"),
        ("task.seed=1", "did you mean 'seed' outside of task?"),
        ("val_loss=min", "did you mean 'objectives.val_loss' or 'constraints.val_loss'?"),
        # What is nearly a key of its section may be meant as well.
        (
            "early_stopping.epochs=2",
            "did you mean 'early_stopping.grace_epochs' or 'training.epochs'?",
        ),
        ("task.epoch=10", "choose from augment, data_dir"),
    ],
)
def test_a_key_in_the_wrong_section_is_told_its_own(assignment, remedy):
    document = space_document(early_stopping={"kind": "pareto"})
    with pytest.raises(InputError) as error:
        assigned_space(document, [assignment], default_name="small")
    assert (error.value.field, error.value.problem) == (assignment.split("=")[0], "unknown key")
    assert error.value.remedy.startswith(remedy)


def test_the_length_of_a_training_is_set_in_its_own_section():
    spec = assigned_space(space_document(), ["training.epochs=10"], default_name="small")
    assert spec.training.epochs == 10


def test_a_key_in_the_wrong_section_of_a_settings_file_is_told_its_own():
    document = {"task": {"lr": 0.1}, "training": {}, "params": {"optimizer": "sgd"}}
    with pytest.raises(InputError, match=r"task\.lr: .*'training\.lr' or 'params\.lr'\?"):
        trial_settings(document)


@pytest.mark.parametrize(
    ("document", "field", "problem", "remedy"),
    [
        ([], "file", "must be a mapping, got []", "write `key: value` lines"),
        ({}, "task", "required but missing", "add `task: ...`"),
        (space_document(trails=1), "trails", "unknown key", "did you mean 'trials'?"),
        (space_document(training=None), "training", "required but missing", "add `training: ...`"),
        (space_document(search=None), "search", "required but missing", "add `search: ...`"),
        (space_document(objectives=None), "objectives", "required but missing", "add"),
        (space_document(trials=None), "trials", "required but missing", "add `trials: ...`"),
        (
            space_document(trials=0),
            "trials",
            "must be an integer in [1, 1000000], got 0",
            "set it to",
        ),
        (
            space_document(trials="many"),
            "trials",
            "must be an integer in [1, 1000000], got 'many'",
            "set",
        ),
        (
            space_document(max_concurrent=0),
            "max_concurrent",
            "must be an integer in [1, 1000000]",
            "set it",
        ),
        (space_document(seed=-1), "seed", "must be an integer in [0, 2147483647], got -1", "set"),
        (space_document(description=3), "description", "must be text, got 3", "put it in quotes"),
        (space_document(name=5), "name", "must be 1 to 100 characters, got 5", "choose a short"),
        (space_document(name=""), "name", "must be 1 to 100 characters, got ''", "choose a short"),
        (space_document(name="n" * 101), "name", "must be 1 to 100 characters", "choose a short"),
        (space_document(name="a/b"), "name", "got 'a/b'", "choose a name without path separators"),
        (search(bta=0.5), "search.bta", "unknown key", "did you mean 'beta'?"),
        (search(beta=1.5), "search.beta", "must be a number in (0, 1], got 1.5", "set it to"),
        (
            space_document(search={"rho": 0.1}),
            "search.optimizer",
            "required but missing",
            "add `optimizer: ...`",
        ),
        (
            space_document(search={"optimizer": "esam", "rho": 0.1}),
            "search",
            "needs at least one parameter with a range or choices, got only fixed values",
            "give one",
        ),
        (
            space_document(search={"optimizer": "esm", "rho": {"low": 0.1, "high": 1}}),
            "search.optimizer",
            "got 'esm'",
            "did you mean 'esam'?",
        ),
        (search(rho={"low": 0.1}), "search.rho.high", "required but missing", "add `high: ...`"),
        (
            search(rho={"low": 0.1, "high": 1, "lag": True}),
            "search.rho.lag",
            "unknown key",
            "did you mean 'log'?",
        ),
        (search(rho={}), "search.rho.low", "required but missing", "add `low: ...`"),
        (
            search(rho={"low": 1, "high": 0.1}),
            "search.rho.low",
            "must be below high = 0.1, got 1",
            "swap or widen the range",
        ),
        (
            search(rho={"low": 1, "high": 1}),
            "search.rho.low",
            "must be below high = 1, got 1",
            "swap or widen the range",
        ),
        (
            search(rho={"low": 0, "high": 1, "log": True}),
            "search.rho.low",
            "must be > 0 on a log scale, got 0",
            "raise low or drop log",
        ),
        (
            search(rho={"low": 0.1, "high": 1, "log": "yes"}),
            "search.rho.log",
            "must be true or false, got 'yes'",
            "write log: true",
        ),
        (
            search(rho={"low": -0.1, "high": 1}),
            "search.rho.low",
            "must be a number >= 0, got -0.1",
            "set it to a number >= 0",
        ),
        (
            search(beta={"low": 0.1, "high": 1.2}),
            "search.beta.high",
            "must be a number in (0, 1], got 1.2",
            "set it to a number in (0, 1]",
        ),
        (
            search(rho={"choices": 0.1}),
            "search.rho.choices",
            "must be a list of values, got 0.1",
            "write [a, b]",
        ),
        (
            search(rho={"choices": []}),
            "search.rho.choices",
            "must be a list of values, got []",
            "write [a, b]",
        ),
        (
            search(rho={"choices": [1, 1.0]}),
            "search.rho.choices",
            "holds a value twice, got [1, 1.0]",
            "drop it",
        ),
        (
            search(rho={"choices": [0.1], "log": True}),
            "search.rho.log",
            "unknown key",
            "choose from choices",
        ),
        (
            search(rho={"choices": [0.1, -1]}),
            "search.rho.choices",
            "must be a number >= 0, got -1",
            "set it to a number >= 0",
        ),
        (
            search(adaptive={"low": 0, "high": 1}),
            "search.adaptive",
            "has no order, so it takes choices, got {'low': 0, 'high': 1}",
            "write choices: [..]",
        ),
        (
            sgd_alone(lr={"low": 0.1, "high": 1}, rho=0.1),
            "search.rho",
            "is not read by sgd",
            "remove it or search an optimizer that reads it",
        ),
        (
            space_document(search={"optimizer": {"choices": ["sgd", "sam"]}, "beta": 0.5}),
            "search.beta",
            "is not read by sgd, sam",
            "remove it or search an optimizer that reads it",
        ),
        (
            space_document(objectives={"val_acuracy": "max"}),
            "objectives.val_acuracy",
            "unknown key",
            "did you mean 'val_accuracy'?",
        ),
        (
            space_document(objectives={"test_accuracy": "max", "step_flops_ratio": "min"}),
            "objectives.test_accuracy",
            "unknown key",
            "did you mean",
        ),
        (
            space_document(objectives={"val_accuracy": "min", "step_flops_ratio": "min"}),
            "objectives.val_accuracy",
            "must be max, got 'min'",
            "write `val_accuracy: max`",
        ),
        (
            space_document(objectives={"val_accuracy": "max"}),
            "objectives",
            "must hold at least one metric to raise and one to lower, got ['val_accuracy']",
            "write `val_accuracy: max` and `step_flops_ratio: min`",
        ),
        (space_document(objectives={}), "objectives", "must hold at least one metric", "write"),
        (
            space_document(objectives=["val_accuracy"]),
            "objectives",
            "must be a mapping, got ['val_accuracy']",
            "write `key: value` lines",
        ),
        (
            space_document(baselines={"optimizer": "sgd"}),
            "baselines",
            "must be a list, got {'optimizer': 'sgd'}",
            "write `- optimizer: sgd`",
        ),
        (space_document(baselines={}), "baselines", "must be a list, got {}", "write"),
        (space_document(baselines=0), "baselines", "must be a list, got 0", "write"),
        (baselines("sgd"), "baselines[0]", "must be a mapping, got 'sgd'", "write `key: value`"),
        (baselines({"label": "x"}), "baselines[0].optimizer", "required but missing", "add"),
        (
            baselines({"optimizer": "sgd"}, {"optimizer": "sgd", "rho": 0.1}),
            "baselines[1].rho",
            "sgd does not read it, got 0.1",
            "remove it or use another optimizer",
        ),
        (
            baselines({"optimizer": "sam", "roh": 0.1}),
            "baselines[0].roh",
            "unknown key",
            "did you mean 'rho'?",
        ),
        (
            baselines({"optimizer": "sgd"}, {"optimizer": "sgd"}),
            "baselines[1].label",
            "occurs twice, got 'SGD'",
            "give it its own",
        ),
        (
            baselines({"optimizer": "sgd", "label": 3}),
            "baselines[0].label",
            "must be text, got 3",
            "put it in quotes",
        ),
    ],
)
def test_a_wrong_document_is_refused_with_field_bound_value_and_remedy(
    document, field, problem, remedy
):
    error = refusal(document)
    assert error.field == field
    assert problem in error.problem
    assert error.remedy.startswith(remedy)


@given(document=DOCUMENTS)
@settings(max_examples=300)
def test_any_document_is_a_study_or_an_input_error(document):
    spec = spec_or_error(document)
    if isinstance(spec, InputError):
        assert len(str(spec).splitlines()) == 1
        assert all((spec.field, spec.problem, spec.remedy))
    else:
        assert isinstance(spec, StudySpec)
        assert spec.trials >= 1
        assert parse_space(spec.to_dict(), "other") == spec


@given(junk=JUNK | st.dictionaries(st.text(max_size=8), JUNK, max_size=3))
def test_any_value_instead_of_a_document_is_an_input_error(junk):
    assert isinstance(spec_or_error(junk), InputError)


@pytest.mark.parametrize("name", ["a", "_a", "0", "digits_noisy-2.b", "n" * 100])
def test_plain_names_are_taken(name):
    assert check_name("--name", name) == name


@pytest.mark.parametrize(
    "name",
    [None, 3, "", ".", "..", "../up", "a/b", "/a", "a\\b", "-x", ".x", "a b", "a\n", "ä", "a\0"],
)
def test_names_that_are_no_plain_folder_name_are_refused(name):
    with pytest.raises(InputError) as caught:
        check_name("--name", name)
    assert caught.value.field == "--name"
    assert caught.value.problem.endswith(f"got {name!r}")
    assert len(str(caught.value).splitlines()) == 1


def test_overrides_go_over_the_file_and_leave_the_rest():
    spec = study_spec(max_concurrent=2)
    assert Overrides().apply(spec) == spec
    changed = Overrides(name="other", trials=9, epochs=5, max_concurrent=1, seed=4).apply(spec)
    training = replace(spec.training, epochs=5)
    assert changed == replace(
        spec, name="other", trials=9, training=training, max_concurrent=1, seed=4
    )


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ({"name": "a/b"}, "--name"),
        ({"trials": 0}, "--trials"),
        ({"epochs": 0}, "--epochs"),
        ({"max_concurrent": -1}, "--max-concurrent"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_a_wrong_override_is_refused_by_its_option(override, field):
    with pytest.raises(InputError) as caught:
        Overrides(**override).apply(study_spec())
    assert caught.value.field == field


def test_a_trials_settings_hold_the_studys_task_training_and_seed():
    spec = study_spec(seed=7)
    made = spec.settings({"optimizer": "esam", "beta": 0.4, "lr": 0.2}, {"study": "small"})
    assert (made.task, made.seed, made.origin) == (spec.task, 7, {"study": "small"})
    assert made.training == replace(spec.training, lr=0.2)
    assert made.params["beta"] == 0.4


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"optimizer": "sgd"}, "SGD"),
        ({"optimizer": "sam", "rho": 0.5}, "SAM rho=0.50"),
        ({"optimizer": "sam", "rho": 0.12345}, "SAM rho=0.12"),
        ({"optimizer": "esam", "beta": 1}, "ESAM beta=1.00 gamma=0.50 rho=0.050"),
        ({"optimizer": "asam", "lr": 0.1}, "ASAM rho=0.50 lr=0.10"),
        ({"optimizer": "sgd", "batch_size": 8}, "SGD batch_size=8"),
    ],
)
def test_a_settings_name_for_people(params, name):
    assert describe_params(complete_params("p", params)) == name


RHO = {"low": 0.02, "high": 1.0, "log": True}
FULL = space_document()["search"]
CHOSEN = {"optimizer": {"choices": ["sgd", "esam"]}, "rho": RHO, "beta": {"low": 0.3, "high": 1}}


@pytest.mark.parametrize(
    ("search", "params", "point"),
    [
        pytest.param(
            FULL,
            {"optimizer": "esam", "beta": 0.5, "gamma": 0.3, "rho": 0.02},
            {"beta": 0.5, "gamma": 0.3, "rho": 0.02},
            id="a setting of the search",
        ),
        pytest.param(
            FULL, {"optimizer": "sam"}, {"beta": 1.0, "gamma": 1.0, "rho": 0.05}, id="SAM"
        ),
        pytest.param(
            {**FULL, "adaptive": True},
            {"optimizer": "asam", "rho": 0.5},
            {"beta": 1.0, "gamma": 1.0, "rho": 0.5},
            id="ASAM among adaptive settings",
        ),
        pytest.param(
            {**FULL, "adaptive": {"choices": [False, True]}},
            {"optimizer": "asam", "rho": 0.5},
            {"beta": 1.0, "gamma": 1.0, "rho": 0.5, "adaptive": True},
            id="ASAM where the form is searched",
        ),
        pytest.param(
            {**FULL, "selection": "first_order"},
            {"optimizer": "sam"},
            {"beta": 1.0, "gamma": 1.0, "rho": 0.05},
            id="SAM, which selects nothing",
        ),
        pytest.param(
            {**FULL, "every": {"low": 1, "high": 5}},
            {"optimizer": "sam", "every": 2},
            {"beta": 1.0, "gamma": 1.0, "rho": 0.05, "every": 2},
            id="SAM at a searched period",
        ),
        pytest.param(FULL, {"optimizer": "sam", "every": 2}, None, id="another period"),
        pytest.param(FULL, {"optimizer": "looksam", "every": 1}, None, id="a rival"),
        pytest.param(FULL, {"optimizer": "esam", "beta": 0.2}, None, id="below the range"),
        pytest.param(FULL, {"optimizer": "sam", "rho": 1.5}, None, id="above the range"),
        pytest.param(FULL, {"optimizer": "sgd"}, None, id="another optimizer"),
        pytest.param(
            {**FULL, "adaptive": True}, {"optimizer": "sam"}, None, id="SAM among adaptive settings"
        ),
        pytest.param(
            {**FULL, "beta": {"low": 0.3, "high": 0.9}},
            {"optimizer": "sam"},
            None,
            id="SAM where beta stays below 1",
        ),
        pytest.param({**FULL, "beta": 0.5}, {"optimizer": "sam"}, None, id="SAM at a fixed beta"),
        pytest.param(
            {**FULL, "beta": {"choices": [0.5, 0.7]}},
            {"optimizer": "esam", "beta": 0.7},
            {"beta": 0.7, "gamma": 0.5, "rho": 0.05},
            id="a value of the choices",
        ),
        pytest.param(
            {**FULL, "beta": {"choices": [0.5, 0.7]}},
            {"optimizer": "esam", "beta": 0.6},
            None,
            id="a value between the choices",
        ),
        pytest.param(
            FULL, {"optimizer": "asam", "rho": 0.5}, None, id="ASAM beside the default form"
        ),
        pytest.param(
            {"optimizer": "esam", "rho": RHO},
            {"optimizer": "sam"},
            None,
            id="SAM where beta and gamma keep their defaults",
        ),
        pytest.param(
            {"optimizer": "esam", "rho": RHO},
            {"optimizer": "esam", "rho": 0.5},
            {"rho": 0.5},
            id="ESAM where beta and gamma keep their defaults",
        ),
        pytest.param(CHOSEN, {"optimizer": "sgd"}, {"optimizer": "sgd"}, id="a chosen optimizer"),
        pytest.param(
            CHOSEN,
            {"optimizer": "esam", "rho": 0.1},
            {"optimizer": "esam", "rho": 0.1, "beta": 0.6},
            id="the other chosen optimizer",
        ),
        pytest.param(
            {"optimizer": {"choices": ["sam", "esam"]}, "rho": RHO},
            {"optimizer": "sam"},
            {"optimizer": "sam", "rho": 0.05},
            id="SAM as itself where it is a choice",
        ),
        pytest.param(
            {"optimizer": {"choices": ["sgd", "sam"]}, "rho": RHO},
            {"optimizer": "esam"},
            None,
            id="an optimizer that is no choice",
        ),
        pytest.param(
            {**FULL, "lr": 0.1}, {"optimizer": "esam", "lr": 0.2}, None, id="another learning rate"
        ),
        pytest.param(
            {**FULL, "lr": 0.1},
            {"optimizer": "sam"},
            None,
            id="the trainings learning rate where the search fixes another",
        ),
        pytest.param(
            FULL, {"optimizer": "sam", "lr": 0.2}, None, id="a learning rate the search lacks"
        ),
        pytest.param(
            {**FULL, "lr": {"low": 0.1, "high": 1.0}},
            {"optimizer": "sam", "lr": 0.5},
            {"beta": 1.0, "gamma": 1.0, "rho": 0.05, "lr": 0.5},
            id="a searched learning rate",
        ),
    ],
)
def test_where_a_setting_lies_in_the_space(search, params, point):
    spec = study_spec(search=search)
    assert coordinates(spec, complete_params("p", params)) == point
