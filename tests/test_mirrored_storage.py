"""What Optuna's storage in memory writes through, and what the next process reads of it."""

import optuna
import pytest
from optuna.trial import TrialState

from esam_tune.study.mirrored_storage import MirroredStorage

NAME = "mirrored"


class CountedStorage(optuna.storages.RDBStorage):
    """A database that counts the reads and writes of its trials."""

    def __init__(self, url):
        super().__init__(url)
        self.asked = []

    def __getattribute__(self, name):
        if name.startswith(("set_trial", "create_new_trial", "get_trial", "get_all_trials")):
            object.__getattribute__(self, "asked").append(name)
        return object.__getattribute__(self, name)


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/optuna.db"


def opened(stored, sampler=None):
    return optuna.create_study(
        study_name=NAME,
        storage=MirroredStorage(stored),
        directions=["maximize", "minimize"],
        sampler=sampler,
        load_if_exists=True,
    )


def sampled(study, note="kept"):
    trial = study.ask()
    x = trial.suggest_float("x", 0, 1)
    trial.suggest_categorical("kind", ["a", "b"])
    trial.set_user_attr("note", note)
    return trial, x


def facts(trial):
    return (
        trial.number,
        trial.state,
        trial.values,
        trial.params,
        trial.distributions,
        trial.user_attrs,
        trial.system_attrs,
    )


def all_facts(study):
    return [facts(trial) for trial in study.get_trials()]


def test_the_storage_holds_what_memory_holds_after_each_proposal_and_end(url):
    study = opened(optuna.storages.RDBStorage(url))
    read = optuna.load_study(study_name=NAME, storage=url)
    for index in range(6):
        trial, x = sampled(study)
        assert all_facts(read) == all_facts(study)
        trial.set_constraint("cost", x - 0.5)
        if index % 3 == 2:
            study.tell(trial.number, state=TrialState.FAIL)
        else:
            study.tell(trial.number, [x, 1 - x])
        assert all_facts(read) == all_facts(study)
    study.add_trial(
        optuna.trial.create_trial(
            values=[0.5, 0.5],
            params={"x": 0.5},
            distributions={"x": optuna.distributions.FloatDistribution(0, 1)},
        )
    )
    assert len(read.get_trials()) == 7
    assert all_facts(read) == all_facts(study)


def test_the_next_process_reads_all_of_it_and_goes_on(url):
    study = opened(optuna.storages.RDBStorage(url))
    for _ in range(3):
        trial, x = sampled(study)
        study.tell(trial.number, [x, 1 - x])
    running, _ = sampled(study)
    study._storage.set_study_system_attr(study._study_id, "generation", [0, 2])
    again = opened(optuna.storages.RDBStorage(url))
    assert all_facts(again) == all_facts(study)
    assert again._storage.get_study_system_attrs(again._study_id) == {"generation": [0, 2]}
    assert [trial._trial_id for trial in again.get_trials()] == [0, 1, 2, 3]
    again.tell(running.number, [0.1, 0.2])
    stored = optuna.load_study(study_name=NAME, storage=url).get_trials()
    assert stored[3].values == [0.1, 0.2]


def test_a_proposal_that_dies_while_it_is_sampled_leaves_nothing(url):
    study = opened(optuna.storages.RDBStorage(url))
    study.ask().suggest_float("x", 0, 1)
    assert optuna.load_study(study_name=NAME, storage=url).get_trials() == []


def test_sampling_reads_nothing_and_writes_a_trial_twice(url):
    stored = CountedStorage(url)
    study = opened(stored, optuna.samplers.TPESampler(seed=0, n_startup_trials=2))
    for _ in range(5):
        trial, x = sampled(study)
        study.tell(trial.number, [x, 1 - x])
    stored.asked.clear()
    trial, x = sampled(study)
    study.tell(trial.number, [x, 1 - x])
    assert stored.asked == ["create_new_trial", "set_trial_state_values"]


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: optuna.samplers.TPESampler(seed=seed, n_startup_trials=3),
        lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=4),
        lambda seed: optuna.samplers.RandomSampler(seed=seed),
    ],
)
def test_samplers_propose_what_they_would_of_the_database_itself(url, tmp_path, make):
    def proposed(storage):
        study = optuna.create_study(
            study_name=NAME, storage=storage, directions=["maximize", "minimize"]
        )
        found = []
        for seed in range(9):
            study.sampler = make(seed)
            trial, x = sampled(study)
            found.append(trial.params)
            study.tell(trial.number, [x, 1 - x])
        return found

    mirrored = MirroredStorage(optuna.storages.RDBStorage(url))
    assert proposed(mirrored) == proposed(f"sqlite:///{tmp_path}/other.db")


def test_a_study_that_is_written_anew_keeps_its_numbers(url):
    study = opened(optuna.storages.RDBStorage(url))
    for _ in range(3):
        trial, x = sampled(study)
        study.tell(trial.number, [x, 1 - x])
    trials, storage = study.get_trials(), study._storage
    optuna.delete_study(study_name=NAME, storage=storage)
    anew = optuna.create_study(study_name=NAME, storage=storage, directions=study.directions)
    anew.add_trials(trials)
    assert [trial._trial_id for trial in anew.get_trials()] == [0, 1, 2]
    assert all_facts(optuna.load_study(study_name=NAME, storage=url)) == all_facts(anew)
