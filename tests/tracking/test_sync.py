"""``esam-tune sync``: what is unsent arrives, at the study's server or at another."""

import json

import pytest
from conftest import esam_tune
from mlflow_double import MlflowDouble, serving
from ports import free_port
from shipped_study import ShippedStudy, files_with, write_folder

from esam_tune.cli import main
from esam_tune.tracking import spool


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(spool, "_POLL_SECONDS", 0.01)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def storage(tmp_path):
    return tmp_path / "runs"


def written(storage, uri, **started):
    study = ShippedStudy(write_folder(storage), uri, tracking_uri=uri)
    study.write_all()
    return study


def sync(capsys, storage, *arguments):
    code = main(["sync", "small", "--storage", str(storage), "--json", *arguments])
    return code, json.loads(capsys.readouterr().out)


def test_a_study_that_never_reached_its_server_does_so_now(storage, capsys):
    double = MlflowDouble()
    with serving(double) as uri:
        study = written(storage, uri)
        events = len(study.study.path.read_text().splitlines())
        code, document = sync(capsys, storage)
        assert (code, document["arrived"], document["problem"]) == (0, True, None)
        assert (document["sent"], document["unsent"], document["refused"]) == (events, 0, [])
        assert (document["study"], document["tracking_uri"]) == ("small", uri)
        assert double.runs[document["parent_run_id"]]["name"] == "small"
        first = double.snapshot()
        assert sync(capsys, storage)[1]["sent"] == 0
        assert double.snapshot() == first
        assert main(["sync", "small", "--storage", str(storage)]) == 0
        said = capsys.readouterr().out
        assert said == f"nothing new to send: MLflow at {uri} has all of small\n"


def test_a_server_that_is_down_is_a_failure_and_no_traceback(storage, capsys):
    uri = f"http://127.0.0.1:{free_port()}"
    study = written(storage, uri)
    code, document = sync(capsys, storage)
    assert code == 1
    assert document["arrived"] is False
    assert document["unsent"] == len(study.study.path.read_text().splitlines())
    assert "Failed to establish" in document["problem"]
    assert main(["sync", "small", "--storage", str(storage)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert "try again later" in said.err


def test_a_record_that_is_refused_is_named_and_tried_again(storage, capsys):
    double = MlflowDouble()

    def trouble(name, body):
        values = [metric["value"] for metric in body.get("metrics", [])]
        return 400 if name == "runs/log-batch" and 0.9 in values else None

    double.trouble = trouble
    with serving(double) as uri:
        written(storage, uri)
        code, document = sync(capsys, storage)
        assert (code, document["unsent"], document["problem"]) == (1, 0, None)
        assert [(r["event"], r["trial_id"]) for r in document["refused"]] == [("epoch", "0004")] * 2
        assert all("made trouble" in refused["answer"] for refused in document["refused"])
        assert main(["sync", "small", "--storage", str(storage)]) == 1
        assert "refuses epoch of trial 0004" in capsys.readouterr().err
        double.trouble = lambda name, body: None
        assert sync(capsys, storage)[0] == 0
    assert ("val_accuracy", 1, 0.9) in {m[:3] for m in double.snapshot()["0004"]["metrics"]}


def test_another_server_gets_a_copy_with_a_cursor_of_its_own(storage, capsys):
    own, other = MlflowDouble(), MlflowDouble()
    with serving(own) as own_uri, serving(other) as other_uri:
        study = written(storage, own_uri)
        assert sync(capsys, storage)[0] == 0
        before = study.cursor.read_text()
        code, document = sync(capsys, storage, "--tracking-uri", other_uri)
        assert (code, document["tracking_uri"]) == (0, other_uri)
        assert study.cursor.read_text() == before
        assert len(list(study.folder.glob("tracking-*.json"))) == 1
        requests = len(other.requests)
        assert sync(capsys, storage, "--tracking-uri", other_uri)[0] == 0
    assert other.snapshot() == own.snapshot()
    assert "runs/create" not in other.requests[requests:]


def test_the_environments_server_counts_only_where_it_is_the_studys(storage, capsys, monkeypatch):
    own, other = MlflowDouble(), MlflowDouble()
    with serving(own) as own_uri, serving(other) as other_uri:
        written(storage, own_uri)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", other_uri)
        assert sync(capsys, storage)[0] == 0
    assert other.runs == {}
    assert len(own.runs) == 8


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (["smal"], "STUDY"),
        (["../small"], "STUDY"),
        (["small", "--tracking-uri", "ftp://host"], "--tracking-uri"),
        (["small", "--tracking-uri", "http://me:sec/ret@host"], "--tracking-uri"),
    ],
)
def test_wrong_input_is_one_line(storage, capsys, arguments, field):
    written(storage, "http://127.0.0.1:9")
    assert main(["sync", *arguments, "--storage", str(storage)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"esam-tune: error: {field}")
    assert "sec/ret" not in said.err


LOGIN = "user:hunter2"


def test_a_password_reaches_the_server_and_nothing_else(storage, capsys, caplog, monkeypatch):
    """Through the whole of it: a study's tracker, sync by option and environment, and trouble."""
    double = MlflowDouble(login=LOGIN)
    with serving(double) as uri:
        bare = uri.replace(f"{LOGIN}@", "")
        study = ShippedStudy(write_folder(storage), uri, tracking_uri=bare)
        study.study.start(number=0)
        assert study.ship()
        failing = ["runs/log-batch", "runs/create"]

        def trouble(name, body):
            return failing.remove(name) or 500 if name in failing else None

        double.trouble = trouble
        study.write_all()
        study.ship()
        # Without the password the server takes nothing.
        study.study.start(number=9)
        assert main(["sync", "small", "--storage", str(storage)]) == 1
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert main(["sync", "small", "--storage", str(storage)]) == 0
        by_option = esam_tune(
            "sync", "small", "--storage", storage, "--tracking-uri", uri, "--json"
        )
    assert (by_option.returncode, json.loads(by_option.stdout)["tracking_uri"]) == (0, bare)
    assert len(double.snapshot()) == 10
    # One cursor: the password makes no other server of it.
    assert not list(study.folder.glob("tracking-*"))
    printed = capsys.readouterr()
    said = printed.out + printed.err + by_option.stdout + by_option.stderr + caplog.text
    assert bare in said
    assert "does not take records" in caplog.text
    held = json.dumps(double.snapshot()) + "".join(map(str, double.artifacts.values()))
    for secret in ("hunter2", "user:"):
        assert secret not in said
        assert secret not in held
        assert files_with(storage, secret) == []
