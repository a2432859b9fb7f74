"""Optuna's database beside the journal: the same proposals, and nothing told twice or lost."""

import optuna
import pytest
from study_events import WrittenStudy, study_spec

from esam_tune.study.proposals import Proposals

STATES = optuna.trial.TrialState
TRIALS = 8
SEARCHED = {"beta": (0.3, 1.0), "gamma": (0.3, 1.0), "rho": (0.02, 1.0)}


class Study:
    """A study on disk: opened anew as often as a test lets its process die."""

    def __init__(self, folder, **changes):
        self.spec = study_spec(**{"trials": TRIALS} | changes)
        self.path = folder / "optuna.db"
        self.journal = WrittenStudy(folder / "journal.jsonl", self.spec)

    def open(self):
        proposals = Proposals(self.path, self.spec)
        proposals.settle(self.journal.record())
        return proposals

    def stored(self):
        study = optuna.load_study(study_name=self.spec.name, storage=f"sqlite:///{self.path}")
        return study.get_trials()

    def finish(self, trial_id, accuracy, cost, state="complete"):
        self.journal.epoch(trial_id, 2, val_accuracy=accuracy, step_flops_ratio=cost)
        self.journal.end(trial_id, state)
        return self.journal.record().trials[trial_id]

    def run(self, index, proposals=None, state="complete"):
        """One search trial, with values that depend on its setting alone."""
        proposals = proposals or self.open()
        number, params = proposals.ask(index, self.journal.next_id)
        trial_id = self.journal.start(params, number=number)
        accuracy = 0.9 - (params["rho"] - 0.3) ** 2
        proposals.tell(self.finish(trial_id, accuracy, 1 + params["beta"], state))
        return params


