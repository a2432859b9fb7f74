"""Trackers one after another, killed at any request, or at once: the runs are those of one."""

import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow_double import MlflowDouble, serving
from shipped_study import ShippedStudy

from esam_tune import journal
from esam_tune.tracking import spool
from esam_tune.tracking.cursor import Cursor


class Killed(BaseException):
    """As a SIGKILL: nothing that runs after it, not even what cleans up, takes effect."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(spool, "_POLL_SECONDS", 0.01)


@pytest.fixture
def study(tmp_path):
    """A whole study in a journal, and what one tracker makes of it."""
    double = MlflowDouble()
    with serving(double) as uri:
        study = ShippedStudy(tmp_path, uri)
        study.write_all()
        assert study.ship()
        study.requests = len(double.requests)
    study.whole = double.snapshot()
    study.cursor.unlink()
    return study


def shipped_up_to(study, uri, offset, cursor):
    """Ship the journal's first bytes, as a process that saw no more of it."""
    text = study.study.path.read_bytes()
    study.uri = uri
    study.study.path.write_bytes(text[:offset])
    try:
        study.tracker(cursor).ship_all()
    finally:
        study.study.path.write_bytes(text)


@settings(
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_a_journal_cut_anywhere_gives_the_same_runs(study, data):
    ends = [offset for _, offset in journal.read(study.study.path)]
    cuts = sorted(data.draw(st.sets(st.sampled_from(ends), max_size=3), label="cuts"))
    lost = data.draw(st.booleans(), label="the cursor is lost")
    study.cursor.unlink(missing_ok=True)
    double = MlflowDouble()
    with serving(double) as uri:
        for offset in cuts:
            shipped_up_to(study, uri, offset, study.cursor)
            if lost:
                study.cursor.unlink()
        shipped_up_to(study, uri, ends[-1], study.cursor)
    assert double.snapshot() == study.whole
    assert double.deleted == set()


@pytest.mark.parametrize("grown", [False, True], ids=["shorter", "longer again"])
def test_a_journal_that_lost_its_end_to_a_power_loss_is_sent_all_the_same(tmp_path, grown):
    double = MlflowDouble()
    with serving(double) as uri:
        study = ShippedStudy(tmp_path, uri)
        trial = study.study.start(number=0)
        kept = study.study.path.stat().st_size
        for epoch in (1, 2, 3):
            study.study.epoch(trial, epoch, val_accuracy=0.1 * epoch)
        assert study.ship()
        study.study.writer.close()
        with study.study.path.open("r+b") as file:
            file.truncate(kept)
        study.study.writer = journal.Journal(study.study.path)
        if grown:
            study.study.end(trial, "failed", "its machine lost power" * 20)
        study.study.trial(0.9, 1.4, number=1)
        assert study.ship()
        runs = double.snapshot()
    assert {"0000", "0001"} <= runs.keys()
    assert "0.9" in str(runs["0001"])


class KilledAfter:
    """A client whose process dies at its nth request, before or after the server took it."""

    def __init__(self, client, count, *, takes_it):
        self._client = client
        self._left = count
        self._takes_it = takes_it

    def __getattr__(self, name):
        call = getattr(self._client, name)

        def counted(*arguments, **options):
            self._left -= 1
            if self._left > 0:
                return call(*arguments, **options)
            if self._takes_it:
                call(*arguments, **options)
            raise Killed

        return counted


@pytest.mark.parametrize(
    "every", [6, pytest.param(1, marks=pytest.mark.long)], ids=["some", "each"]
)
@pytest.mark.parametrize("takes_it", [False, True], ids=["before", "after"])
def test_a_process_killed_at_any_request_sends_nothing_twice(study, monkeypatch, takes_it, every):
    connect = spool.connect
    saved = []
    for count in range(1, 200, every):
        double = MlflowDouble()
        study.cursor.unlink(missing_ok=True)
        with serving(double) as uri, monkeypatch.context() as patched:
            study.uri = uri
            patched.setattr(
                spool,
                "connect",
                lambda uri, count=count, **options: KilledAfter(
                    connect(uri, **options), count, takes_it=takes_it
                ),
            )
            # A dead process notes nothing down.
            patched.setattr(Cursor, "save", lambda *_: saved.append(1))
            try:
                study.tracker().ship_all()
                break
            except Killed:
                patched.undo()
            study.tracker().ship_all()
        assert double.snapshot() == study.whole, f"killed at request {count}"
        assert double.deleted == set()
    # The last of them came after all of a whole study's requests.
    assert 40 < count < 190


@pytest.mark.parametrize("lost", [False, True], ids=["one cursor", "the cursor goes"])
def test_trackers_at_once_take_turns(study, lost):
    double = MlflowDouble()
    with serving(double) as uri:
        study.uri = uri
        text = study.study.path.read_bytes()
        lines = text.splitlines(keepends=True)
        study.study.path.write_bytes(lines[0])
        trackers = [study.tracker() for _ in range(3)]
        for tracker in trackers:
            tracker.start()
        with study.study.path.open("ab") as file:
            for line in lines[1:]:
                file.write(line)
                file.flush()
                threading.Event().wait(0.005)
                if lost:
                    study.cursor.unlink(missing_ok=True)
        assert [tracker.close(60) for tracker in trackers] == [True] * 3
    assert double.snapshot() == study.whole
    assert double.requests.count("runs/create") == len(study.whole)
