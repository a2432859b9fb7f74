"""SIGINT and SIGTERM as a wish to stop, noted where work is saved on the way, or raised."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_WATCHED = (signal.SIGINT, signal.SIGTERM)


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
    """Leave the block at the first SIGINT or SIGTERM; a second one takes its default effect.

    Raises:
        Stopped: then.
    """

    received: list[signal.Signals] = []
    owner = os.getpid()

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        if os.getpid() != owner:
            # A forked data loader, which its owner ends.
            os._exit(128 + number)
        for name in _WATCHED:
            signal.signal(name, signal.SIG_DFL)
        received.append(signal.Signals(number))
        # The one exception that Ray's C++ waits let through.
        raise KeyboardInterrupt

    before = {name: signal.signal(name, leave) for name in _WATCHED}
    try:
        yield
    except BaseException:
        # Whatever it turned into on its way up.
        if received:
            raise Stopped(received[0]) from None
        raise
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


@contextmanager
def stop_on_signals(
    received: list[signal.Signals] | None = None,
) -> Iterator[list[signal.Signals]]:
    """Collect the first SIGINT or SIGTERM; a second one takes its default effect at once.

    Args:
        received: of an outer block, to go on collecting into it after something else, such as
            Ray's start, has put handlers of its own in place.
    """
    received = [] if received is None else received

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(signal.Signals(number))
        for name in _WATCHED:
            signal.signal(name, signal.SIG_DFL)

    before = {name: signal.signal(name, note) for name in _WATCHED}
    try:
        yield received
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
