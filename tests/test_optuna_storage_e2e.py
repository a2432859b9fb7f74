"""A study whose proposals live in PostgreSQL, run, stopped early and resumed as a user would."""

import json
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import optuna
import pytest
from conftest import command_line, environment, write_space
from study_events import WrittenStudy, study_spec

from esam_tune.errors import InputError
from esam_tune.study.optuna_storage import check_optuna_storage, open_optuna_storage
from esam_tune.study.proposals import Proposals

SERVERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
PASSWORD = "not-for-logs"


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A server of its own on loopback, with a user who needs a password."""
    if not SERVERS or not shutil.which("runuser"):
        pytest.skip("needs PostgreSQL's server (apt-get install postgresql) and runuser")
    pytest.importorskip("psycopg")
    folder = tmp_path_factory.mktemp("postgres")
    if os.getuid() == 0:
        # The server refuses to run as root, and its own user must be able to reach its folder.
        shared = Path(tempfile.gettempdir())
        for path in (folder, *folder.parents):
            if path != shared and path.is_relative_to(shared):
                path.chmod(0o755)
    as_server = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    data, port = folder / "data", free_port()
    data.mkdir()
    (folder / "password").write_text(PASSWORD)
    if as_server:
        shutil.chown(data, "postgres")
        shutil.chown(folder / "password", "postgres")

    def run(program, *arguments):
        subprocess.run(
            [*as_server, SERVERS[-1] / program, *arguments],
            check=True,
            cwd=data,
            timeout=120,
            stdout=subprocess.DEVNULL,
        )

    run(
        "initdb",
        "-D",
        data,
        "-U",
        "tuner",
        "-A",
        "scram-sha-256",
        "--no-sync",
        "--pwfile",
        folder / "password",
    )
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
    run("pg_ctl", "-D", data, "-w", "-l", data / "log", "-o", options, "start")
    try:
        yield f"postgresql://tuner:{PASSWORD}@127.0.0.1:{port}/postgres"
    finally:
        run("pg_ctl", "-D", data, "-m", "immediate", "stop")


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
