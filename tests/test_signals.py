"""Signals that end a block, and signals that are a wish: the first is kept, the second obeyed."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import ray

from esam_tune.study import cluster
from esam_tune.study.signals import Stopped, raise_on_signals, stop_on_signals

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@BOTH
def test_a_signal_leaves_the_block_and_the_handlers_come_back(number):
    before = signal.getsignal(number)
    with pytest.raises(Stopped) as stopped, raise_on_signals():
        signal.raise_signal(number)
    assert stopped.value.signal is number
    assert signal.getsignal(number) is before


@BOTH
def test_an_error_that_a_signal_was_turned_into_is_still_the_signal(number):
    def wait():
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            raise SystemError("a result with an exception set") from None

    with pytest.raises(Stopped) as stopped, raise_on_signals():
        wait()
    assert stopped.value.signal is number


def test_what_no_signal_caused_is_left_alone():
    with pytest.raises(ValueError, match="of its own"), raise_on_signals():
        raise ValueError("of its own")


def test_a_forked_child_just_ends():
    with raise_on_signals():
        child = os.fork()
        if child == 0:
            signal.raise_signal(signal.SIGTERM)
            os._exit(0)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 143


# Only what runs something of Python's before it becomes another program has hooks of fork run.
SIGNAL_IN_A_FORK = """
import os, signal, subprocess, sys, time
from esam_tune.study.signals import Stopped, raise_on_signals
number, started = int(sys.argv[1]), []
os.register_at_fork(after_in_parent=lambda: signal.raise_signal(number))
try:
    with raise_on_signals():
        while len(started) < 3:
            started.append(subprocess.Popen(["sleep", "60"], preexec_fn=os.getpid))
            time.sleep(0.5)
finally:
    for child in started:
        child.kill()
    print(len(started))
"""


@BOTH
def test_the_start_of_a_process_is_not_left_in_its_midst(number):
    """Where a hook of fork would lose what is raised, and nobody would know of the process."""
    command = [sys.executable, "-c", SIGNAL_IN_A_FORK, str(int(number))]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.stdout == "1\n"
    assert run.stderr.endswith(f"esam_tune.study.signals.Stopped: {number!s}\n")
    assert "Exception ignored" not in run.stderr


@BOTH
def test_a_first_signal_is_noted_and_the_handlers_come_back(number):
    before = signal.getsignal(number)
    with stop_on_signals() as received:
        signal.raise_signal(number)
        assert received == [number]
    assert signal.getsignal(number) is before


TWO_SIGNALS = """
import signal
from esam_tune.study.signals import stop_on_signals
with stop_on_signals() as received:
    signal.raise_signal(signal.SIGTERM)
    print("saved", len(received), flush=True)
    signal.raise_signal(signal.SIGTERM)
    print("too late", flush=True)
"""


def test_a_second_signal_takes_its_effect_at_once():
    run = subprocess.run([sys.executable, "-c", TWO_SIGNALS], capture_output=True, text=True)
    assert run.returncode == -signal.SIGTERM
    assert run.stdout == "saved 1\n"


@pytest.mark.ray
def test_a_wait_for_ray_ends_at_the_signal():
    def wait():
        with cluster.connected(None, distributed=False):
            endless = ray.remote(lambda: time.sleep(600)).remote()
            threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
            ray.wait([endless], timeout=60)

    with pytest.raises(Stopped) as stopped, raise_on_signals():
        wait()
    assert stopped.value.signal is signal.SIGTERM
    assert not ray.is_initialized()
    # Ray's own handler would have set an alarm, which aborts this process.
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
