"""The journal's way to MLflow: in a thread of its own, resumable, nothing twice.

A server that is slow, away or refuses something delays the pictures, never the study.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

from esam_tune import journal
from esam_tune.journal import Event
from esam_tune.tracking.cursor import Cursor, turn
from esam_tune.tracking.runs import NoRunError, StudyRuns
from esam_tune.tracking.store import BATCH, connect, error_text, without_credentials
from esam_tune.tracking.view import View

_log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_LONGEST_WAIT = 30.0
_VIEW_SECONDS = 30.0
_SECOND_CHANCE_SECONDS = 600.0
# Attempts at one request, while the server takes others, before it is set aside.
_PATIENCE = 3
# Events between two notes of how far a long journal has been shipped.
_NOTE_EVERY = 100
# Stands for the view in the place of an event's first byte.
_VIEW = -1


class Tracker:
    """Ships a study's journal to MLflow.

    Several processes may do so at once, for one server: they take turns. What is sent twice after
    a crash arrives once, see :mod:`esam_tune.tracking.runs`.

    Args:
        uri: of the tracking server or store.
        artifact_root: where artifacts go, or None for the server's own choice.
        journal_path: of the study's journal.
        cursor_path: where to remember what was sent to this server.
        view: of the study, fresh.
    """

    def __init__(
        self,
        uri: str,
        artifact_root: Path | None,
        journal_path: Path,
        cursor_path: Path,
        view: View,
    ) -> None:
        self.cursor = Cursor.following(cursor_path, journal_path)
        self._uri = uri
        self._artifact_root = artifact_root
        self._journal_path = journal_path
        self._cursor_path = cursor_path
        self._view = view
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="tracker", daemon=True)
        self._runs: StudyRuns | None = None
        self._observed = 0
        # Whether the server may hold something else than is known here.
        self._unsure = True
        self._complained = self._told = False
        self._failures: Counter[int] = Counter()
        self._troubled = False
        self._view_sent = -_VIEW_SECONDS
        self._second_chance = 0.0

    def start(self) -> None:
        """Begin shipping in the background."""
        self._thread.start()

    def close(self, timeout: float) -> bool:
        """Ship what is left and stop; whether all of it arrived within ``timeout`` seconds."""
        self._closing.set()
        self._thread.join(timeout)
        return not self._thread.is_alive() and self.arrived

    @property
    def arrived(self) -> bool:
        """Whether the server has all of the journal as it is now."""
        up_to_date = self.cursor.viewed == self.cursor.offset
        return up_to_date and not self.cursor.set_aside and not self.unsent()

    def unsent(self) -> int:
        """Count of the journal's events that have not been dealt with."""
        return sum(1 for _ in journal.read(self._journal_path, self.cursor.offset))

    def ship_all(self) -> None:
        """Ship everything, in this thread; what was set aside gets another chance.

        Raises:
            Exception: the server's answer, when it takes nothing.
        """
        self._closing.set()
        self._troubled = True
        for attempt in range(_PATIENCE):
            try:
                self._ship()
                return
            except Exception:
                if attempt == _PATIENCE - 1:
                    raise
                time.sleep(_POLL_SECONDS)

    def set_aside(self) -> list[tuple[Event | None, str]]:
        """What the server refuses, with its answers; None stands for description and tags."""
        found = []
        for begin, answer in self.cursor.set_aside.items():
            event = None if int(begin) == _VIEW else self._event_at(int(begin))
            found.append((event, answer))
        return found

    def _event_at(self, begin: int) -> Event:
        return next(journal.read(self._journal_path, begin))[0]

    def _loop(self) -> None:
        wait = _POLL_SECONDS
        chances = _PATIENCE
        while chances:
            # A failure of the last look may pass; the time that is given to it is close()'s matter.
            chances -= self._closing.is_set()
            try:
                self._ship()
                wait, self._complained = _POLL_SECONDS, False
                if chances < _PATIENCE:
                    return
            except Exception as error:  # noqa: BLE001 - tracking must never end a study
                if not self._complained:
                    _log.warning(
                        "MLflow at %s does not take records (%s); they are kept and sent later",
                        without_credentials(self._uri),
                        error_text(error, self._uri),
                    )
                self._complained = True
                wait = min(2 * wait, _LONGEST_WAIT)
            if chances < _PATIENCE:
                time.sleep(_POLL_SECONDS)
            else:
                self._closing.wait(wait)

    def _ship(self) -> None:
        closing = self._closing.is_set()
        now = time.monotonic()
        behind = self.cursor.viewed != self.cursor.offset
        view_due = behind and (closing or now - self._view_sent >= _VIEW_SECONDS)
        chance_due = bool(self.cursor.set_aside) and (closing or now >= self._second_chance)
        # Requests whose answers were lost may have been carried out late: look once more.
        audit = closing and self._troubled
        if not (view_due or chance_due or audit or self._has_news()):
            return
        with turn(self._cursor_path):
            mine = self.cursor
            self.cursor = Cursor.following(self._cursor_path, self._journal_path)
            # Another process may have shipped meanwhile, or the file may be lost.
            self._unsure |= audit or mine != self.cursor
            before = deepcopy(self.cursor)
            try:
                runs = self._connected()
                self._ship_events(runs)
                if chance_due:
                    self._ship_set_aside(runs)
                if closing or now - self._view_sent >= _VIEW_SECONDS:
                    self._attempt(_VIEW, runs.send_view, runs)
                    self.cursor.viewed, self._view_sent = self.cursor.offset, now
            except Exception:
                self._unsure = self._troubled = True
                raise
            finally:
                if self.cursor != before:
                    self.cursor.save(self._cursor_path)
        if audit:
            self._troubled = False

    def _has_news(self) -> bool:
        return next(journal.read(self._journal_path, self.cursor.offset), None) is not None

    def _connected(self) -> StudyRuns:
        """The study's runs, with all observed that was shipped, and the server's state known."""
        if self._runs is None:
            client = connect(self._uri, retries=0)
            folder = self._journal_path.parent
            self._runs = StudyRuns(client, self.cursor, self._artifact_root, folder, self._view)
        self._runs.cursor = self.cursor
        # The first event names the study, by which its runs are found.
        for event, _, end in self._events(self._observed):
            if self._observed and end > self.cursor.offset:
                break
            self._observe(self._runs, event, end)
        if self._unsure:
            self._runs.find()
            self._unsure = False
        return self._runs

    def _events(self, begin: int) -> Iterator[tuple[Event, int, int]]:
        """Each event from a byte on, with its first byte and the one behind it."""
        for event, end in journal.read(self._journal_path, begin):
            yield event, begin, end
            begin = end

    def _observe(self, runs: StudyRuns, event: Event, end: int) -> None:
        if end > self._observed:
            runs.observe(event)
            self._observed = end

    def _ship_events(self, runs: StudyRuns) -> None:
        epochs: list[tuple[Event, int]] = []
        for count, (event, begin, end) in enumerate(self._events(self.cursor.offset), 1):
            self._observe(runs, event, end)
            if event["event"] == journal.EPOCH:
                epochs.append((event, begin))
            else:
                self._attempt(begin, partial(runs.send, event), runs)
            if len(epochs) >= BATCH:
                self._ship_epochs(runs, epochs)
            self.cursor.offset = epochs[0][1] if epochs else end
            if count % _NOTE_EVERY == 0:
                self.cursor.save(self._cursor_path)
        if epochs:
            self._ship_epochs(runs, epochs)
            self.cursor.offset = end

    def _ship_epochs(self, runs: StudyRuns, epochs: list[tuple[Event, int]]) -> None:
        """Ship epochs together, or, when that is refused, one by one."""
        try:
            runs.send_metrics(event for event, _ in epochs)
        except Exception as error:  # noqa: BLE001 - one of them may be what the server refuses
            self._require_refusal(epochs[0][1], error, runs)
            for event, begin in epochs:
                self._failures[begin] = _PATIENCE - 1
                self._attempt(begin, partial(runs.send_metrics, [event]), runs)
        epochs.clear()

    def _ship_set_aside(self, runs: StudyRuns) -> None:
        self._second_chance = time.monotonic() + _SECOND_CHANCE_SECONDS
        for begin in sorted(map(int, self.cursor.set_aside)):
            self._failures[begin] = _PATIENCE - 1
            if begin == _VIEW:
                request = runs.send_view
            else:
                event = self._event_at(begin)
                epoch = event["event"] == journal.EPOCH
                request = (
                    partial(runs.send_metrics, [event]) if epoch else partial(runs.send, event)
                )
            self._attempt(begin, request, runs)

    def _attempt(self, begin: int, request: Callable[[], Any], runs: StudyRuns) -> None:
        """Send something; set it aside when the server refuses it alone."""
        try:
            request()
        except Exception as error:
            if begin == 0:
                # Without the study's own run there is no place for anything else.
                raise
            self._require_refusal(begin, error, runs)
            if not self._told:
                _log.warning(
                    "MLflow at %s refuses a record (%s); what it refuses is set aside, and tried "
                    "again later and by `esam-tune sync`",
                    without_credentials(self._uri),
                    error_text(error, self._uri),
                )
            # It may have been carried out all the same.
            self._told = self._unsure = True
            self.cursor.set_aside[str(begin)] = error_text(error, self._uri)
        else:
            self.cursor.set_aside.pop(str(begin), None)
            self._failures.pop(begin, None)

    def _require_refusal(self, begin: int, error: Exception, runs: StudyRuns) -> None:
        """Raise the error again, unless it is of what was sent, as the server takes other things.

        A server in trouble fails at all it is asked, sooner or later; a record that it cannot take
        fails every time, and would keep back all that follow.
        """
        if isinstance(error, NoRunError):
            return
        self._failures[begin] += 1
        if self._failures[begin] < _PATIENCE and not _says_no(error):
            raise error
        try:
            runs.write_probe(datetime.now(UTC).isoformat(timespec="seconds"))
        except Exception:  # noqa: BLE001 - the server's trouble, then
            # Its cause has the words of a database that is behind it.
            raise error from error.__cause__


def _says_no(error: Exception) -> bool:
    """Whether an answer is a verdict on the request, that will be the same next time."""
    status = getattr(error, "get_http_status_code", lambda: 0)()
    passing = (
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.TOO_MANY_REQUESTS,
    )
    return HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR and (
        status not in passing
    )
