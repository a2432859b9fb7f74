"""Earlier studies as knowledge: what is taken of them, what is left out, and what becomes of it."""

import json
import math

import optuna
import pytest
from study_events import WrittenStudy, space_document, study_spec

from esam_tune import journal
from esam_tune.errors import InputError
from esam_tune.study.feasibility import PredictedCost
from esam_tune.study.folder import StudyFolder
from esam_tune.study.preflight import SweepOptions, draw_up
from esam_tune.study.proposals import Proposals
from esam_tune.study.record import StudyRecord
from esam_tune.study.space import Overrides
from esam_tune.study.spec import SAMPLERS
from esam_tune.study.warm_start import WarmStart

STATES = optuna.trial.TrialState
SEARCH = space_document()["search"]
LEARNING = ("tpe", "nsga2", "nsga3", "gp", "known_cost")


def esam(**params):
    return {"optimizer": "esam", "beta": 0.5, "gamma": 0.5, "rho": 0.1} | params


class Earlier:
    """A study in a storage, written trial by trial."""

    def __init__(self, storage, name="earlier", **changes):
        self.folder = StudyFolder(storage=storage, name=name)
        spec = study_spec(name=name, **changes)
        self.study = WrittenStudy(self.folder.journal, spec, study_id=f"id of {name}")

    def trial(self, accuracy, cost=1.5, state="complete", params=None, **started):
        return self.study.trial(accuracy, cost, state, params=params or esam(), **started)


def plan(storage, *names, name="later", resume=False, **changes):
    options = SweepOptions(storage=storage, warm_start=names, resume=resume)
    return draw_up(study_spec(name=name, **changes), Overrides(), options)


def taken(storage, **changes):
    (start,) = plan(storage, "earlier", **changes).warm_start
    return start


def opened(planned, path):
    price = PredictedCost(planned.spec, 1)
    return Proposals(path, planned.spec, price=price, warm=planned.warm_start)


def stored(planned, path):
    study = optuna.load_study(study_name=planned.spec.name, storage=f"sqlite:///{path}")
    return study.get_trials()


def test_results_of_the_same_task_are_told_with_their_constraints_and_are_no_trials(tmp_path):
    earlier = Earlier(tmp_path)
    earlier.trial(0.9, 1.6)
    earlier.trial(0.3, 1.2, "pruned", params=esam(rho=0.9))
    earlier.trial(0.1, 1.2, "failed")
    earlier.study.start(esam(rho=0.3))
    earlier.trial(0.7, 2.0, params={"optimizer": "sam"}, baseline=True)
    earlier.trial(0.4, 1.0, params={"optimizer": "sgd"}, baseline=True)
    planned = plan(tmp_path, "earlier", constraints={"step_flops_ratio": "<= 1.4"})
    (start,) = planned.warm_start
    assert [trial.trial_id for trial in start.trials] == ["0000", "0001", "0004"]
    assert start.left_out == {"without a result": 2, "outside the search space": 1}
    assert start.notice("tpe") == (
        "warm start from earlier: 3 trials told to the sampler; "
        "left out: 2 without a result, 1 outside the search space"
    )
    for _ in range(2):
        proposals = opened(planned, tmp_path / "optuna.db")
        first, second, third = stored(planned, tmp_path / "optuna.db")
    assert (first.state, first.values) == (STATES.COMPLETE, [0.9, 1.6])
    assert first.constraints["step_flops_ratio"] == pytest.approx(0.2)
    assert (second.state, second.values, second.params["rho"]) == (STATES.PRUNED, None, 0.9)
    # SAM is a point of a space over ESAM.
    assert (third.values, third.params) == ([0.7, 2.0], {"beta": 1.0, "gamma": 1.0, "rho": 0.05})
    assert {t.user_attrs["esam_tune.warm_start"] for t in (first, second, third)} == {
        "id of earlier/0000", "id of earlier/0001", "id of earlier/0004"
    }  # fmt: skip
    # A setting of theirs may be tried: it could not come onto the front otherwise.
    proposals._note_tried()
    assert proposals._worthwhile.tried == []
    assert proposals._worthwhile.refusal(planned.spec.completed(first.params)) is None


