"""Signals that an orderly end does not answer: a command ends, and all that it has started."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import write_space
from study_events import WrittenStudy

from esam_tune import sweep
from esam_tune.cli import main
from esam_tune.study import process_end
from esam_tune.study.signals import Stopped, raise_on_signals, stop_on_signals
from esam_tune.study.space import load_space

# A start that no handler of Python's can end: the main thread waits in C for a lock it holds.
STUCK = """
import ctypes, subprocess, sys, threading
from contextlib import nullcontext
from esam_tune.study import process_end
from esam_tune.study.signals import raise_on_signals

process_end._PATIENCE_SECONDS = float(sys.argv[2])
of_a_command = process_end.process_of_a_command if sys.argv[1] == "command" else nullcontext
child = "import subprocess, sys, time\\n"
child += "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid,"
child += " flush=True)\\ntime.sleep(600)"
with of_a_command(), raise_on_signals(), process_end.ended_by_a_signal():
    started = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE, text=True)
    pids, lock = (started.pid, int(started.stdout.readline())), ctypes.create_string_buffer(64)
    wait = ctypes.CDLL(None).pthread_mutex_lock
    # By then it waits.
    threading.Timer(0.5, print, pids, {"flush": True}).start()
    wait(lock)
    wait(lock)
"""

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


def runs(pid):
    """Whether a process has not ended; one that nobody has waited for has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def ends(pid, seconds=20):
    deadline = time.monotonic() + seconds
    while runs(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not runs(pid)


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def sleeper():
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])


def what_is_ended(monkeypatch):
    """Ray, and the processes whose descendants are killed, in turn; truly nothing is."""
    ended = []
    monkeypatch.setattr("ray.shutdown", lambda: ended.append("Ray"))
    monkeypatch.setattr(process_end, "kill_descendants", ended.append)
    return ended


@contextmanager
def stuck(of_whom, patience):
    """A process whose start is stuck, and the ids of its child and of that one's child."""
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, of_whom, str(patience)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    started = [int(pid) for pid in process.stdout.readline().split()]
    try:
        assert all(runs(pid) for pid in started)
        yield process, started
    finally:
        process.kill()
        for pid in filter(runs, started):
            os.kill(pid, signal.SIGKILL)
        process.communicate()


@BOTH
def test_a_start_that_cannot_be_broken_off_ends_with_all_it_started(number):
    with stuck("command", 0.2) as (process, started):
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 128 + number
        assert errors == f"esam-tune: {number.name} ended the command while Ray started\n"
        assert all(ends(pid) for pid in started)


def test_a_second_signal_ends_all_at_once():
    with stuck("command", 600) as (process, started):
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 128 + signal.SIGTERM
        assert errors == "esam-tune: SIGTERM came as the second signal: ended at once\n"
        assert all(ends(pid) for pid in started)


def test_a_process_that_is_not_a_commands_is_left_alone():
    with stuck("notebook", 0.2) as (process, started):
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
        assert all(runs(pid) for pid in started)


@BOTH
@pytest.mark.parametrize("turned_into", [None, SystemError, RuntimeError])
def test_a_start_that_is_broken_off_takes_with_it_what_has_started(
    monkeypatch, number, turned_into
):
    """Even where what the handler raised is another error by the time it comes out."""
    ended = what_is_ended(monkeypatch)

    def begin():
        threading.Timer(0.1, os.kill, (os.getpid(), number)).start()
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            time.sleep(0.3)
            if turned_into is None:
                raise
            raise turned_into("a result with an exception set") from None

    with (
        pytest.raises(Stopped) as stopped,
        process_end.process_of_a_command(),
        raise_on_signals(),
        process_end.ended_by_a_signal(),
    ):
        begin()
    assert stopped.value.signal is number
    assert ended == ["Ray", os.getpid()]


def test_an_error_of_its_own_ends_nothing_else(monkeypatch):
    ended = what_is_ended(monkeypatch)
    with (
        pytest.raises(ValueError, match="of its own"),
        process_end.process_of_a_command(),
        process_end.ended_by_a_signal(),
    ):
        raise ValueError("of its own")
    assert not ended


