"""Samplers by name: the same proposals after a death, constraints kept in mind, nothing twice."""

import optuna
import pytest
from study_events import WrittenStudy, study_spec

from esam_tune.errors import InputError
from esam_tune.study.dimensions import Range
from esam_tune.study.feasibility import PredictedCost
from esam_tune.study.grid import grid_points, grid_size
from esam_tune.study.proposals import Proposals
from esam_tune.study.samplers import sobol_point
from esam_tune.study.search_checks import check_budget, check_search
from esam_tune.study.spec import SAMPLERS

STATES = optuna.trial.TrialState
CONDITIONAL = {
    "optimizer": {"choices": ["esam", "msam", "sgd"]},
    "beta": {"low": 0.3, "high": 1.0},
    "every": {"low": 1, "high": 4},
    "rho": {"low": 0.01, "high": 4.0, "log": True},
}
CHOICES = {
    "optimizer": {"choices": ["esam", "msam", "sgd"]},
    "beta": {"choices": [0.25, 0.5, 1.0]},
    "every": {"low": 1, "high": 2},
    "rho": {"choices": [0.1, 1.0]},
}
# esam has 3 * 2 * 2 settings, msam 2 and sgd 1.
CHOICES_SIZE = 15
TRIALS = 7
# A proposal of Optuna's Gaussian process takes seconds.
GP = pytest.param("gp", marks=pytest.mark.long)
SAMPLERS_IN_TIME = [GP if sampler == "gp" else sampler for sampler in SAMPLERS]


class Study:
    """A study on disk, opened anew as often as a test wants."""

    def __init__(self, folder, sampler, **changes):
        searched = CHOICES if sampler == "grid" else CONDITIONAL
        self.spec = study_spec(
            **{"sampler": sampler, "search": searched, "trials": TRIALS} | changes
        )
        folder.mkdir(exist_ok=True)
        self.path = folder / "optuna.db"
        self.journal = WrittenStudy(folder / "journal.jsonl", self.spec)

    def open(self):
        proposals = Proposals(self.path, self.spec, price=PredictedCost(self.spec, 1))
        proposals.settle(self.journal.record())
        return proposals

    def run(self, index, proposals):
        number, params = proposals.ask(index, f"{index:04d}")
        trial_id = self.journal.start(params, number=number)
        beta = params.get("beta", 0.0)
        accuracy = 0.5 + 0.4 * beta - 0.1 * params.get("rho", 0.0)
        self.journal.epoch(
            trial_id, 2, val_accuracy=accuracy, val_loss=1 - accuracy, step_flops_ratio=1 + beta
        )
        self.journal.end(trial_id)
        proposals.tell(self.journal.record().trials[trial_id])
        return params

    def stored(self):
        study = optuna.load_study(study_name=self.spec.name, storage=f"sqlite:///{self.path}")
        return study.get_trials()


@pytest.mark.parametrize("sampler", SAMPLERS_IN_TIME)
def test_a_process_for_each_trial_proposes_what_one_process_would(tmp_path, sampler):
    undisturbed, study = Study(tmp_path / "one", sampler), Study(tmp_path, sampler)
    proposals = undisturbed.open()
    expected = [undisturbed.run(index, proposals) for index in range(TRIALS)]
    proposals, proposed = study.open(), []
    for index in range(TRIALS):
        if index in (4, 6):
            # A process that dies between asking and starting leaves nothing behind.
            proposals.ask(index, f"{index:04d}")
            proposals = study.open()
        proposed.append(study.run(index, proposals))
    assert proposed == expected
    assert len({tuple(params.items()) for params in expected}) == TRIALS
    for params in expected:
        assert ("beta" in params) == (params["optimizer"] == "esam")
        assert ("rho" in params) == (params["optimizer"] != "sgd")
        for key, value in params.items():
            dimension = study.spec.dimensions.get(key)
            assert dimension is None or dimension.contains(value)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_proposals_depend_on_the_seed(tmp_path, sampler):
    runs = []
    for seed in (0, 1):
        study = Study(tmp_path / str(seed), sampler, seed=seed)
        proposals = study.open()
        runs.append([study.run(index, proposals) for index in range(3)])
    assert runs[0] != runs[1]


