"""A sweep as a user runs it, whose processes, ports and temporary files can be told from others.

All that it starts inherits a mark in its environment and a folder of its own for temporary files,
Ray's sessions among them. So what it leaves behind can be counted beside whatever else runs on the
machine, and only what is its own is ever killed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from conftest import REPOSITORY, command_line, environment
from host_processes import MARK, processes_of_the_host

from esam_tune import journal
from esam_tune.journal import Event

_LISTENS = "0A"
_GONE_SECONDS = 60.0
# What is meant to stay: the logs that Ray keeps of each of its lives, which say why a trial failed,
# and torch's cache of compiled code, one a user.
_KEPT = ("ray/", "torchinductor_")
_END_SECONDS = 600.0


@dataclass(frozen=True)
class LeftBehind:
    """What is there after a sweep's process has ended.

    Args:
        processes: command lines, by process id.
        ports: still listened on, of those that the sweep's processes listened on.
        files: temporary ones that are not meant to stay, relative to the sweep's folder of them.
        seconds: from the process' end until no other of its processes was left, or the patience
            with them was.
    """

    processes: dict[int, str]
    ports: set[int]
    files: list[str]
    seconds: float

    @property
    def nothing(self) -> bool:
        """Whether it has gone without a trace."""
        return not (self.processes or self.ports or self.files)


class IsolatedSweep:
    """One study, run by one process after another.

    Args:
        folder: receives what the processes print.
        arguments: of ``esam-tune sweep``, the first process' and all others'.
        journal_path: of the study.
    """

    def __init__(self, folder: Path, arguments: list[object], journal_path: Path) -> None:
        self.journal = journal_path
        self._folder = folder
        self._arguments = arguments
        self.mark = uuid.uuid4().hex
        # Below it Ray makes sockets, whose paths hold 107 bytes at most.
        self.scratch = Path(tempfile.mkdtemp(prefix="esam-"))
        self._ports: set[int] = set()
        self._events: list[Event] = []
        self._read_to = self._before = 0
        self.began = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> IsolatedSweep:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill(everything=True)
        shutil.rmtree(self.scratch, ignore_errors=True)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The one that runs now, or ran last."""
        assert self._process is not None
        return self._process

    @property
    def output(self) -> Path:
        """What the process printed on stdout."""
        return self._folder / "stdout"

    @property
    def errors(self) -> Path:
        """What all of them printed on stderr."""
        return self._folder / "stderr"

    def start(self, *more: object) -> None:
        """Start a process on the study; with ``--resume`` unless there is none yet."""
        self._before = len(self.events())
        resume = ["--resume"] if self._before else []
        with self.output.open("wb") as out, self.errors.open("ab") as errors:
            self._process = subprocess.Popen(
                command_line("sweep", *self._arguments, *resume, *more),
                env=environment(**{MARK: self.mark, "TMPDIR": str(self.scratch)}),
                stdout=out,
                stderr=errors,
                cwd=REPOSITORY,
                start_new_session=True,
            )
        self.began = time.monotonic()

    @property
    def runs(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    def events(self, *kinds: str) -> list[Event]:
        """The study's events so far, of all processes."""
        self._refresh()
        return [event for event in self._events if not kinds or event["event"] in kinds]

    def new_events(self, *kinds: str) -> list[Event]:
        """Those that this process has written."""
        self._refresh()
        return [e for e in self._events[self._before :] if not kinds or e["event"] in kinds]

    def checkpoints_in_writing(self) -> set[Path]:
        """Folders in which checkpoints are put together, those that a death left among them."""
        return set(self.journal.parent.glob("tune/*/groups/esam-tune-*"))

    def _refresh(self) -> None:
        """Read on behind the last whole event; a torn one is no event, and is cut off later."""
        if self.journal.exists() and self.journal.stat().st_size > self._read_to:
            for event, end in journal.read(self.journal, self._read_to):
                self._events.append(event)
                self._read_to = end

    def until(self, condition: Callable[[], object], seconds: float = _END_SECONDS) -> bool:
        """Wait for something; False when the process ended before it came."""
        deadline = time.monotonic() + seconds
        while not condition():
            if not self.runs:
                return False
            if time.monotonic() > deadline:
                raise AssertionError(f"it did not come: {self._last_words()}")
            time.sleep(0.002)
        return True

    def end(self, seconds: float = _END_SECONDS) -> int:
        """Wait for the process' end; its exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end: {self._last_words()}") from None

    def kill(self, *, everything: bool) -> None:
        """SIGKILL: the process alone, or all that it started with it, as a machine's end does."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)
        while everything and (left := processes_of_the_host(self.mark)):
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def note_ports(self) -> set[int]:
        """The ports that its processes listen on now, kept for :meth:`left_behind`."""
        inodes = {inode for pid in processes_of_the_host(self.mark) for inode in _sockets_of(pid)}
        self._ports = {port for port, inode in _listening() if inode in inodes}
        return self._ports

    def left_behind(self, within: float = _GONE_SECONDS) -> LeftBehind:
        """Wait some seconds for the ended process' others to end; what is there then."""
        began = time.monotonic()
        while True:
            left = processes_of_the_host(self.mark)
            # A process that is just ending has no environment any more to be known by, but files.
            ports = self._ports & {port for port, _ in _listening()}
            if not (left or ports) or time.monotonic() - began > within:
                break
            time.sleep(0.05)
        return LeftBehind(
            processes=left,
            ports=ports,
            files=sorted(
                name
                for name in (str(path.relative_to(self.scratch)) for path in _files(self.scratch))
                if not name.startswith(_KEPT)
            ),
            seconds=time.monotonic() - began,
        )

    def _last_words(self) -> str:
        return self.errors.read_text(errors="replace")[-2000:]


def _files(folder: Path) -> list[Path]:
    """All that is no folder; empty folders as well."""
    found = []
    for where, folders, files in os.walk(folder):
        found += [Path(where, name) for name in files]
        if not folders and not files and Path(where) != folder:
            found.append(Path(where))
    return found


def _sockets_of(pid: int) -> set[str]:
    """Inodes of a process' sockets; none of one that is gone."""
    found = set()
    with suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            # A file may be closed while it is looked at.
            with suppress(OSError):
                target = str(link.readlink())
                if target.startswith("socket:["):
                    found.add(target[len("socket:[") : -1])
    return found


def _listening() -> set[tuple[int, str]]:
    """Ports of this machine that are listened on, with their sockets' inodes."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENS:
                found.add((int(fields[1].rpartition(":")[2], 16), fields[9]))
    return found
