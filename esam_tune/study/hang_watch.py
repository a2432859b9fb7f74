"""Which running trials have hung: those that have said nothing for too long."""

from __future__ import annotations

import time
from collections.abc import Callable

# A driver that was held up itself, by a full disk or a stopped process, has heard nobody
# meanwhile: of a longer gap between two looks no more than this counts.
_LONGEST_GAP_SECONDS = 10.0


class HangWatch:
    """Counts each run's silence by the time in which somebody listened.

    Args:
        limit: seconds of silence after which a run has hung.
        clock: seconds from any point, never going back.
    """

    def __init__(self, limit: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self._clock = clock
        self._looked = clock()
        self._listened = 0.0
        self._heard: dict[str, float] = {}

    def heard(self, run_id: str) -> None:
        """A run has started or reported."""
        self._heard[run_id] = self._listened

    def ended(self, run_id: str) -> None:
        """A run is over, or waits to be started again."""
        self._heard.pop(run_id, None)

    def look(self) -> list[str]:
        """The runs that have hung; to be asked every few seconds at least."""
        now = self._clock()
        self._listened += min(now - self._looked, _LONGEST_GAP_SECONDS)
        self._looked = now
        return [run_id for run_id, at in self._heard.items() if self._listened - at > self.limit]
