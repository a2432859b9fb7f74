"""Settings: what is accepted, what is refused and in which words."""

import pickle
from dataclasses import FrozenInstanceError, asdict, fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esam_tune import config
from esam_tune.config import (
    DATASETS,
    HYPERPARAMETERS,
    OPTIMIZERS,
    PARAMETERS,
    SELECTIONS,
    TASK,
    TRAINING,
    TRIAL_TRAINING,
    TaskSettings,
    TrainingSettings,
    complete_params,
    task_settings,
    training_settings,
    trial_settings,
)
from esam_tune.domains import Domain
from esam_tune.errors import InputError, choose_from

VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.lists(st.none())
)
HUGE = 10**400


def document(**changes):
    valid = {
        "task": {"dataset": "digits", "model": "small_cnn", "label_noise": 0.4},
        "training": {"epochs": 2, "batch_size": 64, "lr": 0.05},
        "params": {"optimizer": "esam", "beta": 0.5},
        "seed": 3,
    }
    return valid | changes


def refusal(check, *arguments):
    with pytest.raises(InputError) as caught:
        check(*arguments)
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


def value_or_error(check, *arguments):
    try:
        return check(*arguments)
    except InputError as error:
        return error


def test_an_input_error_reads_as_field_problem_remedy_and_travels():
    error = InputError("search.beta.low", "must be > 0, got -1", "raise it")
    assert str(error) == "search.beta.low: must be > 0, got -1; raise it"
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.field, copy.problem, copy.remedy) == (error.field, error.problem, error.remedy)
    assert str(copy) == str(error)


def test_the_remedy_for_a_name_is_the_nearest_or_all_of_them():
    assert choose_from(["momentum", "lr"], "momentun") == "did you mean 'momentum'?"
    assert choose_from(["b", "a"], "unlike") == "choose from a, b"


@pytest.mark.parametrize(
    ("domain", "received", "value"),
    [
        (config.SHARE, 1, 1.0),
        (config.SHARE, 1e-9, 1e-9),
        (config.NOT_NEGATIVE, 0, 0.0),
        (config.COUNT, 1, 1),
        (config.COUNT, 64.0, 64),
        (config.SEED, 2**31 - 1, 2**31 - 1),
        (TRAINING["momentum"], 0, 0.0),
        (PARAMETERS["adaptive"], False, False),
        (PARAMETERS["optimizer"], "asam", "asam"),
    ],
)
def test_a_value_in_the_domain_comes_back_in_its_type(domain, received, value):
    checked = domain.check("field", received)
    assert checked == value
    assert type(checked) is type(value)


