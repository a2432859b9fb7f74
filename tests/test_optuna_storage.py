"""Optuna storages by URL: which are taken, and that errors about them show no credentials."""

import os
import socket

import pytest
from study_events import study_spec

from esam_tune.errors import InputError
from esam_tune.study import optuna_storage
from esam_tune.study.optuna_storage import check_optuna_storage
from esam_tune.study.proposals import Proposals


@pytest.mark.parametrize("scheme", ["journal", "sqlite"])
def test_a_file_by_url_keeps_a_study(tmp_path, scheme):
    url = f"{scheme}:///{tmp_path}/study file"
    check_optuna_storage(url)
    first = Proposals(url, study_spec(), study_name="small-a1b2")
    number, params = first.ask(0, "0000")
    again = Proposals(url, study_spec(), study_name="small-a1b2")
    # What was tried is known to whoever opens it again.
    assert number == 0
    assert again.ask(0, "0001")[1] != params
    # Another storage's study of the same name is another study.
    other = Proposals(url, study_spec(), study_name="small-c3d4")
    assert other.ask(0, "0000") == (0, params)


# Nothing listens on the discard port of a machine's own loopback.
CLOSED_PORT = 9


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("study.db", "must be a postgresql"),
        ("redis://user:secret@localhost", "must be a postgresql"),
        ("postgresql://user:sec@ret@[host/database", "must be a postgresql"),
        ("journal:////no/such/folder/file", "no folder"),
        ("sqlite://user:secret@host/file", "no folder"),
        ("sqlite:///:memory:", "would not outlast"),
        ("postgresql://user:secret@/database?host=/no/such/folder", "no database server"),
        ("mysql+nosuch://user:secret@localhost/database", "driver"),
        (f"postgresql://user:secret@127.0.0.1:{CLOSED_PORT}/database", "no database server"),
        ("postgresql://user:secret@127.0.0.1/database?port=abc", "no database server"),
        ("postgresql://user:secret@127.0.0.1/database?port=99999", "no database server"),
        ("postgresql://user:secret@a..b/database", "no database server"),
        ("user:secret@127.0.0.1/database", "must be a postgresql"),
        ("journal:////", "no folder"),
        ("journal:////dev/zero", "names no file"),
        ("sqlite:////tmp", "names no file"),
    ],
)
def test_a_storage_that_cannot_be_used_is_refused(url, problem):
    if problem == "no database server":
        pytest.importorskip("psycopg")
    with pytest.raises(InputError) as error:
        check_optuna_storage(url)
    assert error.value.field == "--optuna-storage"
    assert problem in str(error.value)
    assert "sec" not in str(error.value).replace("seconds", "")


@pytest.mark.parametrize("name", ["a%20b", "a b"])
def test_a_journals_url_means_the_same_file_when_checked_and_when_opened(tmp_path, name):
    (tmp_path / "a b").mkdir()
    url = f"journal:///{tmp_path}/{name}/study%2Elog"
    check_optuna_storage(url)
    Proposals(url, study_spec(), study_name="small-a1b2").ask(0, "0000")
    assert [path.name for path in (tmp_path / "a b").iterdir()] == ["study.log"]
    with pytest.raises(InputError, match="no folder"):
        check_optuna_storage(f"journal:///{tmp_path}/a%2520b/study.log")


def test_a_server_that_listens_on_a_socket_of_this_machine_is_found_there(tmp_path, monkeypatch):
    monkeypatch.setattr(optuna_storage, "_require_driver", lambda *_: None)
    # Paths of sockets are short, and a temporary folder's may not be.
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(".s.PGSQL.5433")
        server.listen()
        folder = f"/proc/self/fd/{os.open(tmp_path, os.O_RDONLY)}"
        check_optuna_storage(f"postgresql://user@/database?host={folder}&port=5433")
