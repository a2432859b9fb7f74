"""SIGINT and SIGTERM as a wish to stop, not as an exception in the middle of something."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


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
    watched = (signal.SIGINT, signal.SIGTERM)

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(signal.Signals(number))
        for name in watched:
            signal.signal(name, signal.SIG_DFL)

    before = {name: signal.signal(name, note) for name in watched}
    try:
        yield received
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
