"""The time in which Ray starts or connects: whose signals are heard, and how they end it."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from esam_tune.study.signals import REPEATED, WATCHED, in_main_thread

_PATIENCE_SECONDS = 5.0
_OVER = b"\0"  # no signal's number

_of_a_command: ContextVar[bool] = ContextVar("of_a_command", default=False)


@contextmanager
def process_of_a_command() -> Iterator[None]:
    """Say that the process is a command's own, which a signal may end, unlike a notebook's."""
    token = _of_a_command.set(True)
    try:
        yield
    finally:
        _of_a_command.reset(token)


@contextmanager
def no_handler_of_rays() -> Iterator[None]:
    """Leave SIGTERM to whom it was while Ray starts or connects.

    Ray's own handler would wait until the node is drained and then raise SystemExit wherever the
    process is: in a hook of fork, say, where it goes unnoticed and leaves a lock held for good.
    """
    from ray._private import utils

    def keep(_handler: object) -> None:
        pass

    installs = utils.set_sigterm_handler
    utils.set_sigterm_handler = keep
    try:
        yield
    finally:
        utils.set_sigterm_handler = installs


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Have a signal end the block, in which Ray starts, and in a command all that has started.

    The handler around it raises. Where that is lost, in a hook of fork or while the main thread
    waits in C++, nothing would come of it before Ray is up, which takes long on a busy machine: a
    thread, which reads the signals from a pipe, then ends the process a few seconds later, or at
    the second one.
    """
    if not (_of_a_command.get() and in_main_thread() and Path("/proc/self/stat").exists()):
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    came = threading.Event()
    REPEATED.clear()
    watch = threading.Thread(target=_end_if_it_does_not, args=(reading, came), daemon=True)
    watch.start()
    try:
        yield
    except BaseException as error:
        # Ray may have made another error of what the handler raised.
        if isinstance(error, KeyboardInterrupt) or came.is_set():
            _stop_what_started()
        raise
    finally:
        os.write(writing, _OVER)
        signal.set_wakeup_fd(before)
        watch.join()
        os.close(writing)
        os.close(reading)


def _stop_what_started() -> None:
    """End Ray where it is up, and what of it is not yet known to it."""
    import ray

    ray.shutdown()
    kill_descendants(os.getpid())


def _end_if_it_does_not(reading: int, came: threading.Event) -> None:
    """Wait for a signal, and then for the block's end or a second signal, or not so long."""
    if (number := _next(reading)) is None:
        return
    came.set()
    if _next(reading, _PATIENCE_SECONDS) is None:
        return
    message = f"esam-tune: {signal.Signals(number).name} ended the command while Ray started\n"
    # Whom nobody listens to ends all the same.
    with suppress(OSError, ValueError):
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, message.encode())
    kill_descendants(os.getpid())
    os._exit(128 + number)


def _next(reading: int, seconds: float | None = None) -> int | None:
    """The next signal that ends things, 0 when it takes longer, None when the block is over."""
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not select.select([reading], [], [], left)[0]:
            return 0
        received = os.read(reading, 1)
        if received == _OVER:
            return None
        if received[0] in WATCHED:
            if REPEATED:
                REPEATED.pop()
                continue
            return received[0]


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


def _descendants(ancestor: int) -> set[int]:
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            # It may end while it is looked at.
            with suppress(OSError):
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
                if state != "Z":
                    parents[int(folder.name)] = int(parent)
    found: set[int] = set()
    level = {ancestor}
    while level := {pid for pid, parent in parents.items() if parent in level}:
        found |= level
    return found
