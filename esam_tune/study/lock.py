"""The lock of a study: held by one process, and recovered when that process is dead.

The system's own lock decides where it can: it ends with its holder, on a shared file system too.
Some shared file systems have none, or keep it to one host. So the holder also writes who it is into
the file and beats there; one of another host that has not beaten for a while is dead. Beats are
counted, not timed: the clocks of two hosts may differ, and either may be set.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

_log = logging.getLogger(__name__)

BEAT_SECONDS = 3.0
# Beats that a living holder may be late, before it counts as dead to another host.
_LATE_BEATS = 5
_LOOK_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who holds a lock, as the file says.

    Args:
        token: of this very acquisition.
        host: name of the machine.
        boot: id of its kernel's run: a lock of this kernel is known to the kernel.
        pid: of the process.
        started: when the process began, in the kernel's own count: pids are used again.
        beat: counts on while the holder lives.
    """

    token: str
    host: str
    boot: str
    pid: int
    started: str
    beat: int = 0

    @classmethod
    def here(cls) -> Holder:
        """This process, with a new token."""
        return cls(
            token=uuid.uuid4().hex,
            host=socket.gethostname(),
            boot=_boot(),
            pid=os.getpid(),
            started=_started(os.getpid()),
        )

    @property
    def runs_here(self) -> bool:
        """Whether it is a process of this host that still runs."""
        return bool(self.started) and _started(self.pid) == self.started

    def __str__(self) -> str:
        """In the words of a message."""
        return f"process {self.pid} on {self.host}"


class Held(Exception):  # noqa: N818 - no error of this module: the caller says what it means
    """Another process holds the lock.

    Args:
        holder: in words.
    """


@contextmanager
def exclusive(path: Path, sleep: Callable[[float], None] = time.sleep) -> Iterator[None]:
    """Hold a lock file for the time of the block; it is made where missing, and stays.

    Args:
        path: of the file, in a folder that exists.
        sleep: waits while it is found out whether a holder on another host still lives; may raise.

    Raises:
        Held: when another process holds it.
        OSError: when the file cannot be written.
    """
    own = Holder.here()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        before = _text(path)
        known_here = _lock(descriptor, before)
        if not _same_file(path, descriptor):
            # Its holder removed the file, together with a study that came to nothing.
            raise Held("another process, which is ending")
        if _lives(path, before, own, known_here, sleep):
            raise Held(_who(before))
        if before:
            _log.warning("took over the lock of %s, which is dead", _who(before))
        _write(descriptor, own)
        done = threading.Event()
        beating = threading.Thread(
            target=_beat, args=(path, descriptor, own, done), name="lock", daemon=True
        )
        beating.start()
        try:
            yield
        finally:
            done.set()
            beating.join(BEAT_SECONDS)
            # Where nobody is named, the next process need not wait for a beat.
            with suppress(OSError):
                if _holds(path, own):
                    os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, before: str) -> bool:
    """Take the system's lock; whether there is one on this file system."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Held(_who(before)) from None
    except OSError as error:
        _log.debug("no system lock here (%s); the holder's beat decides", error)
        return False
    return True


def _same_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _lives(
    path: Path, before: str, own: Holder, known_here: bool, sleep: Callable[[float], None]
) -> bool:
    """Whether the holder that the file names still runs."""
    holder = _parsed(before)
    # A system lock of this kernel would have kept us out.
    if not before or (known_here and (holder is None or holder.boot == own.boot)):
        return False
    if holder is not None and (holder.host, holder.boot) == (own.host, own.boot):
        return holder.runs_here
    seconds = _LATE_BEATS * BEAT_SECONDS
    _log.warning("waiting up to %.0f s to see whether %s is alive", seconds, _who(before))
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        sleep(_LOOK_SECONDS)
        # Opened anew each time: a shared file system brings a file up to date when it is opened.
        if (found := _text(path)) != before:
            return bool(found)
    return False


def _beat(path: Path, descriptor: int, own: Holder, done: threading.Event) -> None:
    """Count on in the file, as long as it is ours."""
    while not done.wait(BEAT_SECONDS):
        # A storage that is full or gone for a while is no reason to give the lock up.
        with suppress(OSError):
            if not _holds(path, own):
                _log.warning("another process took the study's lock over")
                return
            own = replace(own, beat=own.beat + 1)
            _write(descriptor, own)


def _holds(path: Path, own: Holder) -> bool:
    found = _parsed(_text(path))
    return found is not None and found.token == own.token


def _text(path: Path) -> str:
    return path.read_bytes().decode(errors="replace")


def _parsed(text: str) -> Holder | None:
    """The holder that a file's text names; None when it names none, or is torn."""
    try:
        return Holder(**json.loads(text))
    except (ValueError, TypeError):
        return None


def _who(text: str) -> str:
    return str(_parsed(text) or "another process")


def _write(descriptor: int, holder: Holder) -> None:
    """Put a holder in the file's place: over what is there first, so that a full disk takes it."""
    text = json.dumps(asdict(holder)).encode()
    os.pwrite(descriptor, text, 0)
    os.ftruncate(descriptor, len(text))


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()


def _started(pid: int) -> str:
    """When a process of this host began, or "" when there is none of that id."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]