def test_the_mean_over_an_earlier_study_s_seeds_is_told(tmp_path):
    earlier = Earlier(tmp_path, seeds=2)
    trial_id = earlier.study.start(esam())
    runs = [trial_id, earlier.study.replicate(trial_id, 1)]
    for run, accuracy in zip(runs, (0.8, 0.9), strict=True):
        earlier.study.epoch(run, 2, val_accuracy=accuracy, step_flops_ratio=1.5)
        earlier.study.end(run)
    (trial,) = taken(tmp_path).trials
    assert trial.metrics["val_accuracy"] == pytest.approx(0.85)


@pytest.mark.parametrize(
    ("changes", "params", "inside"),
    [
        ({}, esam(), True),
        ({"search": {**SEARCH, "rho": {"low": 0.2, "high": 1.0}}}, esam(), False),
        # What the earlier study did not search had its default.
        ({"search": {**SEARCH, "every": {"low": 1, "high": 3}}}, esam(), True),
        ({"search": {**SEARCH, "lr": {"low": 0.01, "high": 0.1}}}, esam(), True),
        ({"search": {**SEARCH, "lr": {"low": 0.1, "high": 1.0}}}, esam(), False),
        # What the new study does not search must be as it has it.
        ({"search": {**SEARCH, "beta": 0.5}}, esam(), True),
        ({"search": {**SEARCH, "beta": 0.6}}, esam(), False),
        ({"training": {"epochs": 2, "batch_size": 64, "lr": 0.1}}, esam(), False),
        ({"training": {"epochs": 2, "batch_size": 64, "lr": 0.1}}, esam(lr=0.1), False),
        ({"search": {**SEARCH, "lr": 0.1}}, esam(lr=0.1), True),
        ({}, esam(lr=0.1), False),
        ({}, {"optimizer": "looksam"}, False),
    ],
)
def test_settings_of_the_overlap_are_taken(tmp_path, changes, params, inside):
    earlier = Earlier(tmp_path)
    earlier.trial(0.9, params=params)
    if not inside and changes.get("training") and "lr" in params:
        # The same learning rate by another way: the parameter, where the space has none.
        inside = True
    if not inside:
        with pytest.raises(InputError, match=r"can be used \(1 outside the search space\)"):
            taken(tmp_path, **changes)
        return
    (trial,) = taken(tmp_path, **changes).trials
    spec = study_spec(**changes)
    assert trial.params == spec.completed(params | {k: 0.05 for k in ("lr",) if k not in params})


def test_a_parameter_that_this_version_does_not_know_leaves_its_trial_out(tmp_path):
    earlier = Earlier(tmp_path)
    earlier.trial(0.9)
    trial_id = earlier.trial(0.8)
    path = earlier.folder.journal
    events = [json.loads(line) for line in path.read_text().splitlines()]
    for event in events:
        if event["event"] == journal.TRIAL_START and event["trial_id"] == trial_id:
            event["params"]["warp"] = 3
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    assert taken(tmp_path).left_out == {"outside the search space": 1}


def test_a_trial_without_an_objective_of_the_new_study_is_left_out(tmp_path):
    earlier = Earlier(tmp_path)
    trial_id = earlier.study.start(esam())
    earlier.study.epoch(trial_id, 2, val_accuracy=0.9, step_flops_ratio=1.5, val_loss=0.4)
    earlier.study.end(trial_id)
    earlier.trial(0.8)
    objectives = {"val_loss": "min", "val_accuracy": "max", "step_flops_ratio": "min"}
    start = taken(tmp_path, objectives=objectives)
    assert [trial.values(objectives) for trial in start.trials] == [[0.4, 0.9, 1.5]]
    assert start.left_out == {"without val_loss": 1}
    with pytest.raises(InputError, match=r"can be used \(2 without step_time_ratio\)"):
        taken(tmp_path, objectives={"val_accuracy": "max", "step_time_ratio": "min"})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"task": space_document()["task"] | {"label_noise": 0.2}}, "task.label_noise was 0.4"),
        ({"task": space_document()["task"] | {"augment": "crop"}}, "task.augment was 'none'"),
        ({"training": {"epochs": 3, "batch_size": 64, "lr": 0.05}}, "training.epochs was 2, is 3"),
    ],
)
def test_of_another_task_the_front_s_settings_are_tried_first(tmp_path, changes, told):
    earlier = Earlier(tmp_path)
    for accuracy, cost, rho in ((0.5, 1.1, 0.1), (0.4, 1.5, 0.2), (0.9, 1.9, 0.3), (0.7, 1.3, 0.4)):
        earlier.trial(accuracy, cost, params=esam(rho=rho))
    planned = plan(tmp_path, "earlier", trials=4, **changes)
    (start,) = planned.warm_start
    assert told in start.notice("tpe")
    assert "settings of 2 trials of its front are tried first" in start.notice("tpe")
    # Half of the budget at most: the front's ends.
    assert [trial.params["rho"] for trial in start.trials] == [0.1, 0.3]
    proposals = opened(planned, tmp_path / "optuna.db")
    asked = [proposals.ask(index, str(index))[1] for index in range(3)]
    assert asked[:2] == [trial.params for trial in start.trials]
    assert asked[2]["rho"] not in (0.1, 0.2, 0.3, 0.4)
    # Their values are known to nobody here.
    assert {t.state for t in stored(planned, tmp_path / "optuna.db")} == {STATES.RUNNING}


