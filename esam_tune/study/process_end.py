"""The end of a command's process with all that it has started, where an orderly end does not come.

Ray's processes outlive a driver that just dies: some notice it late, those that are only starting
much later. Handlers of Python's cannot see to it, as they run in the main thread, which may be
within C++ for good: the signals are read from a pipe, in a thread.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from esam_tune.study import signals
from esam_tune.study.signals import REPEATED, WATCHED, in_main_thread

_PATIENCE_SECONDS = 5.0
_OVER, _LOOK = b"\xff", b"\0"  # no signals' numbers


class _Watch(threading.Thread):
    """Ends the process at a second signal, or where the first one is not obeyed in time."""

    def __init__(self) -> None:
        super().__init__(daemon=True, name="signals")
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.writing, False)
        self.first: int | None = None
        self._due: float | None = None

    def expect_end(self, expected: bool) -> None:
        """Say whether a signal is to end what goes on now within seconds."""
        self._due = time.monotonic() + _PATIENCE_SECONDS if expected else None
        os.write(self.writing, _LOOK)

    def stop(self) -> None:
        """End the watch itself."""
        os.write(self.writing, _OVER)
        self.join()
        os.close(self.writing)
        os.close(self.reading)

    def run(self) -> None:
        """Read signals until the watch is over."""
        while True:
            # Until a signal has come there is no hurry.
            due = None if self.first is None else self._due
            left = None if due is None else max(0.0, due - time.monotonic())
            if not select.select([self.reading], [], [], left)[0]:
                assert self.first is not None
                _end(self.first, f"{_name(self.first)} ended the command while Ray started")
            received = os.read(self.reading, 1)
            if received == _OVER:
                return
            number = received[0]
            if number not in WATCHED:
                continue
            if REPEATED:
                REPEATED.pop()
            elif self.first is not None:
                _end(number, f"{_name(number)} came as the second signal: ended at once")
            else:
                self.first = number
                if self._due is not None:
                    self._due = time.monotonic() + _PATIENCE_SECONDS


_watch: _Watch | None = None


def _forget_in_child() -> None:
    """A forked child's signals are none of this process'."""
    if _watch is not None:
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_forget_in_child)


@contextmanager
def process_of_a_command() -> Iterator[None]:
    """Say that the process is a command's own, which signals may end, unlike a notebook's.

    The first one is for handlers; the second one ends it at once, with all that it has started.
    """
    global _watch
    if _watch is not None or not in_main_thread() or not Path("/proc/self/stat").exists():
        yield
        return
    REPEATED.clear()
    _watch = _Watch()
    before = signal.set_wakeup_fd(_watch.writing, warn_on_full_buffer=False)
    signals.second_signals_handler = _leave_it_to_the_watch
    _watch.start()
    try:
        yield
    finally:
        signals.second_signals_handler = signal.SIG_DFL
        signal.set_wakeup_fd(before)
        _watch.stop()
        _watch = None


def _leave_it_to_the_watch(_number: int, _frame: FrameType | None) -> None:
    pass


@contextmanager
def ended_by_a_signal() -> Iterator[None]:
    """Have a signal end a block within seconds, and in a command all that was started in it.

    For a block in which nothing is worth saving. The handler around it raises; where that is lost,
    in C++ or in a hook of fork, a command's process ends a few seconds later.
    """
    watch = _watch
    if watch is None:
        yield
        return
    watch.expect_end(True)
    try:
        yield
    except BaseException as error:
        # Others may have made another error of what the handler raised.
        if isinstance(error, KeyboardInterrupt) or watch.first is not None:
            _stop_what_started()
        raise
    finally:
        watch.expect_end(False)


def _stop_what_started() -> None:
    """End Ray where it is up, and what of it is not yet known to it."""
    import ray

    # Ray's C++, where it has heard of SIGTERM, lets an alarm abort the process in three seconds.
    signal.alarm(0)
    ray.shutdown()
    kill_descendants(os.getpid())


def _name(number: int) -> str:
    return signal.Signals(number).name


def _end(number: int, why: str) -> None:
    """End this process and all that it has started, now."""
    message = f"esam-tune: {why}\n"
    # Whom nobody listens to ends all the same.
    with suppress(OSError, ValueError):
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, message.encode())
    kill_descendants(os.getpid())
    os._exit(128 + number)


def children() -> set[int]:
    """Process ids of what this process has started, and what runs still; none but on Linux."""
    if not Path("/proc/self/stat").exists():
        return set()
    return {pid for pid, parent in _parents().items() if parent == os.getpid()}


def kill_with_descendants(pid: int) -> None:
    """SIGKILL to a process, and to all that it has started, on Linux."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    kill_descendants(pid)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_descendants(ancestor: int) -> None:
    """SIGKILL to all that a process has started, and to all that those have, on Linux.

    Each is halted before it is asked for its own: what is halted starts nothing more.
    """
    halted: set[int] = set()
    while found := _descendants(ancestor) - halted:
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        halted |= found
    for pid in halted:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _parents() -> dict[int, int]:
    """Of each process that has not ended."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            # It may end while it is looked at.
            with suppress(OSError):
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
                if state != "Z":
                    parents[int(folder.name)] = int(parent)
    return parents


def _descendants(ancestor: int) -> set[int]:
    parents = _parents()
    found: set[int] = set()
    level = {ancestor}
    while level := {pid for pid, parent in parents.items() if parent in level}:
        found |= level
    return found
