"""From the journal to MLflow: a real store, killed senders and servers that are away."""

import json
import threading
from contextlib import contextmanager
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml
from mlflow.server.security_utils import INVALID_HOST_MSG
from study_events import WrittenStudy, study_spec

from esam_tune import journal
from esam_tune.errors import InputError
from esam_tune.study.tracked_study import TrackedStudy
from esam_tune.tracking import spool
from esam_tune.tracking.cursor import Cursor
from esam_tune.tracking.spool import Tracker
from esam_tune.tracking.store import (
    EXPERIMENT,
    artifact_root,
    check_uri,
    connect,
    error_text,
    local_uri,
    without_credentials,
)
from esam_tune.worker_scaling import BatchSetup


class Tracked:
    """A study with a store of its own; the store is set up by the first record that is sent."""

    def __init__(self, folder):
        self.folder = folder
        self.uri = local_uri(folder)
        self.cursor = folder / "tracking.json"
        self.study = WrittenStudy(folder / "journal.jsonl", study_spec())

    def tracker(self):
        root = artifact_root(self.folder, self.uri)
        return Tracker(self.uri, root, self.study.path, self.cursor, TrackedStudy())

    def ship(self):
        tracker = self.tracker()
        tracker.start()
        arrived = tracker.close(60)
        assert not tracker._thread.is_alive()
        return arrived

    def write_trials(self):
        self.study.trial(0.7, 1.0, params={"optimizer": "sgd"}, baseline=True)
        self.study.trial(0.9, 1.4, number=0)

    def write_end(self, **content):
        table = self.folder / "front.csv"
        table.write_text("trial_id\n")
        end = {
            "state": "done",
            "artifacts": [str(table)],
            "front": ["0001"],
            "dominated": ["0000"],
            "chosen": "0001",
        }
        self.study.writer.append(journal.STUDY_END, **end | content)

    def runs(self):
        client = connect(self.uri)
        known = client.get_experiment_by_name(EXPERIMENT)
        runs = client.search_runs([known.experiment_id])
        parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
        children = {run.data.tags["esam_tune.trial_id"]: run for run in runs if run not in parents}
        assert len(parents) + len(children) == len(runs)
        (parent,) = parents
        for child in children.values():
            assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        return parent, children

    def history(self, run, key="val_accuracy"):
        history = connect(self.uri).get_metric_history(run.info.run_id, key)
        return sorted((point.step, point.value) for point in history)