@pytest.mark.parametrize("moment", ["first asked", "first begun", "first told", "second begun"])
@pytest.mark.parametrize("lost", [False, True], ids=["kept", "lost"])
def test_what_is_tried_first_is_tried_once_whenever_the_study_dies(tmp_path, moment, lost):
    earlier = Earlier(tmp_path)
    for accuracy, cost, rho in ((0.5, 1.1, 0.1), (0.9, 1.9, 0.3)):
        earlier.trial(accuracy, cost, params=esam(rho=rho))
    training = {"epochs": 3, "batch_size": 64, "lr": 0.05}
    planned = plan(tmp_path, "earlier", trials=4, training=training)
    first = [trial.params for trial in planned.warm_start[0].trials]
    assert len(first) == 2
    written = WrittenStudy(
        planned.folder.journal,
        planned.spec,
        tracking_uri=None,
        warm_start=[start.to_dict() for start in planned.warm_start],
    )
    database = tmp_path / "optuna.db"
    proposals, asked = opened(planned, database), []

    def go_on(last=None):
        """Run what is left of four trials; up to a moment of the first two, where it dies."""
        for index in range(len(asked), 4):
            name = ("first", "second", "third", "fourth")[index]
            number, params = proposals.ask(index, f"{index:04d}")
            if last == f"{name} asked":
                return
            trial_id = written.start(params, number=number)
            asked.append(params)
            if last == f"{name} begun":
                return
            written.epoch(trial_id, 3, val_accuracy=0.5, step_flops_ratio=1.1)
            written.end(trial_id)
            proposals.tell(written.record().trials[trial_id])
            if last == f"{name} told":
                return

    go_on(moment)
    if lost:
        database.unlink()
    planned = plan(tmp_path, trials=4, resume=True, training=training)
    proposals = opened(planned, database)
    proposals.settle(written.record())
    go_on()
    assert asked[:2] == first
    assert not [params for params in asked[2:] if params in first]
    of_theirs = [t for t in stored(planned, database) if t.params["rho"] in (0.1, 0.3)]
    told = [t for t in of_theirs if "esam_tune.turned_down" not in t.user_attrs]
    assert [t.params["rho"] for t in told] == [0.1, 0.3]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_is_told_or_says_that_it_learns_nothing(tmp_path, sampler):
    choices = {key: {"choices": [0.3, 0.5, 0.7, 0.9]} for key in ("beta", "gamma", "rho")}
    search = {"optimizer": "esam", **choices}
    if sampler != "grid":
        search = SEARCH | {"lr": {"low": 0.01, "high": 0.1}, "momentum": {"low": 0.5, "high": 0.95}}
    earlier = Earlier(tmp_path, search=search)
    for index in range(12):
        # Accuracy and cost both want beta near its low end.
        beta = 0.3 + 0.2 * (index % 4) if sampler == "grid" else 0.3 + 0.05 * index
        params = esam(beta=beta, gamma=0.3, rho=0.3)
        earlier.trial(0.95 - beta / 2, 1 + beta, params=params)
    proposed = []
    for names in ((), ("earlier",)):
        planned = plan(tmp_path, *names, search=search, sampler=sampler, trials=16)
        proposals = opened(planned, tmp_path / f"{len(names)}.db")
        proposed.append([proposals.ask(index, str(index))[1] for index in range(4)])
    (start,) = planned.warm_start
    cold, warm = proposed
    assert ("learns nothing" in start.notice(sampler)) == (sampler not in LEARNING)
    assert (cold == warm) == (sampler not in LEARNING)
    if sampler in LEARNING:
        assert sum(p["beta"] for p in warm) < sum(p["beta"] for p in cold)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_it_survives_a_resume_a_lost_storage_and_the_loss_of_the_earlier_study(tmp_path, sampler):
    earlier = Earlier(tmp_path)
    for index in range(6):
        earlier.trial(0.5 + index / 20, 1 + index / 10, params=esam(rho=0.1 + index / 10))
    planned = plan(tmp_path, "earlier", sampler=sampler, trials=8)
    written = WrittenStudy(
        planned.folder.journal,
        planned.spec,
        tracking_uri=None,
        warm_start=[start.to_dict() for start in planned.warm_start],
    )

    def run(proposals, index):
        number, params = proposals.ask(index, written.next_id)
        trial_id = written.start(params, number=number)
        written.epoch(trial_id, 2, val_accuracy=params["rho"] / 2, step_flops_ratio=params["beta"])
        written.end(trial_id)
        proposals.tell(written.record().trials[trial_id])
        return params

    path = tmp_path / "optuna.db"
    proposals = opened(planned, path)
    for index in range(2):
        run(proposals, index)
    copy = path.read_bytes()
    expected = proposals.ask(2, "0002")[1]
    earlier.folder.journal.unlink()
    resumed = plan(tmp_path, sampler=sampler, trials=8, resume=True)
    assert resumed.warm_start == planned.warm_start
    for restored in (copy, None):
        path.unlink()
        if restored:
            path.write_bytes(restored)
        proposals = opened(resumed, path)
        proposals.settle(written.record())
        sources = [t.user_attrs.get("esam_tune.warm_start") for t in stored(resumed, path)]
        assert sum(source is not None for source in sources) == 6
        if restored or sampler == "tpe":
            assert proposals.ask(2, "0002")[1] == expected
    # None of them is a trial of the study.
    record = written.record()
    assert (len(record.trials), record.remaining) == (2, 6)
    assert {trial.trial_id for trial in record.front()} <= {"0000", "0001"}
    # It may be named again, by its name even though it is gone, but not another one.
    assert plan(tmp_path, "earlier", sampler=sampler, trials=8, resume=True) == resumed
    Earlier(tmp_path, "other").trial(0.5)
    with pytest.raises(InputError, match="it was earlier, got other") as error:
        plan(tmp_path, "other", sampler=sampler, trials=8, resume=True)
    assert error.value.field == "--warm-start"


