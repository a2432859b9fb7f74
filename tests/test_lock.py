"""The study's lock where the system has none, or one that stops at the host: beats decide."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
import time

import pytest

from esam_tune.study import lock
from esam_tune.study.lock import Held, Holder, exclusive


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lock"


@pytest.fixture
def quick(monkeypatch):
    """Beats so short that a dead holder is known within a second."""
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(lock, "_LOOK_SECONDS", 0.02)


@pytest.fixture
def no_system_lock(monkeypatch):
    """A shared file system without locks."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


def written(path, **changes):
    """A holder as another process has left it in the file."""
    holder = {**vars(Holder.here()), "token": "theirs", **changes}
    path.write_text(json.dumps(holder))
    return holder


def elsewhere(path, **changes):
    return written(path, host="far", boot="another kernel", pid=4711, started="17", **changes)


def test_a_holder_on_another_host_that_beats_keeps_others_out(path, quick):
    """Its system lock, kept to its own host, does not."""
    ended = threading.Event()

    def beat():
        count = 0
        while not ended.wait(0.1):
            count += 1
            elsewhere(path, beat=count)

    elsewhere(path)
    holder = threading.Thread(target=beat)
    holder.start()
    try:
        with pytest.raises(Held, match="process 4711 on far"), exclusive(path):
            pytest.fail("the lock was given twice")
    finally:
        ended.set()
        holder.join()
    assert json.loads(path.read_text())["token"] == "theirs"


def test_the_lock_of_a_dead_process_on_another_host_is_recovered(path, quick, caplog):
    elsewhere(path)
    begun = time.monotonic()
    with exclusive(path):
        assert time.monotonic() - begun >= 0.5
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert "took over the lock of process 4711 on far" in caplog.text


def test_a_clock_that_is_set_makes_no_holder_dead(path, quick, monkeypatch):
    """Beats are counted: what the file's times say, or either host's clock, does not matter."""
    elsewhere(path)
    os.utime(path, (0, 0))
    monkeypatch.setattr(time, "time", lambda: 4e9)
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) == 2:
            elsewhere(path, beat=1)
            os.utime(path, (0, 0))

    with pytest.raises(Held), exclusive(path, sleep):
        pytest.fail("the lock was given twice")


def test_a_holder_that_lets_go_meanwhile_makes_room_at_once(path):
    elsewhere(path)
    begun = time.monotonic()
    with exclusive(path, lambda _: path.write_text("")):
        assert time.monotonic() - begun < lock.BEAT_SECONDS


def test_the_wait_for_a_beat_ends_with_what_the_callers_sleep_raises(path):
    elsewhere(path)

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), exclusive(path, stop):
        pytest.fail("the lock was given")
    assert json.loads(path.read_text())["token"] == "theirs"


def test_without_a_system_lock_a_living_process_of_this_host_keeps_others_out(path, no_system_lock):
    command = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        written(path, pid=other.pid, started=lock._started(other.pid))
        with pytest.raises(Held, match=f"process {other.pid}"), exclusive(path):
            pytest.fail("the lock was given twice")
        other.kill()
        other.wait()
    with exclusive(path):
        pass


def test_without_a_system_lock_a_process_id_used_again_is_no_holder(path, no_system_lock):
    written(path, started="1")
    with exclusive(path):
        assert json.loads(path.read_text())["token"] != "theirs"


@pytest.mark.parametrize("left", ["4711", "", '{"token": "th'])
def test_what_a_torn_write_or_an_older_version_left_is_no_holder(path, left):
    path.write_text(left)
    with exclusive(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_the_holder_beats_and_names_nobody_when_it_lets_go(path, quick):
    with exclusive(path):
        first = json.loads(path.read_text())["beat"]
        deadline = time.monotonic() + 10
        while json.loads(path.read_text() or "{}").get("beat", first) <= first + 1:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert path.read_text() == ""


def test_a_holder_that_was_taken_for_dead_leaves_the_new_ones_name(path, quick):
    with exclusive(path):
        elsewhere(path)
        time.sleep(0.3)
        assert json.loads(path.read_text())["token"] == "theirs"
    assert json.loads(path.read_text())["token"] == "theirs"


def test_a_file_that_its_holder_removed_meanwhile_is_not_taken_for_the_lock(path, monkeypatch):
    """Else two processes would each hold a file of that name."""
    real = fcntl.flock

    def removed(descriptor, operation):
        path.unlink()
        path.touch()
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", removed)
    with pytest.raises(Held), exclusive(path):
        pytest.fail("the lock was given on a file that is gone")
