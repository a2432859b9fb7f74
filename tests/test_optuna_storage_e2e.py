"""A study whose proposals live in PostgreSQL, run, stopped early and resumed as a user would."""

import json
import subprocess

import optuna
import pytest
from conftest import command_line, environment, write_space
from postgresql import PASSWORD
from study_events import WrittenStudy, study_spec

from esam_tune.errors import InputError
from esam_tune.study.optuna_storage import check_optuna_storage, open_optuna_storage
from esam_tune.study.proposals import Proposals


@pytest.mark.e2e
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_a_study_in_postgresql_stops_trials_early_and_goes_on(tmp_path, database):
    space = write_space(
        tmp_path,
        training={"epochs": 4, "batch_size": 256, "lr": 0.05},
        early_stopping={"kind": "pareto", "grace_epochs": 1, "eta": 2},
        baselines=[{"label": "SGD", "optimizer": "sgd"}],
        trials=4,
    )

    def sweep(*arguments):
        done = subprocess.run(
            command_line("sweep", space, "--storage", tmp_path / "runs", "--json", *arguments),
            capture_output=True,
            text=True,
            timeout=400,
            env=environment(),
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert PASSWORD not in done.stderr + done.stdout
        return json.loads(done.stdout)

    first = sweep("--optuna-storage", database)
    second = sweep("--optuna-storage", database, "--resume", "--trials", "8")
    states = {t["trial_id"]: t["state"] for t in second["trials"]}
    assert len(states) == 9
    assert [t["trial_id"] for t in second["trials"] if t["baseline"]] == ["0000"]
    assert states["0000"] == "complete"
    # Of eight, one in two goes on at each of two rungs.
    stopped = [trial_id for trial_id, state in states.items() if state == "pruned"]
    assert 2 <= len(stopped) <= 6
    assert set(second["front"]).isdisjoint(stopped)
    assert all(states[t["trial_id"]] == t["state"] for t in first["trials"])
    for trial in second["trials"]:
        if trial["state"] == "pruned":
            assert trial["reason"].startswith("stopped after epoch")
            assert trial["metrics"]["epoch"] in (1, 2)

    (name,) = [n for n in optuna.get_all_study_names(database) if n.startswith("tiny-")]
    stored = optuna.load_study(study_name=name, storage=database).get_trials()
    told = {"complete": "COMPLETE", "pruned": "PRUNED"}
    assert {t.user_attrs["esam_tune.trial_id"]: t.state.name for t in stored} == {
        trial_id: told[state] for trial_id, state in states.items() if trial_id != "0000"
    }
    kept = [p for p in (tmp_path / "runs").rglob("*") if p.is_file()]
    assert kept
    assert not [p for p in kept if PASSWORD.encode() in p.read_bytes()]
    assert not (tmp_path / "runs" / "tiny" / "optuna.db").exists()


@pytest.mark.e2e
def test_proposals_in_postgresql_outlive_their_process(tmp_path, database):
    spec = study_spec()
    study = WrittenStudy(tmp_path / "journal.jsonl", spec)

    def opened():
        proposals = Proposals(database, spec, study_name="small-a1b2")
        proposals.settle(study.record())
        return proposals

    number, params = opened().ask(0, "0000")
    trial_id = study.start(params, number=number)
    study.epoch(trial_id, 2, val_accuracy=0.9, step_flops_ratio=1.5)
    study.end(trial_id)
    # This process asks and dies before its proposal is recorded; the first one died before telling.
    lost = opened().ask(1, "0001")
    proposals = opened()
    assert proposals.ask(1, "0001")[1] == lost[1]
    stored = optuna.load_study(study_name="small-a1b2", storage=database).get_trials()
    assert [t.state.name for t in stored] == ["COMPLETE", "FAIL", "RUNNING"]
    assert stored[0].values == [0.9, 1.5]
    assert "died before use" in stored[1].user_attrs["esam_tune.turned_down"]


@pytest.mark.e2e
def test_a_database_that_refuses_is_named_without_its_password(database):
    wrong = database.replace(PASSWORD, "wrong-password")
    check_optuna_storage(wrong)
    with pytest.raises(InputError) as error:
        open_optuna_storage(wrong)
    assert error.value.field == "--optuna-storage"
    assert "authentication failed" in str(error.value)
    assert "wrong-password" not in str(error.value)