@pytest.fixture
def tracked(tmp_path, empty_store, monkeypatch):
    monkeypatch.setattr(spool, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(spool, "_LONGEST_WAIT", 0.02)
    (tmp_path / "mlflow.db").write_bytes(empty_store)
    return Tracked(tmp_path)


def artifacts(run):
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    return sorted(path.name for path in folder.iterdir())


def assert_everything_arrived(tracked):
    parent, children = tracked.runs()
    assert sorted(children) == ["0000", "0001"]
    assert tracked.history(children["0000"]) == [(1, 0.7), (2, 0.7)]
    assert tracked.history(children["0001"]) == [(1, 0.9), (2, 0.9)]
    assert {run.info.status for run in (parent, *children.values())} == {"FINISHED"}
    assert artifacts(parent) == ["front.csv", "space.yaml"]


def test_a_study_is_one_parent_with_a_child_for_each_trial(tracked):
    tracked.write_trials()
    tracked.write_end()
    assert tracked.ship()
    assert_everything_arrived(tracked)
    parent, children = tracked.runs()
    assert parent.info.run_name == "small"
    assert parent.data.params["task.label_noise"] == "0.4"
    assert json.loads(parent.data.params["search.rho"])["log"] is True
    assert parent.data.params["objective.val_accuracy"] == "max"
    assert (parent.data.tags["esam_tune.kind"], parent.data.tags["chosen"]) == ("study", "0001")
    assert children["0000"].data.params == {"optimizer": "sgd"}
    assert children["0001"].data.params["beta"] == "0.6"
    kinds = {key: run.data.tags["esam_tune.kind"] for key, run in children.items()}
    assert kinds == {"0000": "baseline", "0001": "search"}
    on_front = {key: run.data.tags["pareto"] for key, run in children.items()}
    assert on_front == {"0000": "front", "0001": "front"}
    space = Path(parent.info.artifact_uri.removeprefix("file://"), "space.yaml")
    assert yaml.safe_load(space.read_text()) == tracked.study.spec.to_dict()


def test_what_the_worker_count_makes_of_a_trial_stands_beside_it_and_follows_the_count(tracked):
    settings = tracked.study.spec.settings({"optimizer": "sam", "rho": 0.1}, {})
    tracked.study.trial(0.9, 1.4, number=0)
    trial_id = tracked.study.next_id
    tracked.study.start(number=1)
    for workers in (4, 2):
        setup = asdict(BatchSetup.of(settings, workers))
        tracked.study.writer.append(journal.WORKERS, trial_id=trial_id, setup=setup)
        assert tracked.ship()
        tags = tracked.runs()[1][trial_id].data.tags
        assert {key: tags[f"esam_tune.{key}"] for key in setup} == {
            "workers": str(workers),
            "batch_size": "64",
            "rows_per_worker": str(64 // workers),
            "lr": "0.05",
            "rho": "0.1",
        }


def test_records_are_sent_while_the_study_runs(tracked):
    trial_id = tracked.study.start(number=0)
    tracked.study.epoch(trial_id, 1, val_accuracy=0.5)
    tracker = tracked.tracker()
    tracker.start()
    tracked.study.epoch(trial_id, 2, val_accuracy=0.6)
    assert tracker.close(60)
    parent, children = tracked.runs()
    assert tracked.history(children[trial_id]) == [(1, 0.5), (2, 0.6)]
    assert (parent.info.status, children[trial_id].info.status) == ("RUNNING", "RUNNING")


def test_values_that_are_not_finite_are_left_out(tracked):
    trial_id = tracked.study.start(number=0)
    tracked.study.epoch(trial_id, 1, val_accuracy=0.5, val_loss=None)
    assert tracked.ship()
    _, children = tracked.runs()
    assert tracked.history(children[trial_id]) == [(1, 0.5)]
    assert tracked.history(children[trial_id], "val_loss") == []


@pytest.mark.parametrize(
    ("state", "status"), [("complete", "FINISHED"), ("pruned", "KILLED"), ("failed", "FAILED")]
)
def test_a_trials_end_is_its_runs_end(tracked, state, status):
    reason = None if state == "complete" else "why " * 1000
    tracked.study.end(tracked.study.start(number=0), state, reason)
    assert tracked.ship()
    _, children = tracked.runs()
    run = children["0000"]
    assert (run.info.status, run.data.tags["esam_tune.state"]) == (status, state)
    assert run.info.end_time is not None
    assert ("esam_tune.reason" in run.data.tags) == (state != "complete")


def test_a_resumed_study_goes_on_in_the_same_runs(tracked):
    tracked.study.trial(0.7, 1.0, params={"optimizer": "sgd"}, baseline=True)
    trial_id = tracked.study.start(number=0)
    tracked.study.epoch(trial_id, 1, val_accuracy=0.9)
    tracked.write_end(state="interrupted", front=[], chosen=None, artifacts=[])
    assert tracked.ship()
    parent, _ = tracked.runs()
    assert parent.info.status == "KILLED"
    tracked.study.writer.append(journal.STUDY_RESUME)
    tracked.study.epoch(trial_id, 2, val_accuracy=0.9)
    assert tracked.ship()
    assert tracked.runs()[0].info.status == "RUNNING"
    tracked.study.end(trial_id)
    tracked.write_end()
    assert tracked.ship()
    assert_everything_arrived(tracked)
    assert tracked.runs()[0].info.run_id == parent.info.run_id


@pytest.mark.parametrize("kept", ["nothing", "the first half", "all but the runs"])
def test_what_is_sent_again_after_a_lost_cursor_arrives_once(tracked, kept):
    tracked.write_trials()
    tracked.write_end()
    assert tracked.ship()
    before, _ = tracked.runs()
    cursor = Cursor.load(tracked.cursor)
    assert cursor.offset == tracked.study.path.stat().st_size
    if kept == "nothing":
        tracked.cursor.unlink()
    else:
        cursor.run_ids = {}
        if kept == "the first half":
            offsets = [offset for _, offset in journal.read(tracked.study.path)]
            cursor.offset = offsets[len(offsets) // 2]
        cursor.save(tracked.cursor)
        tracked.study.writer.append(journal.STUDY_RESUME)
        tracked.write_end()
    assert tracked.ship()
    assert_everything_arrived(tracked)
    assert tracked.runs()[0].info.run_id == before.info.run_id


class Away:
    """A server that fails at the first request of each kind, before or after it has taken it."""

    def __init__(self, client, *, takes_it):
        self._client = client
        self._takes_it = takes_it
        self._failed = set()

    def __getattr__(self, name):
        call = getattr(self._client, name)

        def flaky(*arguments, **options):
            kind = (name, options.get("run_name"))
            if kind in self._failed:
                return call(*arguments, **options)
            self._failed.add(kind)
            if self._takes_it:
                call(*arguments, **options)
            raise ConnectionError(f"{name}: connection reset\nby peer")

        return flaky


@pytest.mark.parametrize("takes_it", [False, True], ids=["before", "after"])
def test_a_server_that_fails_at_every_kind_of_request_gets_everything_once(
    tracked, monkeypatch, takes_it
):
    away = Away(connect(tracked.uri), takes_it=takes_it)
    monkeypatch.setattr(spool, "connect", lambda uri, *, retries: away)
    tracked.write_trials()
    tracked.write_end()
    tracker = tracked.tracker()
    tracker.start()
    for _ in range(3000):
        if tracker.cursor.offset == tracked.study.path.stat().st_size:
            break
        threading.Event().wait(0.01)
    assert tracker.close(60)
    monkeypatch.undo()
    assert_everything_arrived(tracked)


def test_a_server_that_is_away_is_complained_about_once_and_gets_all_later(
    tracked, monkeypatch, caplog
):
    refused = threading.Semaphore(0)

    def refuse(uri, *, retries):
        refused.release()
        raise ConnectionError(f"no route to host\n{uri}")

    with monkeypatch.context() as patched:
        patched.setattr(spool, "connect", refuse)
        tracker = tracked.tracker()
        tracker.start()
        for _ in range(3):
            assert refused.acquire(timeout=30)
        tracked.write_trials()
        tracked.write_end()
        assert not tracker.close(60)
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "no route to host" in warnings[0].getMessage()
    assert "\n" not in warnings[0].getMessage()
    assert not tracked.cursor.exists()
    assert tracked.ship()
    assert_everything_arrived(tracked)


def test_a_tracker_with_nothing_new_asks_no_server(tracked, monkeypatch):
    tracked.write_trials()
    assert tracked.ship()
    monkeypatch.setattr(spool, "connect", lambda *_, **__: pytest.fail("connected"))
    assert tracked.ship()


def test_a_cursor_survives_its_file(tmp_path):
    cursor = Cursor(offset=3, parent_run_id="p", run_ids={"0000": "r"})
    cursor.save(tmp_path / "tracking.json")
    assert Cursor.load(tmp_path / "tracking.json") == cursor
    assert Cursor.load(tmp_path / "none.json") == Cursor()
    assert [path.name for path in tmp_path.iterdir()] == ["tracking.json"]


@pytest.mark.parametrize("left", ["", '{"offset": 12', "[]"], ids=["empty", "torn", "foreign"])
def test_a_cursor_that_a_crash_has_spoilt_counts_as_lost(tmp_path, left):
    (tmp_path / "tracking.json").write_text(left)
    assert Cursor.load(tmp_path / "tracking.json") == Cursor()


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://host:5000", "http://host:5000"),
        ("http://user:secret@host:5000/path", "http://host:5000/path"),
        ("https://user@host", "https://host"),
        ("postgresql://u:s@cret@host/db", "postgresql://host/db"),
        ("postgresql://host/db?user=me&password=secret", "postgresql://host/db"),
        ("sqlite:////tmp/a@b.db", "sqlite:////tmp/a@b.db"),
        ("plain", "plain"),
        ("http://me:sec/ret@host", "(a URI that cannot be read)"),
        ("http://me:pa?ss@host", "(a URI that cannot be read)"),
        ("http://me:pa#ss@host", "(a URI that cannot be read)"),
    ],
)
def test_credentials_are_left_out(uri, shown):
    assert without_credentials(uri) == shown


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("plain", "must be a http, https, postgresql, mysql or sqlite URI, got 'plain'"),
        ("ftp://host", "got 'ftp://host'"),
        ("file:///tmp/runs", "got 'file:///tmp/runs'"),
        ("http://127.0.0.1:9", "no tracking server answers at 'http://127.0.0.1:9'"),
        ("http://user:secret@127.0.0.1:9", "no tracking server answers at 'http://127.0.0.1:9'"),
        ("http://127.0.0.1:port", "got '(a URI that cannot be read)'"),
        ("http://127.0.0.1:99999", "got '(a URI that cannot be read)'"),
        ("http://[bad", "got '(a URI that cannot be read)'"),
        ("http://me:sec/ret@host", "got '(a URI that cannot be read)'"),
        ("sqlite://", "no folder for"),
        ("mysql+nothing://127.0.0.1:9/db", "needs a database driver"),
        ("sqlite:///no/such/folder/mlflow.db", "no folder for"),
        ("sqlite:////no/such/folder/mlflow.db", "no folder for"),
    ],
)
def test_a_store_that_cannot_be_reached_is_refused(uri, problem):
    with pytest.raises(InputError) as caught:
        check_uri(uri)
    assert caught.value.field == "--tracking-uri"
    assert problem in caught.value.problem
    assert "secret" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@contextmanager
