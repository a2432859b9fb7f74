"""A local store is made whole or not at all, whatever ends the process that makes it."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from esam_tune.tracking.local_store import make_store
from esam_tune.tracking.store import connect, experiment, local_uri

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
        list(both.map(make_store, [uri, uri]))
    assert names_in(tmp_path) == ["mlflow.db"]
    client = connect(uri)
    assert [found.name for found in client.search_experiments()] == ["Default"]
    assert experiment(client, None) == experiment(connect(uri), None)


def test_without_links_the_store_is_made_in_its_place(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    assert experiment(connect(local_uri(tmp_path)), None)
    assert names_in(tmp_path) == ["mlflow.db"]


@pytest.mark.parametrize("uri", ["http://host:1", "sqlite:///{}/mlflow.db?mode=ro", "sqlite://"])
def test_what_is_no_file_of_its_own_is_left_to_mlflow(tmp_path, uri):
    make_store(uri.format(tmp_path))
    assert names_in(tmp_path) == []


def test_a_store_that_is_there_is_left_alone(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"as it is")
    make_store(local_uri(tmp_path))
    assert (tmp_path / "mlflow.db").read_bytes() == b"as it is"
