"""A final training's run while it goes on, sent from a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from esam_tune.tracking.final import ENDED, TimedMetrics, TrainingStart, log_epochs, open_run
from esam_tune.tracking.store import (
    REASON_TAG,
    connect,
    error_text,
    log_tags,
    without_credentials,
)

_log = logging.getLogger(__name__)

_POLL_SECONDS = 2.0
_LONGEST_WAIT = 60.0
# Most time for the last word of a training that was ended: a signal has ten seconds in all.
_LAST_WORD_SECONDS = 5.0


class LiveRun:
    """Shows a training's epochs in MLflow as they end.

    What does not arrive is no loss: a training that is done sends all of it, and one that goes on
    begins with what there is. So a server that is slow or away is told of once, and a training that
    ends within seconds does not ask it at all.

    As a context it says how the training was ended, where it did not come to its own end.

    Args:
        uri: of the tracking server or store.
        artifact_root: where artifacts go, or None for the server's own choice.
        start: of the training.
        epochs: that earlier processes reported.
    """

    def __init__(
        self,
        uri: str,
        artifact_root: Path | None,
        start: TrainingStart,
        epochs: Iterable[TimedMetrics] = (),
    ) -> None:
        self._uri = uri
        self._artifact_root = artifact_root
        self._start = start
        self._waiting = list(epochs)
        self._run_id: str | None = None
        self._client: Any = None
        self._resting = threading.Event()
        # How the run ends, and why; None where it does not end here.
        self._verdict: tuple[str, str] | None = None
        self._thread: threading.Thread | None = None

    def add(self, metrics: TimedMetrics) -> None:
        """Take an epoch in. The first one begins the run: what fails before leaves none."""
        self._waiting.append(metrics)
        if self._thread is None:
            # A local store that is missing is made now, where a signal ends that in good order.
            with suppress(Exception):
                self._client = connect(self._uri)
            self._thread = self._started()

    def rest(self) -> None:
        """Send nothing more: whoever sends the whole of it now is to be alone with the server."""
        self._resting.set()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> LiveRun:
        """Begin."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Have a last word where an error, or a signal, ends the training."""
        if error is None:
            self.rest()
        elif self._thread is not None:
            failed = isinstance(error, Exception)
            reason = error_text(error, self._uri) if failed else "interrupted"
            self._verdict = ("FAILED" if failed else "KILLED", reason)
            self._resting.set()
            if not self._thread.is_alive():
                self._thread = self._started()
            self._thread.join(_LAST_WORD_SECONDS)

    def _started(self) -> threading.Thread:
        thread = threading.Thread(target=self._loop, name="live-run", daemon=True)
        thread.start()
        return thread

    def _loop(self) -> None:
        wait, complained = _POLL_SECONDS, False
        while True:
            closing = self._resting.wait(wait)
            if closing and self._verdict is None:
                return
            try:
                self._send()
                wait = _POLL_SECONDS
            except Exception as error:  # noqa: BLE001 - tracking must never end a training
                if not complained:
                    _log.warning(
                        "MLflow at %s does not take the training's epochs (%s); they are kept, and "
                        "sent again in the end",
                        without_credentials(self._uri),
                        error_text(error, self._uri),
                    )
                complained = True
                wait = min(2 * wait, _LONGEST_WAIT)
            if closing:
                return

    def _send(self) -> None:
        if self._client is None:
            self._client = connect(self._uri)
        if self._run_id is None:
            run = open_run(self._client, self._artifact_root, self._start)
            self._run_id = str(run.info.run_id)
        count = len(self._waiting)
        log_epochs(self._client, self._run_id, self._waiting[:count])
        del self._waiting[:count]
        if self._verdict is not None and not self._complete(self._run_id):
            status, reason = self._verdict
            log_tags(self._client, self._run_id, {REASON_TAG: reason})
            end = int(time.time() * 1000)
            self._client.set_terminated(self._run_id, status, end_time=end)

    def _complete(self, run_id: str) -> bool:
        """Whether what ends the process came after the run's own end."""
        return bool(self._client.get_run(run_id).info.status == ENDED)