@pytest.fixture
def study(tmp_path):
    return Study(tmp_path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What a study proposes whose process never dies."""
    study = Study(tmp_path_factory.mktemp("undisturbed"))
    proposals = study.open()
    return [study.run(index, proposals) for index in range(TRIALS)]


def test_proposals_are_complete_and_lie_in_the_space(study):
    for index in range(4):
        params = study.run(index)
        assert params["optimizer"] == "esam"
        assert (params["selection"], params["adaptive"]) == ("exact", False)
        for key, (low, high) in SEARCHED.items():
            assert low <= params[key] <= high


def test_a_process_for_each_trial_proposes_what_one_process_would(undisturbed, study):
    assert [study.run(index) for index in range(TRIALS)] == undisturbed
    assert len({tuple(params.values()) for params in undisturbed}) == TRIALS


def test_proposals_depend_on_the_seed(tmp_path):
    first, second = (Study(tmp_path / name, seed=seed) for seed, name in enumerate("ab"))
    assert first.run(0) != second.run(0)


@pytest.mark.parametrize("seed", [5_000, 2**31 - 1])
def test_every_seed_a_space_may_hold_can_propose(tmp_path, seed):
    assert Study(tmp_path, seed=seed).run(0)["optimizer"] == "esam"


@pytest.mark.parametrize("dies_after", ["ask", "start", "end", "tell"])
def test_a_death_between_journal_and_database_changes_no_later_proposal(
    undisturbed, study, dies_after
):
    for index in range(5):
        study.run(index)
    proposals = study.open()
    number, params = proposals.ask(5, study.journal.next_id)
    if dies_after != "ask":
        trial_id = study.journal.start(params, number=number)
    if dies_after in ("end", "tell"):
        accuracy = 0.9 - (params["rho"] - 0.3) ** 2
        trial = study.finish(trial_id, accuracy, 1 + params["beta"])
    if dies_after == "tell":
        proposals.tell(trial)
    del proposals

    proposals = study.open()
    if dies_after == "ask":
        assert study.stored()[number].state == STATES.FAIL
        study.run(5, proposals)
    elif dies_after == "start":
        # The trial goes on under its own number.
        assert study.stored()[number].state == STATES.RUNNING
        accuracy = 0.9 - (params["rho"] - 0.3) ** 2
        proposals.tell(study.finish(trial_id, accuracy, 1 + params["beta"]))
    complete = [t for t in study.stored() if t.state == STATES.COMPLETE]
    assert len(complete) == 6
    assert study.run(6, proposals) == undisturbed[6]
    assert study.run(7) == undisturbed[7]


@pytest.mark.parametrize(
    ("state", "told"),
    [("complete", STATES.COMPLETE), ("pruned", STATES.PRUNED), ("failed", STATES.FAIL)],
)
@pytest.mark.parametrize("settled", [False, True], ids=["told at once", "told at the next start"])
def test_each_end_is_told_as_what_it_is(study, state, told, settled):
    proposals = study.open()
    number, params = proposals.ask(0, study.journal.next_id)
    trial_id = study.journal.start(params, number=number)
    trial = study.finish(trial_id, 0.8, 1.5, state)
    if settled:
        study.open()
    else:
        proposals.tell(trial)
    (stored,) = study.stored()
    assert stored.state == told
    assert stored.values == ([0.8, 1.5] if state == "complete" else None)
    assert {key: params[key] for key in SEARCHED} == stored.params


def test_values_are_told_in_the_order_and_direction_of_the_objectives(tmp_path):
    study = Study(tmp_path, objectives={"step_flops_ratio": "min", "val_accuracy": "max"})
    params = study.run(0)
    loaded = optuna.load_study(study_name="small", storage=f"sqlite:///{study.path}")
    minimize, maximize = (
        optuna.study.StudyDirection.MINIMIZE,
        optuna.study.StudyDirection.MAXIMIZE,
    )
    assert loaded.directions == [minimize, maximize]
    assert loaded.trials[0].values[0] == 1 + params["beta"]


def test_an_end_told_twice_counts_once(study):
    proposals = study.open()
    number, params = proposals.ask(0, study.journal.next_id)
    trial = study.finish(study.journal.start(params, number=number), 0.8, 1.5)
    for _ in range(2):
        proposals.tell(trial)
    study.open()
    assert [t.state for t in study.stored()] == [STATES.COMPLETE]


@pytest.mark.parametrize(
    ("params", "point"),
    [
        ({"optimizer": "sam", "rho": 0.05}, {"beta": 1.0, "gamma": 1.0, "rho": 0.05}),
        (
            {"optimizer": "esam", "beta": 0.6, "gamma": 0.5, "rho": 0.05},
            {"beta": 0.6, "gamma": 0.5, "rho": 0.05},
        ),
    ],
)
def test_a_baseline_in_the_space_is_taught_once(study, params, point):
    trial_id = study.journal.start(params, baseline=True)
    proposals = study.open()
    assert study.stored() == []
    proposals.tell(study.finish(trial_id, 0.8, 2.0))
    for _ in range(2):
        study.open()
    (stored,) = study.stored()
    assert (stored.state, stored.params, stored.values) == (STATES.COMPLETE, point, [0.8, 2.0])


def test_a_baseline_that_ended_just_before_a_death_is_taught_at_the_next_start(study):
    study.finish(study.journal.start({"optimizer": "sam"}, baseline=True), 0.8, 2.0)
    for _ in range(2):
        study.open()
        assert [stored.state for stored in study.stored()] == [STATES.COMPLETE]


@pytest.mark.parametrize(
    ("params", "state"),
    [
        ({"optimizer": "sgd"}, "complete"),
        ({"optimizer": "sam", "rho": 3.0}, "complete"),
        ({"optimizer": "sam"}, "failed"),
        ({"optimizer": "sam"}, "pruned"),
    ],
)
def test_a_baseline_without_a_place_or_a_result_is_not_taught(study, params, state):
    study.finish(study.journal.start(params, baseline=True), 0.8, 1.0, state)
    study.open()
    assert study.stored() == []


def test_a_proposal_holds_only_what_its_optimizer_reads(tmp_path):
    search = {
        "optimizer": {"choices": ["sgd", "sam", "esam"]},
        "beta": {"choices": [0.5, 0.75]},
        "rho": {"low": 0.01, "high": 1.0, "log": True},
        "batch_size": {"low": 16, "high": 64},
        "lr": 0.1,
    }
    study = Study(tmp_path, search=search, trials=30)
    proposals = study.open()
    proposed = [proposals.ask(index, str(index))[1] for index in range(15)]
    assert {params["optimizer"] for params in proposed} == {"sgd", "sam", "esam"}
    for params in proposed:
        assert isinstance(params["batch_size"], int)
        assert params["lr"] == 0.1
        assert ("rho" in params) == (params["optimizer"] != "sgd")
        assert ("beta" in params) == (params["optimizer"] == "esam")
        assert params.get("beta", 0.5) in (0.5, 0.75)


def test_a_lost_storage_is_made_anew_from_the_journal(undisturbed, study):
    for index in range(5):
        study.run(index)
    study.path.unlink()
    proposals = study.open()
    assert [t.state for t in study.stored()] == [STATES.COMPLETE] * 5
    assert [study.run(5, proposals), study.run(6)] == undisturbed[5:7]
    assert [t.state for t in study.stored()] == [STATES.COMPLETE] * 7


def test_an_older_copy_of_the_storage_is_brought_up_to_date(undisturbed, study):
    for index in range(2):
        study.run(index)
    copy = study.path.read_bytes()
    for index in range(2, 5):
        study.run(index)
    study.path.write_bytes(copy)
    for _ in range(2):
        proposals = study.open()
        ids = [t.user_attrs["esam_tune.trial_id"] for t in study.stored()]
        assert ids == ["0000", "0001", "0002", "0003", "0004"]
    assert study.run(5, proposals) == undisturbed[5]


def test_every_trial_is_added_in_its_own_state_and_ends_once(study):
    study.finish(study.journal.start({"optimizer": "sam"}, baseline=True), 0.7, 2.0)
    for state in ("pruned", "failed"):
        study.run(0, state=state)
    proposals = study.open()
    number, params = proposals.ask(2, study.journal.next_id)
    running = study.journal.start(params, number=number)
    study.path.unlink()
    proposals = study.open()
    states = [STATES.COMPLETE, STATES.PRUNED, STATES.FAIL, STATES.RUNNING]
    assert [t.state for t in study.stored()] == states
    assert {key: params[key] for key in SEARCHED} == study.stored()[3].params
    # The trial goes on, and is told by its id: what number it had is past.
    for _ in range(2):
        proposals.tell(study.finish(running, 0.8, 1.5))
    assert [t.state for t in study.stored()] == [*states[:3], STATES.COMPLETE]
    assert study.stored()[3].values == [0.8, 1.5]


def test_a_stored_trial_of_another_setting_is_not_taken_for_the_journal_s(study):
    proposals = study.open()
    proposals.ask(0, study.journal.next_id)
    # The copy was made before this proposal was dropped and another one became the trial.
    study.finish(study.journal.start({"optimizer": "esam", "rho": 0.5}, number=1), 0.8, 1.5)
    study.open()
    first, second = study.stored()
    assert first.state == STATES.FAIL
    assert (second.state, second.params["rho"]) == (STATES.COMPLETE, 0.5)
