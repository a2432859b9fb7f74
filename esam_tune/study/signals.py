"""SIGINT and SIGTERM as a wish to stop, noted where work is saved on the way, or raised.

Signals reach a process' main thread alone: in another thread, which a notebook's server or a job
queue may call from, nothing is watched and no handler is touched.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

WATCHED = (signal.SIGINT, signal.SIGTERM)
# What :func:`raise_on_signals` has sent this process again, and nobody has counted yet.
REPEATED: list[int] = []

# What a second signal meets: its default effect, but where something watches over this process.
second_signals_handler: signal.Handlers | Callable[[int, FrameType | None], None] = signal.SIG_DFL

_SOON_SECONDS = 0.05
_START = subprocess.Popen.__init__.__code__


class Stopped(BaseException):
    """SIGINT or SIGTERM came; no error, and nothing that a failed run's handlers may take for one.

    Args:
        signal: which of them.
    """

    def __init__(self, signal: signal.Signals) -> None:
        super().__init__(signal)
        self.signal = signal


@contextmanager
def raise_on_signals() -> Iterator[None]:
    """Leave the block at the first SIGINT or SIGTERM; a second one ends the process.

    Raises:
        Stopped: then.
    """

    received: list[signal.Signals] = []
    owner = os.getpid()

    def leave(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            # A forked data loader, which its owner ends.
            os._exit(128 + number)
        if _starts_a_process(frame):
            threading.Timer(_SOON_SECONDS, _repeat, (number,)).start()
            return
        for name in WATCHED:
            signal.signal(name, second_signals_handler)
        received.append(signal.Signals(number))
        # The one exception that Ray's C++ waits let through.
        raise KeyboardInterrupt

    with _handled_by(leave):
        try:
            yield
        except BaseException:
            # Whatever it turned into on its way up.
            if received:
                raise Stopped(received[0]) from None
            raise


def _starts_a_process(frame: FrameType | None) -> bool:
    """Whether a frame is within the start of a process, which must not be left in its midst.

    What is raised in a hook of fork is printed and lost, and the lock that the hook was to give
    back stays taken; after the fork nobody would know of the process.
    """
    while frame is not None and frame.f_code is not _START:
        frame = frame.f_back
    return frame is not None


def _repeat(number: int) -> None:
    REPEATED.append(number)
    os.kill(os.getpid(), number)


@contextmanager
def stop_on_signals() -> Iterator[list[signal.Signals]]:
    """Collect the first SIGINT or SIGTERM; a second one ends the process at once."""
    received: list[signal.Signals] = []

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(signal.Signals(number))
        for name in WATCHED:
            signal.signal(name, second_signals_handler)

    with _handled_by(note):
        yield received


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Have the signals handled for the time of the block, where this thread can say so."""
    with handlers_put_back(*WATCHED):
        if in_main_thread():
            for name in WATCHED:
                signal.signal(name, handler)
        yield


@contextmanager
def handlers_put_back(*signals: signal.Signals) -> Iterator[None]:
    """Undo at its end what a block does to the handlers of signals, where this thread can."""
    before = {name: signal.getsignal(name) for name in signals} if in_main_thread() else {}
    try:
        yield
    finally:
        for name, earlier in before.items():
            # None is a handler that is not Python's, of an embedding program: it cannot be set.
            if earlier is not None:
                signal.signal(name, earlier)


def in_main_thread() -> bool:
    """Whether this thread may set handlers of signals."""
    return threading.current_thread() is threading.main_thread()