@pytest.mark.parametrize(
    ("sampler", "trials", "last", "kept_late"),
    [
        ("tpe", 30, 15, 0.5),
        ("nsga2", 30, 15, 0.5),
        ("nsga3", 30, 15, 0.5),
        # Each proposal of a Gaussian process takes a second or so; it tries out where the bound is.
        pytest.param("gp", 16, 6, 0.3, marks=pytest.mark.long),
    ],
)
def test_trials_that_break_a_constraint_teach_the_sampler(
    tmp_path, sampler, trials, last, kept_late
):
    late = {}
    for bound in ("<= 1.4", "<= 9"):
        # Accuracy and loss both want beta at 1: nothing but the constraint keeps it below 0.4.
        study = Study(
            tmp_path / bound[3:],
            sampler,
            trials=40,
            objectives={"val_accuracy": "max", "val_loss": "min"},
            constraints={"step_flops_ratio": bound},
            # NSGA-II mutates one parameter of so many: a single one would be random search.
            search={
                "optimizer": "esam",
                "beta": {"low": 0.0001, "high": 1.0},
                "lr": {"low": 0.01, "high": 0.1},
                "momentum": {"low": 0.5, "high": 0.99},
                "weight_decay": {"low": 0.0, "high": 0.01},
            },
        )
        proposals = study.open()
        kept = [study.run(index, proposals)["beta"] <= 0.4 for index in range(trials)]
        late[bound] = sum(kept[-last:]) / last
    assert late["<= 9"] < kept_late < late["<= 1.4"], late


@pytest.mark.parametrize("sampler", ["nsga2", "gp"])
def test_a_baseline_without_some_dimensions_keeps_them_in_a_flat_space(tmp_path, sampler):
    study = Study(tmp_path, sampler, trials=12)
    trial_id = study.journal.start({"optimizer": "msam", "rho": 1.0}, baseline=True)
    study.journal.epoch(trial_id, 2, val_accuracy=0.9, step_flops_ratio=1.0)
    study.journal.end(trial_id)
    proposals = study.open()
    (taught,) = study.stored()
    assert taught.params.keys() == CONDITIONAL.keys()
    assert (taught.params["optimizer"], taught.params["rho"]) == ("msam", 1.0)
    for index in range(8):
        study.run(index, proposals)
    assert all(t.params.keys() == CONDITIONAL.keys() for t in study.stored())


def test_quasi_random_points_fill_every_eighth_of_each_range(tmp_path):
    study = Study(
        tmp_path,
        "qmc",
        search={key: CONDITIONAL[key] for key in ("beta", "rho")} | {"optimizer": "esam"},
    )
    points = [sobol_point(study.spec, index) for index in range(8)]
    for key, dimension in study.spec.dimensions.items():
        eighths = sorted(int(dimension.share(point[key]) * 8) for point in points)
        assert eighths == list(range(8))


def test_a_grid_is_gone_through_once(tmp_path):
    study = Study(tmp_path, "grid", trials=CHOICES_SIZE)
    assert grid_size(study.spec) == CHOICES_SIZE
    proposals = study.open()
    proposed = [study.run(index, proposals) for index in range(CHOICES_SIZE)]
    expected = [study.spec.completed(point) for point in grid_points(study.spec)]
    assert sorted(map(str, proposed)) == sorted(map(str, expected))
    assert proposed != expected


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_setting_is_tried_twice_and_none_after_all_were(tmp_path, sampler):
    search = {"optimizer": "sam", "rho": {"choices": [0.1, 0.2]}, "every": {"low": 1, "high": 2}}
    study = Study(tmp_path, sampler, search=search, trials=4)
    proposals = study.open()
    proposed = [study.run(index, proposals) for index in range(4)]
    assert len({tuple(p.items()) for p in proposed}) == 4
    assert proposals.ask(4, "0004") is None
    assert study.open().ask(4, "0004") is None
    turned_down = [t for t in study.stored() if t.state == STATES.FAIL]
    assert all(t.user_attrs["esam_tune.turned_down"] == "tried already" for t in turned_down)


@pytest.mark.parametrize("sampler", ["tpe", "grid", "nsga2"])
def test_in_a_space_of_few_only_admitted_settings_are_tried(tmp_path, sampler):
    study = Study(tmp_path, sampler, search=CHOICES)

    def admits(params):
        return params.get("beta", 1.0) == 0.5

    proposals = Proposals(study.path, study.spec, admits)
    proposed = [study.run(index, proposals) for index in range(4)]
    assert len({tuple(p.items()) for p in proposed}) == 4
    assert all(params["beta"] == 0.5 for params in proposed)
    assert proposals.ask(4, "0004") is None