@pytest.mark.parametrize(
    ("domain", "received", "bound"),
    [
        (config.SHARE, 0, "a number in (0, 1]"),
        (config.SHARE, 1.01, "a number in (0, 1]"),
        (config.SHARE, "0.5", "a number in (0, 1]"),
        (config.SHARE, True, "a number in (0, 1]"),
        (config.SHARE, float("nan"), "a number in (0, 1]"),
        (config.POSITIVE, 0.0, "a number > 0"),
        (config.POSITIVE, float("inf"), "a number > 0"),
        (config.NOT_NEGATIVE, -0.1, "a number >= 0"),
        (config.NOT_NEGATIVE, None, "a number >= 0"),
        (config.NOT_NEGATIVE, HUGE, "a number >= 0"),
        (config.COUNT, 0, "an integer in [1, 1000000]"),
        (config.COUNT, 1.5, "an integer in [1, 1000000]"),
        (config.COUNT, [1], "an integer in [1, 1000000]"),
        (config.COUNT, HUGE, "an integer in [1, 1000000]"),
        (config.SEED, -1, "an integer in [0, 2147483647]"),
        (config.SEED, 2**31, "an integer in [0, 2147483647]"),
        (TRAINING["momentum"], 1.0, "a number in [0, 1)"),
        (TASK["label_noise"], 1.0, "a number in [0, 1)"),
        (PARAMETERS["adaptive"], 1, "true or false"),
        (PARAMETERS["adaptive"], "yes", "true or false"),
        (PARAMETERS["optimizer"], "adam", "one of sgd, sam, asam, esam"),
        (PARAMETERS["optimizer"], ["sgd"], "one of sgd, sam, asam, esam"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_value_out_of_the_domain_is_refused_with_bound_and_value(domain, received, bound):
    error = refusal(domain.check, "field", received)
    assert error.field == "field"
    # The table of optimizers grows: its beginning is enough.
    assert error.problem.startswith(f"must be {bound}")
    assert error.problem.endswith(f"got {received!r}")
    assert error.remedy


def test_a_text_is_any_that_is_not_empty():
    domain = Domain(kind=str)
    assert domain.check("field", "~/data") == "~/data"
    for value in ("", "  ", 3, None, True, ["a"]):
        assert "must be a text that is not empty" in refusal(domain.check, "field", value).problem


def test_settings_of_the_data_default_to_its_own_and_survive_the_round_trip():
    task = task_settings({"dataset": "cifar10", "model": "small_cnn", "augment": None})
    assert (task.augment, task.reads("augment")) == (None, "crop_flip_cutout")
    assert task.reads("val_share") == 0.1
    assert task_settings(asdict(task)) == task
    other = task_settings({"dataset": "cifar10", "model": "small_cnn", "augment": "crop"})
    assert other.reads("augment") == "crop"
    assert len({task, other}) == 2


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_data_sets_defaults_are_settings_within_their_bounds(dataset):
    for key, value in DATASETS[dataset].items():
        assert key in TASK
        assert value is None or TASK[key].check(key, value) == value
    for key in {key for reads in DATASETS.values() for key in reads} - set(DATASETS[dataset]):
        bound = TASK[key]
        value = bound.choices[0] if bound.choices else "a" if bound.kind is str else bound.high
        with pytest.raises(InputError, match="does not read it"):
            task_settings({"dataset": dataset, "model": "small_cnn", key: value})


def test_an_unbounded_domain_says_what_kind_it_takes():
    assert str(Domain(kind=int)) == "an integer"
    assert str(Domain(kind=float)) == "a number"


@given(domain=st.sampled_from([*{**PARAMETERS, **TRAINING, **TASK}.items()]), value=VALUES)
def test_a_domain_gives_a_value_of_its_kind_or_refuses(domain, value):
    name, checks = domain
    checked = value_or_error(checks.check, name, value)
    if isinstance(checked, InputError):
        assert checked.field == name
        assert len(str(checked).splitlines()) == 1
    else:
        assert type(checked) is checks.kind
        assert checks.check(name, checked) == checked


@pytest.mark.parametrize(
    ("section", "received", "field", "problem", "remedy"),
    [
        (task_settings, {"model": "small_cnn"}, "task.dataset", "required", "add `dataset: ...`"),
        (task_settings, {"dataset": "digits"}, "task.model", "required", "add `model: ...`"),
        (task_settings, None, "task", "must be a mapping, got None", "write `key: value` lines"),
        (
            task_settings,
            {"dataset": "digit", "model": "small_cnn"},
            "task.dataset",
            "got 'digit'",
            "did you mean 'digits'?",
        ),
        (
            task_settings,
            {"dataset": "digits", "model": "small_cn"},
            "task.model",
            "got 'small_cn'",
            "did you mean 'small_cnn'?",
        ),
        (
            training_settings,
            {"epochs": 1, "batch_size": 1, "lr": 1, "momentun": 0.9},
            "training.momentun",
            "unknown key",
            "did you mean 'momentum'?",
        ),
        (
            training_settings,
            {"epochs": 0, "batch_size": 1, "lr": 1},
            "training.epochs",
            "must be an integer in [1, 1000000], got 0",
            "set it to an integer in [1, 1000000]",
        ),
        (
            training_settings,
            [("epochs", 1)],
            "training",
            "must be a mapping, got [('epochs', 1)]",
            "write `key: value` lines",
        ),
    ],
)
def test_a_section_is_refused_by_its_dotted_field(section, received, field, problem, remedy):
    error = refusal(section, received)
    assert error.field == field
    assert problem in error.problem
    assert error.remedy == remedy


def test_sections_fill_in_their_defaults():
    task = task_settings({"dataset": "digits", "model": "small_cnn"})
    assert task == TaskSettings(dataset="digits", model="small_cnn", label_noise=0.0, split_seed=0)
    training = training_settings({"epochs": 2, "batch_size": 8, "lr": 1})
    assert training == TrainingSettings(
        epochs=2, batch_size=8, lr=1.0, momentum=0.9, weight_decay=0.0
    )
    with pytest.raises(FrozenInstanceError):
        task.dataset = "other"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parameters_are_completed_with_the_optimizers_defaults(name):
    completed = complete_params("params", {"optimizer": name})
    assert completed == {"optimizer": name, **OPTIMIZERS[name].defaults}
    assert next(iter(completed)) == "optimizer"
    assert complete_params("params", completed) == completed


def test_given_parameters_go_over_the_defaults_and_training_overrides_are_kept():
    completed = complete_params("p", {"lr": 1, "rho": 0.3, "optimizer": "sam"})
    assert completed == {"optimizer": "sam", "rho": 0.3, "every": 1, "lr": 1.0}


@pytest.mark.parametrize(
    ("received", "field", "problem", "remedy"),
    [
        ({}, "params.optimizer", "required but missing", "add `optimizer: ...`"),
        (
            {"optimizer": "sgd", "rho": 0.1},
            "params.rho",
            "sgd does not read it, got 0.1",
            "remove it or use another optimizer",
        ),
        (
            {"optimizer": "esam", "gama": 0.1},
            "params.gama",
            "unknown key",
            "did you mean 'gamma'?",
        ),
        (
            {"optimizer": "esam", "beta": 0},
            "params.beta",
            "must be a number in (0, 1], got 0",
            "set it to a number in (0, 1]",
        ),
        (
            {"optimizer": "sgd", "epochs": 3},
            "params.epochs",
            "unknown key",
            "choose from",
        ),
    ],
)
def test_wrong_parameters_are_refused(received, field, problem, remedy):
    error = refusal(complete_params, "params", received)
    assert error.field == field
    assert error.problem == problem
    assert error.remedy.startswith(remedy)


def test_a_settings_document_survives_the_round_trip():
    read = trial_settings(document(origin={"study": "s", "trial_id": "0003"}))
    assert read.params["gamma"] == 0.5
    assert read.seed == 3
    assert trial_settings(read.to_dict()) == read


def test_a_trials_own_learning_rate_replaces_the_trainings():
    read = trial_settings(document(params={"optimizer": "sgd", "lr": 0.2, "batch_size": 8}))
    before = trial_settings(document(params={"optimizer": "sgd"})).training
    assert read.training == replace(before, lr=0.2, batch_size=8)


@pytest.mark.parametrize(
    ("received", "field"),
    [
        ({}, "task"),
        ("text", "file"),
        (document(parms={}), "parms"),
        (document(seed=-1), "seed"),
        (document(seed="0"), "seed"),
        (document(origin=["study"]), "origin"),
        (document(task={}), "task.dataset"),
        (document(training=3), "training"),
        (document(params={"optimizer": "esam", "selection": "best"}), "params.selection"),
    ],
)
def test_a_wrong_settings_document_is_refused_by_field(received, field):
    assert refusal(trial_settings, received).field == field


def test_a_key_that_spans_lines_is_reported_on_one():
    refusal(trial_settings, document(**{"pa\nrams": {}}))


def test_the_tables_name_every_field_of_the_settings():
    assert {f.name for f in fields(TaskSettings)} == set(TASK)
    assert {f.name for f in fields(TrainingSettings)} == set(TRAINING)
    assert set(TRIAL_TRAINING) == {"batch_size", "lr", "momentum", "weight_decay"}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizers_defaults_are_parameters_within_their_bounds(name):
    for key, value in OPTIMIZERS[name].defaults.items():
        assert HYPERPARAMETERS[key].check(key, value) == value


def test_every_hyperparameter_is_read_by_some_optimizer():
    read = {key for kind in OPTIMIZERS.values() for key in kind.defaults}
    assert read == set(HYPERPARAMETERS)


def test_the_choices_are_what_the_registries_hold():
    from esam_tune.tasks import data, models

    assert set(TASK["dataset"].choices) == set(data.DATA_SETS)
    assert set(TASK["model"].choices) == set(models.NETWORKS)


def test_the_optimizers_and_selections_on_offer_can_be_built():
    from esam_tune import optim
    from esam_tune.optimization import build_optimizer
    from esam_tune.tasks.models import build_model

    assert set(SELECTIONS) <= set(optim.SELECTIONS)
    training = training_settings({"epochs": 1, "batch_size": 4, "lr": 0.1})
    model = build_model("small_cnn", (1, 8, 8), 10, 0)
    built = {
        name: build_optimizer(complete_params("p", {"optimizer": name}), training, model, 0)
        for name in OPTIMIZERS
    }
    assert all(isinstance(optimizer, optim.PerSampleOptimizer) for optimizer in built.values())
    assert isinstance(built["sgd"], optim.BaseStep)
    for name in ("sam", "asam", "esam"):
        assert isinstance(built[name], optim.ESAM)
    assert len({type(optimizer) for optimizer in built.values()}) == len(built) - 2
    for selection in SELECTIONS:
        params = complete_params("p", {"optimizer": "esam", "selection": selection})
        assert isinstance(build_optimizer(params, training, model, 0), optim.ESAM)


EDGES = {
    "beta": [1e-6, 1.0],
    "gamma": [1e-6, 1.0],
    "rho": [0.0, 1e6],
    "alpha": [0.0, 1e6],
    "every": [1, 10**6],
    "selection": SELECTIONS,
    "adaptive": [False, True],
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_takes_its_parameters_at_the_edges_of_their_bounds(name):
    from esam_tune.optimization import build_optimizer
    from esam_tune.tasks.models import build_model

    training = training_settings({"epochs": 1, "batch_size": 4, "lr": 0.1})
    model = build_model("small_cnn", (1, 8, 8), 10, 0)
    for key in OPTIMIZERS[name].defaults:
        for value in EDGES[key]:
            params = complete_params("p", {"optimizer": name, key: value})
            assert params[key] == value
            assert build_optimizer(params, training, model, 0).param_groups[0]["lr"] == 0.1