def signal_while_ray_starts(monkeypatch, number):
    """Have a signal come while Ray starts; what is ended then, as :func:`what_is_ended`."""

    def init(**_):
        signal.raise_signal(number)
        pytest.fail("it went on")

    monkeypatch.setattr("ray.init", init)
    return what_is_ended(monkeypatch)


def contents(folder):
    """Of a study's folder; the file of its lock stays, as that is taken again."""
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "lock"}


@BOTH
@pytest.mark.parametrize("resumed", [False, True])
def test_a_sweep_ends_and_keeps_what_there_was(tmp_path, monkeypatch, capsys, number, resumed):
    space, storage = write_space(tmp_path), tmp_path / "storage"
    folder = storage / "tiny"
    if resumed:
        WrittenStudy(folder / "journal.jsonl", load_space(space))
    before = contents(folder)
    handlers = [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
    ended = signal_while_ray_starts(monkeypatch, number)
    arguments = ["sweep", str(space), "--storage", str(storage), *["--resume"][: int(resumed)]]
    assert main(arguments) == 128 + number
    said = f"{number.name} ended it before anything had begun that could be kept"
    assert capsys.readouterr().err.splitlines()[-1] == f"esam-tune: {said}"
    assert ended == ["Ray", os.getpid(), "Ray"]
    assert contents(folder) == before
    assert folder.exists() == resumed
    assert [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)] == handlers


def test_a_notebook_hears_of_it(tmp_path, monkeypatch):
    space, storage = write_space(tmp_path), tmp_path / "storage"
    ended = signal_while_ray_starts(monkeypatch, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="SIGINT ended the study before its first trial"):
        sweep(space, storage=storage)
    assert ended == ["Ray"]
    assert not (storage / "tiny").exists()


def test_without_signals_nothing_is_left_of_the_watch():
    threads, files = threading.active_count(), open_files()
    with process_end.process_of_a_command():
        with process_end.ended_by_a_signal():
            assert threading.active_count() == threads + 1
        with process_end.process_of_a_command():
            assert threading.active_count() == threads + 1
    assert threading.active_count() == threads
    assert open_files() == files
    assert signal.set_wakeup_fd(-1) == -1


def until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)


@BOTH
def test_where_work_is_saved_the_first_signal_may_take_its_time(monkeypatch, number):
    ended = what_is_ended(monkeypatch)
    monkeypatch.setattr(process_end, "_PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(os, "_exit", ended.append)
    with process_end.process_of_a_command(), stop_on_signals() as stop:
        with process_end.ended_by_a_signal():
            pass
        signal.raise_signal(number)
        time.sleep(0.3)
        assert stop == [number]
        assert not ended
        signal.raise_signal(number)
        until(lambda: len(ended) == 2)
        assert ended == [os.getpid(), 128 + number]
        # Of Python's handlers the first alone heard of it.
        assert stop == [number]


def test_a_forked_childs_signals_are_its_own(monkeypatch):
    ended, leave = what_is_ended(monkeypatch), os._exit
    monkeypatch.setattr(os, "_exit", ended.append)
    with process_end.process_of_a_command(), stop_on_signals() as stop:
        child = os.fork()
        if child == 0:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            leave(0)
        os.waitpid(child, 0)
        time.sleep(0.3)
        assert not ended
        assert not stop


def test_another_signal_ends_nothing(monkeypatch):
    ended = what_is_ended(monkeypatch)
    monkeypatch.setattr(process_end, "_PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(os, "_exit", ended.append)
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        with process_end.process_of_a_command(), process_end.ended_by_a_signal():
            signal.raise_signal(signal.SIGUSR1)
            signal.raise_signal(signal.SIGUSR1)
            time.sleep(0.3)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not ended


def test_what_others_started_is_not_killed():
    mine = sleeper()
    with stuck("notebook", 0.2) as (process, started):
        process_end.kill_descendants(process.pid)
        assert all(ends(pid) for pid in started)
        assert runs(process.pid)
        assert runs(mine.pid)
    mine.kill()
    mine.wait()