@pytest.mark.parametrize(("trials", "fits"), [(4, True), (5, False)])
def test_a_budget_beyond_the_settings_of_a_space_is_refused(trials, fits):
    spec = study_spec(sampler="random", search=CHOICES, trials=trials)

    def admits(params):
        return params.get("beta", 1.0) == 0.5

    if fits:
        check_budget(spec, admits)
        return
    with pytest.raises(InputError, match="at most 4, the settings of the space that may keep"):
        check_budget(spec, admits)


def test_a_space_without_end_holds_any_budget():
    check_budget(study_spec(trials=10_000), lambda _: False)


def test_a_setting_within_rounding_of_one_tried_is_asked_again(tmp_path, monkeypatch):
    study = Study(tmp_path, "tpe", search={"optimizer": "sam", "rho": CONDITIONAL["rho"]})
    proposals = study.open()
    first = study.run(0, proposals)["rho"]
    suggested = iter([first * 1.002, first * 1.2])
    monkeypatch.setattr(
        optuna.samplers.TPESampler, "sample_independent", lambda *_: next(suggested)
    )
    assert proposals.ask(1, "0001")[1]["rho"] == pytest.approx(first * 1.2)
    assert [t.state for t in study.stored()] == [STATES.COMPLETE, STATES.FAIL, STATES.RUNNING]


def test_optuna_is_told_ids_and_reasons(tmp_path):
    study = Study(tmp_path, "random")
    proposals = study.open()
    ends = (("complete", None), ("pruned", "rank 4 of 5"), ("failed", "NaN"))
    for index, (state, reason) in enumerate(ends):
        number, params = proposals.ask(index, study.journal.next_id)
        trial_id = study.journal.start(params, number=number)
        study.journal.epoch(trial_id, 2, val_accuracy=0.5, step_flops_ratio=1.0)
        study.journal.end(trial_id, state, reason)
        proposals.tell(study.journal.record().trials[trial_id])
    proposals.ask(3, "0003")
    kept = [t.user_attrs for t in study.stored() if "esam_tune.turned_down" not in t.user_attrs]
    assert kept == [
        {"esam_tune.trial_id": "0000"},
        {"esam_tune.trial_id": "0001", "esam_tune.reason": "rank 4 of 5"},
        {"esam_tune.trial_id": "0002", "esam_tune.reason": "NaN"},
        {"esam_tune.trial_id": "0003"},
    ]


@pytest.mark.parametrize(
    ("changes", "field", "problem"),
    [
        ({"sampler": "grid"}, "search.beta", "choices"),
        ({"sampler": "grid", "search": CHOICES, "trials": 16}, "trials", "at most 15"),
        ({"sampler": "tep"}, "sampler", "one of tpe"),
        ({"early_stopping": {"kind": "pareto", "grace_epochs": 2}}, "early_stopping.grace", "2"),
        ({"early_stopping": {"kind": "median"}}, "early_stopping.kind", "one of pareto"),
        ({"early_stopping": {"kind": "asha", "eta": 1}}, "early_stopping.eta", "in [1.1, 1000]"),
        ({"early_stopping": {"kind": "asha", "rungs": 1}}, "early_stopping.rungs", "unknown"),
        ({"early_stopping": {"eta": 3}}, "early_stopping.kind", "required"),
        ({"early_stopping": "pareto"}, "early_stopping", "mapping"),
    ],
)
def test_a_search_that_cannot_be_done_is_refused(changes, field, problem):
    def read_and_check():
        spec = study_spec(**changes)
        check_search(spec)
        check_budget(spec, lambda _: True)

    with pytest.raises(InputError) as error:
        read_and_check()
    assert error.value.field.startswith(field)
    assert problem in str(error.value)


def test_integers_and_choices_take_equal_parts_of_a_dimension():
    integers = Range(low=2, high=5, integer=True)
    assert [integers.at(share / 8) for share in range(8)] == [2, 2, 3, 3, 4, 4, 5, 5]
    assert Range(low=1, high=7, integer=True, log=True).at(0.999) == 7
    assert Range(low=0.1, high=10.0, log=True).at(0.5) == pytest.approx(1.0)
    assert Range(low=0.1, high=10.0, log=True).share(1.0) == pytest.approx(0.5)