def answering(health, api=(599, "")):
    """A server whose health check gives this status, and all else that status and text."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            status, text = (health, "") if self.path == "/health" else api
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *arguments):
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("status", [200, 401])
def test_a_server_passes_when_it_is_healthy_or_asks_for_a_password(status):
    with answering(status) as address:
        check_uri(address)


@pytest.mark.parametrize("status", [404, 500])
def test_a_server_that_is_not_healthy_is_refused(status):
    with (
        answering(status) as address,
        pytest.raises(InputError, match="no tracking server answers"),
    ):
        check_uri(address)


def test_a_server_that_was_not_told_its_name_is_refused():
    """MLflow says that it is healthy to anyone, and nothing else to a name it does not know."""
    with answering(200, (403, INVALID_HOST_MSG)) as address, pytest.raises(InputError) as caught:
        check_uri(address)
    assert "does not answer to the name '127.0.0.1'" in str(caught.value)
    assert "--allowed-hosts" in str(caught.value)


SECRET_URI = "http://me:hunter%2F2@127.0.0.1:9/"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (f"API request to {SECRET_URI}api failed", "API request to http://127.0.0.1:9/api failed"),
        ("asked http://me:other@proxy/x?token=abc now", "asked http://proxy/x now"),
        ("user me, password hunter/2\nmore", "user me, password "),
        ("login me:hunter%2F2@here", "login here"),
        ("", "ValueError"),
    ],
)
def test_an_error_is_told_without_the_servers_password(said, shown):
    assert error_text(ValueError(said), SECRET_URI) == shown


def test_a_server_that_is_away_is_told_without_its_password(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(spool, "_POLL_SECONDS", 0.01)
    study = WrittenStudy(tmp_path / "journal.jsonl", study_spec())
    cursor = tmp_path / "tracking.json"
    tracker = Tracker(SECRET_URI, None, study.path, cursor, TrackedStudy())
    tracker.start()
    assert not tracker.close(60)
    (line,) = [r.getMessage() for r in caplog.records if "does not take records" in r.msg]
    assert "127.0.0.1:9" in line.partition("(")[2]
    assert "hunter" not in line


def test_a_database_file_that_can_be_made_passes(tmp_path):
    check_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert list(tmp_path.iterdir()) == []


def test_only_the_storages_own_store_keeps_its_artifacts_there(tmp_path):
    assert local_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    assert artifact_root(tmp_path, local_uri(tmp_path)) == tmp_path / "mlartifacts"
    assert artifact_root(tmp_path, "http://host") is None
