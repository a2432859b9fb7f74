"""Waiting for a storage that is full or gone, so that a study of days outlives it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from esam_tune.errors import RunFailedError

_log = logging.getLogger(__name__)

PATIENCE_SECONDS = 600.0
_AGAIN_SECONDS = 0.5
# Shares and old disks take a while now and then: of less nobody need hear.
_SLOW_SECONDS = 5.0


class StoragePatience:
    """Tries to write until a storage takes it; trials wait meanwhile with what they report.

    Args:
        place: of the storage, for messages.
        on_wait: called several times a second while it waits; may raise to end the wait.
        seconds: the longest wait. Later attempts after one that was as long are not repeated.
    """

    def __init__(
        self, place: str, on_wait: Callable[[], None], seconds: float = PATIENCE_SECONDS
    ) -> None:
        self._place = place
        self._on_wait = on_wait
        self._seconds = seconds
        self._called_slow = False

    def __call__(self, attempt: Callable[[], None]) -> None:
        """Run an attempt, again as long as it raises an OSError.

        Raises:
            RunFailedError: when the storage did not come back in time.
        """
        begun = time.monotonic()
        waiting = False
        while True:
            started = time.monotonic()
            try:
                attempt()
            except OSError as error:
                problem = error.strerror or str(error)
            else:
                if waiting:
                    _log.warning("%s takes records again; the study goes on", self._place)
                self._tell_slow(time.monotonic() - started)
                return
            if time.monotonic() - begun >= self._seconds:
                self._seconds = 0.0
                raise RunFailedError(
                    f"cannot write to {self._place} ({problem}); what was reported is kept: see to "
                    "the disk, then go on with --resume"
                )
            if not waiting:
                waiting = True
                _log.warning(
                    "cannot write to %s (%s); the study waits for it up to %.0f minutes",
                    self._place,
                    problem,
                    self._seconds / 60,
                )
            self._on_wait()
            time.sleep(_AGAIN_SECONDS)

    def _tell_slow(self, seconds: float) -> None:
        """Say once of a storage that it is slow."""
        if seconds >= _SLOW_SECONDS and not self._called_slow:
            self._called_slow = True
            _log.warning("%s took %.0f s for a record; trials wait for it", self._place, seconds)
