"""A local store is made whole or not at all, whatever ends the process that makes it."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from ports import free_port

from esam_tune.tracking.local_store import prepare_store
from esam_tune.tracking.store import artifact_root, connect, experiment, local_uri
from esam_tune.tracking.ui import serve_ui

MAKE = """
import sys
from esam_tune.tracking.store import connect
connect(sys.argv[1]).search_experiments()
"""


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_process_killed_while_it_makes_the_store_leaves_none_that_is_half_made(tmp_path):
    uri = local_uri(tmp_path)
    process = subprocess.Popen([sys.executable, "-c", MAKE, uri])
    deadline = time.monotonic() + 120
    # In the middle: some of the tables are there.
    while not [p for p in tmp_path.rglob("mlflow.db") if p.stat().st_size > 100_000]:
        assert process.poll() is None, "it was over too soon"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "mlflow.db").exists()
    (left,) = tmp_path.iterdir()
    os.utime(left, (time.time() - 3600,) * 2)
    # It goes on where nothing was, and what the dead one left goes with it.
    assert experiment(connect(uri), None)
    assert names_in(tmp_path) == ["mlflow.db"]


def test_where_two_make_it_both_have_the_same(tmp_path):
    uri = local_uri(tmp_path)
    with ThreadPoolExecutor(2) as both:
        list(both.map(prepare_store, [uri, uri]))
    assert names_in(tmp_path) == ["mlflow.db"]
    client = connect(uri)
    assert [found.name for found in client.search_experiments()] == ["Default"]
    assert experiment(client, None) == experiment(connect(uri), None)


def artifacts_of(storage):
    """Run id -> what its artifact says, as MLflow finds it; and the experiment's address."""
    client = connect(local_uri(storage))
    known = client.get_experiment_by_name("esam-tune")
    runs = client.search_runs([known.experiment_id])
    read = {}
    for run in runs:
        with tempfile.TemporaryDirectory() as scratch:
            fetched = client.download_artifacts(run.info.run_id, "said.txt", scratch)
            read[run.info.run_id] = Path(fetched).read_text()
    return read, known.artifact_location


def say(storage, text):
    """Log an artifact into the storage's own store."""
    uri = local_uri(storage)
    client = connect(uri)
    run = client.create_run(experiment(client, artifact_root(storage, uri)))
    client.log_text(run.info.run_id, text, "said.txt")
    return run.info.run_id


def test_runs_of_a_storage_that_was_moved_or_copied_have_their_artifacts(tmp_path):
    there, moved, copied = (tmp_path / name for name in ("a", "b c", "d"))
    there.mkdir()
    run_id = say(there, "first")
    there.rename(moved)
    assert artifacts_of(moved) == ({run_id: "first"}, (moved / "mlartifacts/esam-tune").as_uri())
    shutil.copytree(moved, copied)
    added = say(copied, "second")
    assert artifacts_of(copied)[0] == {run_id: "first", added: "second"}
    assert artifacts_of(moved)[0] == {run_id: "first"}
    assert len([*moved.rglob("said.txt")]) == 1


def test_what_a_moved_storage_has_yet_to_log_is_logged_there(tmp_path):
    """A training has a run from its start on, and its first artifact at its end."""
    there, moved = tmp_path / "a", tmp_path / "b"
    there.mkdir()
    uri = local_uri(there)
    run = connect(uri).create_run(experiment(connect(uri), artifact_root(there, uri)))
    there.rename(moved)
    connect(local_uri(moved)).log_text(run.info.run_id, "late", "said.txt")
    assert artifacts_of(moved)[0] == {run.info.run_id: "late"}
    assert not there.exists()


def test_the_networks_of_a_moved_storage_are_found(tmp_path):
    there, moved = tmp_path / "a", tmp_path / "b"
    there.mkdir()
    client = connect(local_uri(there))
    known = experiment(client, artifact_root(there, local_uri(there)))
    model = client.create_logged_model(known, name="net")
    client.create_registered_model("net")
    client.create_model_version("net", f"{model.artifact_location}/weights")
    there.rename(moved)
    client = connect(local_uri(moved))
    location = client.get_logged_model(model.model_id).artifact_location
    assert location.startswith((moved / "mlartifacts").as_uri())
    assert client.get_model_version("net", "1").source == f"{location}/weights"


def test_the_ui_shows_a_moved_storages_artifacts(tmp_path, monkeypatch):
    there, moved = tmp_path / "a", tmp_path / "b"
    there.mkdir()
    run_id = say(there, "seen")
    there.rename(moved)
    uri = local_uri(moved)

    def become(*_):
        with closing(sqlite3.connect(moved / "mlflow.db")) as database:
            (address,) = database.execute(
                "SELECT artifact_uri FROM runs WHERE run_uuid = ?", (run_id,)
            ).fetchone()
        assert address.startswith((moved / "mlartifacts").as_uri())
        raise SystemExit

    monkeypatch.setattr(os, "execv", become)
    with pytest.raises(SystemExit):
        serve_ui(uri, artifact_root(moved, uri), "127.0.0.1", free_port())


@pytest.mark.parametrize("where", ["{}/elsewhere", "s3://bucket/mlartifacts/esam-tune"])
def test_only_what_lay_beside_the_store_is_looked_for_there(tmp_path, where):
    (tmp_path / "mlartifacts").mkdir()
    address = where.format(tmp_path.as_uri())
    client = connect(local_uri(tmp_path))
    client.create_experiment("esam-tune", artifact_location=address)
    known = connect(local_uri(tmp_path)).get_experiment_by_name("esam-tune")
    assert known.artifact_location == address


def test_a_store_that_cannot_be_written_now_is_left_to_mlflow(tmp_path):
    there, moved = tmp_path / "a", tmp_path / "b"
    there.mkdir()
    say(there, "held")
    there.rename(moved)
    with closing(sqlite3.connect(moved / "mlflow.db")) as holder:
        holder.execute("BEGIN IMMEDIATE")
        prepare_store(local_uri(moved))
        holder.rollback()
    assert artifacts_of(moved)[1] == (moved / "mlartifacts/esam-tune").as_uri()


def test_without_links_the_store_is_made_in_its_place(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    assert experiment(connect(local_uri(tmp_path)), None)
    assert names_in(tmp_path) == ["mlflow.db"]


@pytest.mark.parametrize("uri", ["http://host:1", "sqlite:///{}/mlflow.db?mode=ro", "sqlite://"])
def test_what_is_no_file_of_its_own_is_left_to_mlflow(tmp_path, uri):
    prepare_store(uri.format(tmp_path))
    assert names_in(tmp_path) == []


def test_a_store_that_is_there_is_left_alone(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"as it is")
    prepare_store(local_uri(tmp_path))
    assert (tmp_path / "mlflow.db").read_bytes() == b"as it is"