def test_a_study_of_another_storage_is_named_by_its_folder(tmp_path):
    Earlier(tmp_path / "a").trial(0.9)
    Earlier(tmp_path / "b", "second").trial(0.8, params=esam(rho=0.9))
    first, second = plan(tmp_path / "b", str(tmp_path / "a" / "earlier"), "second").warm_start
    assert (first.study, second.study) == ("earlier", "second")
    assert WarmStart.from_dict(json.loads(json.dumps(first.to_dict()))) == first


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["erlier"], "no study 'erlier'"),
        (["/no/such/study"], "no study '/no/such/study'"),
        (["."], "no study '.'"),
        (["later"], "cannot start from itself"),
        (["begun"], "no trial of study 'begun' has finished"),
        (["earlier", "earlier"], "names study 'earlier' twice"),
    ],
)
def test_a_study_that_cannot_be_started_from_is_refused(tmp_path, names, problem):
    Earlier(tmp_path).trial(0.9)
    Earlier(tmp_path, "begun").trial(0.3, state="pruned")
    with pytest.raises(InputError) as error:
        plan(tmp_path, *names)
    assert error.value.field == "--warm-start"
    assert problem in error.value.problem
    if names == ["erlier"]:
        assert error.value.remedy == "did you mean 'earlier'?"


def test_a_diverged_value_is_no_result(tmp_path):
    earlier = Earlier(tmp_path)
    earlier.trial(0.9)
    trial_id = earlier.study.start(esam())
    earlier.study.epoch(trial_id, 2, val_accuracy=None, step_flops_ratio=1.0)
    earlier.study.end(trial_id, "failed", "val_accuracy is not finite")
    start = taken(tmp_path)
    assert len(start.trials) == 1
    assert all(math.isfinite(value) for value in start.trials[0].metrics.values())


def test_a_journal_from_before_warm_starts_has_none(tmp_path):
    study = WrittenStudy(tmp_path / "later" / "journal.jsonl", study_spec(name="later"))
    study.writer.close()
    assert isinstance(study.record(), StudyRecord)
    options = SweepOptions(storage=tmp_path, resume=True, tracking_uri="sqlite:///mlflow.db")
    assert draw_up(study_spec(name="later"), Overrides(), options).warm_start == ()
