"""One study that asks for all of the search at once, through the real Ray and Optuna."""

import json

import optuna
import pytest
from conftest import esam_tune, journal_events, write_space
from study_events import WrittenStudy

from esam_tune.study.space import load_space

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.slow]

SEARCH = {
    "sampler": "known_cost",
    "trials": 6,
    "training": {"epochs": 4, "batch_size": 256, "lr": 0.05},
    "early_stopping": {"kind": "pareto", "grace_epochs": 1, "eta": 2},
    "constraints": {"step_flops_ratio": "<= 1.9"},
    "seeds": 2,
}
BUDGET = SEARCH["trials"]
# Settings that an earlier study tried, with their accuracy and cost.
EARLIER = [((0.5, 0.5, 0.1), 0.6, 1.66), ((0.9, 0.4, 0.5), 0.7, 1.7), ((0.4, 0.8, 0.05), 0.5, 1.8)]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The study's document, journal and what Optuna's database holds."""
    folder = tmp_path_factory.mktemp("search")
    storage = folder / "storage"
    spec = load_space(write_space(folder, **{**SEARCH, "seeds": 1}))
    earlier = WrittenStudy(storage / "earlier" / "journal.jsonl", spec)
    for (beta, gamma, rho), accuracy, cost in EARLIER:
        params = {"optimizer": "esam", "beta": beta, "gamma": gamma, "rho": rho}
        earlier.trial(accuracy, cost, params=params)
    space = write_space(folder, **SEARCH)
    run = esam_tune("sweep", space, "--storage", storage, "--warm-start", "earlier", "--json")
    assert run.returncode == 0, run.stderr
    url = f"sqlite:///{storage / 'tiny' / 'optuna.db'}"
    (name,) = optuna.get_all_study_names(url)
    told = optuna.load_study(study_name=name, storage=url).trials
    return json.loads(run.stdout), journal_events(storage, "tiny"), told


def searched(document):
    return [trial for trial in document["trials"] if not trial["baseline"]]


def test_the_budget_is_kept_and_baselines_are_beside_it(found):
    document, _, _ = found
    assert len(searched(document)) == BUDGET
    baselines = [trial for trial in document["trials"] if trial["baseline"]]
    assert [(t["label"], t["state"]) for t in baselines] == [
        ("SGD", "complete"),
        ("SAM", "complete"),
    ]


def test_some_are_stopped_early_and_none_of_them_is_on_the_front(found):
    document, events, _ = found
    states = {trial["trial_id"]: trial["state"] for trial in document["trials"]}
    stopped = {name for name, state in states.items() if state == "pruned"}
    assert stopped
    assert not stopped & set(document["front"])
    for name in stopped:
        epochs = [
            e["metrics"]["epoch"] for e in events if e["event"] == "epoch" and e["trial_id"] == name
        ]
        assert epochs == list(range(1, len(epochs) + 1))
        assert len(epochs) in (1, 2)


def test_what_breaks_a_constraint_is_not_started_or_not_on_the_front(found):
    document, _, _ = found
    assert all(trial["metrics"]["step_flops_ratio"] <= 1.9 for trial in searched(document))
    (sam,) = [trial for trial in document["trials"] if trial["label"] == "SAM"]
    assert sam["metrics"]["step_flops_ratio"] > 1.9
    assert sam["infeasible"] == ["step_flops_ratio <= 1.9"]
    assert sam["trial_id"] not in document["front"]
    assert document["chosen"]["trial_id"] != sam["trial_id"]


def test_each_complete_setting_has_its_seeds(found):
    document, events, _ = found
    further = [(e["of"], e["seed"]) for e in events if e["event"] == "replicate_start"]
    complete = [t["trial_id"] for t in document["trials"] if t["state"] == "complete"]
    assert sorted(further) == [(name, 1) for name in sorted(complete)]


def test_optuna_holds_the_earlier_study_and_what_became_of_each_trial(found):
    document, _, told = found
    warm = [t for t in told if "esam_tune.warm_start" in t.user_attrs]
    assert sorted(tuple(t.params[k] for k in ("beta", "gamma", "rho")) for t in warm) == sorted(
        setting for setting, _, _ in EARLIER
    )
    own = {t.user_attrs.get("esam_tune.trial_id"): t.state.name for t in told if t not in warm}
    expected = {t["trial_id"]: t["state"].upper() for t in searched(document)}
    assert {name: own[name] for name in expected} == expected
    assert "RUNNING" not in own.values()
