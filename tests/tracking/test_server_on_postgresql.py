"""A study on MLflow's own server with PostgreSQL behind it, started as docs/clusters.md says."""

import json
from pathlib import Path

import pytest
from conftest import esam_tune
from mlflow_server import MlflowServer
from postgresql import PASSWORD
from stored_study import EPOCHS, store_study

from esam_tune.tracking.store import connect

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module")
def server(tmp_path_factory, database):
    folder = tmp_path_factory.mktemp("server")
    backend = database.replace("postgresql://", "postgresql+psycopg://")
    with MlflowServer(folder, backend) as server:
        yield server


def test_a_study_arrives_once_and_is_read_back(tmp_path, server):
    folder = store_study(tmp_path / "runs")

    def sync():
        answer = esam_tune(
            *("sync", folder.name, "--storage", folder.storage, "--json"),
            *("--tracking-uri", server.uri),
        )
        assert answer.returncode == 0, answer.stderr
        return json.loads(answer.stdout)

    document = sync()
    assert (document["arrived"], document["unsent"], document["refused"]) == (True, 0, [])
    assert document["tracking_uri"] == server.uri
    client = connect(server.uri)
    parent = client.get_run(document["parent_run_id"])
    assert (parent.info.status, parent.info.run_name) == ("FINISHED", "browsed")
    assert parent.info.artifact_uri.startswith("mlflow-artifacts:")
    kept = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"space.yaml", "front.png", "front.csv", "chosen.yaml"} <= kept

    # What the server hands out is what the study wrote, through the server and not from a folder.
    fetched = Path(client.download_artifacts(parent.info.run_id, "chosen.yaml", str(tmp_path)))
    assert fetched.read_text() == (folder.path / "chosen.yaml").read_text()

    trials = folder.record().trials

    def children():
        found = client.search_runs(
            [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
        )
        return {run.data.tags["esam_tune.trial_id"]: run for run in found}

    runs = children()
    assert runs.keys() == trials.keys()
    for trial_id, trial in trials.items():
        history = client.get_metric_history(runs[trial_id].info.run_id, "val_accuracy")
        assert [point.step for point in sorted(history, key=lambda p: p.step)] == list(
            range(1, trial.epochs + 1)
        )
        assert runs[trial_id].data.metrics["val_accuracy"] == trial.metrics["val_accuracy"]
        for key, value in trial.params.items():
            assert runs[trial_id].data.params[key] == str(value)
    assert {trial.epochs for trial in trials.values()} == {4, EPOCHS}

    assert sync()["sent"] == 0
    assert {key: run.to_dictionary() for key, run in children().items()} == {
        key: run.to_dictionary() for key, run in runs.items()
    }


def test_the_databases_password_is_in_no_process_list_and_no_log(server):
    listed = [Path(f"/proc/{number}/cmdline").read_bytes() for number in server.processes]
    assert len(listed) > 1
    assert not [line for line in listed if PASSWORD.encode() in line]
    assert PASSWORD not in (server.folder / "server.log").read_text()
