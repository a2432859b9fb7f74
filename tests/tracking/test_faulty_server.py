"""A server that is down, slow, wrong or fussy: the study goes on, and everything arrives once."""

import threading
import time

import pytest
from mlflow_double import MlflowDouble, serving, wait_until
from shipped_study import ShippedStudy, write_artifacts

from esam_tune.tracking import spool


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(spool, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(spool, "_LONGEST_WAIT", 0.02)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")


@pytest.fixture
def double():
    return MlflowDouble()


@pytest.fixture
def study(tmp_path, double):
    with serving(double) as uri:
        yield ShippedStudy(tmp_path, uri)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What a server without trouble holds of each study, whose times differ."""

    def snapshot(study):
        double = MlflowDouble()
        folder = tmp_path_factory.mktemp("undisturbed")
        with serving(double) as uri:
            other = ShippedStudy(folder, uri)
            other.study.path.write_bytes(study.study.path.read_bytes())
            write_artifacts(folder)
            assert other.ship()
        return double.snapshot()

    return snapshot


def first_time(trouble):
    """Trouble at the first request of each kind."""
    seen = set()

    def choose(name, body):
        kind = (name, body.get("run_name"), body.get("key"), str(body.get("tags"))[:40])
        if kind in seen:
            return None
        seen.add(kind)
        return trouble

    return choose


@pytest.mark.parametrize("trouble", [500, 503, 429, 401, "lost"])
def test_each_kind_of_request_may_fail_once(study, double, undisturbed, trouble):
    study.write_all()
    double.trouble = first_time(trouble)
    tracker = study.tracker()
    tracker.start()
    wait_until(lambda: tracker.cursor.offset == study.study.path.stat().st_size)
    # What failed three times in a row, each time in another request, is left to the next process.
    assert tracker.close(60) or study.ship()
    assert double.snapshot() == undisturbed(study)


def test_a_server_that_hangs_holds_up_nothing_but_its_own_records(study, double, undisturbed):
    double.trouble = lambda name, body: "hang"
    tracker = study.tracker()
    tracker.start()
    started = time.monotonic()
    study.write_all()
    assert not tracker.close(0.5)
    # The study's part: it writes to its journal and leaves, whatever the server does.
    assert time.monotonic() - started < 5
    double.trouble = lambda name, body: None
    double.free()
    tracker._thread.join(30)
    assert study.ship()
    assert double.snapshot() == undisturbed(study)


def test_a_run_that_is_made_late_is_found_and_one_made_twice_removed(study, double, undisturbed):
    late = []

    def trouble(name, body):
        if name == "runs/create" and body["run_name"] == "SGD" and not late:
            late.append(name)
            return "late"
        return None

    double.trouble = trouble
    study.write_all()
    tracker = study.tracker()
    tracker.start()
    wait_until(lambda: tracker.cursor.offset == study.study.path.stat().st_size)
    assert double.requests.count("runs/create") == 8
    double.free()
    wait_until(lambda: double.requests.count("runs/create") == 9)
    assert tracker.close(60)
    assert len(double.deleted) == 1
    assert double.snapshot() == undisturbed(study)


def is_poison(name, body):
    """Whether it is the batch with the first epoch of the study's best trial."""
    points = [(m["value"], int(m["step"])) for m in body.get("metrics", [])]
    return name == "runs/log-batch" and (0.9, 1) in points


@pytest.mark.parametrize("answer", [400, 413, 500, "hang"])
def test_a_batch_that_is_refused_keeps_back_nothing_else(
    study, double, undisturbed, answer, caplog
):
    double.trouble = lambda name, body: answer if is_poison(name, body) else None
    study.write_all()
    tracker = study.tracker()
    tracker.start()
    wait_until(lambda: tracker.cursor.offset == study.study.path.stat().st_size)
    assert not tracker.close(60)
    whole, found = undisturbed(study), double.snapshot()
    lacking = [m for m in whole["0004"]["metrics"] if m not in found["0004"]["metrics"]]
    keys = ("epoch", "step_flops_ratio", "val_accuracy")
    assert [point[:2] for point in lacking] == [(key, 1) for key in keys]
    whole["0004"]["metrics"] = [m for m in whole["0004"]["metrics"] if m not in lacking]
    assert found == whole
    assert sum("refuses a record" in record.msg for record in caplog.records) == 1
    assert [event["event"] for event, _ in tracker.set_aside()] == ["epoch"]
    double.trouble = lambda name, body: None
    double.free()
    again = study.tracker()
    again.ship_all()
    assert again.arrived
    assert double.snapshot() == undisturbed(study)


@pytest.mark.parametrize("answer", [400, 500])
def test_a_run_that_is_refused_is_made_later_with_all_that_belongs_to_it(
    study, double, undisturbed, answer
):
    def trouble(name, body):
        return answer if name == "runs/create" and body["run_name"].startswith("ESAM") else None

    double.trouble = trouble
    study.write_all()
    tracker = study.tracker()
    tracker.start()
    wait_until(lambda: tracker.cursor.offset == study.study.path.stat().st_size)
    assert not tracker.close(60)
    assert sorted(double.snapshot()) == ["", "0000"]
    assert double.snapshot()[""]["status"] == "FINISHED"
    double.trouble = lambda name, body: None
    again = study.tracker()
    again.ship_all()
    assert again.arrived
    assert double.snapshot() == undisturbed(study)


def test_a_server_that_can_only_be_read_is_waited_for(study, double, undisturbed):
    """Nothing is set aside while all writes fail: that is no verdict on any of them."""
    broken = threading.Event()
    study.study.trial(0.7, 1.0, params={"optimizer": "sgd"}, baseline=True)
    assert study.ship()
    double.trouble = lambda name, body: (
        500 if broken.is_set() and name not in ("runs/search", "experiments/get-by-name") else None
    )
    broken.set()
    study.study.trial(0.9, 1.4, number=0)
    tracker = study.tracker()
    tracker.start()
    tried = len(double.requests)
    wait_until(lambda: len(double.requests) > tried + 20)
    assert tracker.cursor.set_aside == {}
    broken.clear()
    wait_until(lambda: tracker.cursor.offset == study.study.path.stat().st_size)
    assert tracker.close(60)
    assert double.snapshot() == undisturbed(study)


def test_a_server_that_has_lost_its_database_gets_everything_again(study, double, undisturbed):
    study.study.trial(0.7, 1.0, params={"optimizer": "sgd"}, baseline=True)
    assert study.ship()
    double.runs.clear()
    double.experiments.clear()
    study.study.trial(0.9, 1.4, number=0)
    assert study.ship()
    assert double.snapshot() == undisturbed(study)


def test_a_run_that_its_owner_deleted_stays_deleted(study, double):
    study.study.trial(0.7, 1.0, params={"optimizer": "sgd"}, baseline=True)
    assert study.ship()
    (run_id,) = (i for i, run in double.runs.items() if run["name"] != "small")
    double.deleted.add(run_id)
    study.study.trial(0.9, 1.4, number=0)
    assert not study.ship()
    assert sorted(double.snapshot()) == ["", "0001"]


def test_a_slow_server_is_left_after_the_time_a_study_gives_it(study, double):
    double.trouble = lambda name, body: time.sleep(0.2)
    study.write_all()
    tracker = study.tracker()
    tracker.start()
    started = time.monotonic()
    assert not tracker.close(0.5)
    assert time.monotonic() - started < 2
    double.trouble = lambda name, body: None
    tracker._thread.join(30)
    assert tracker.arrived
