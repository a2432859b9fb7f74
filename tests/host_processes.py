"""The processes of a test's own host: all that its ssh server started, told by a mark.

As a script it stands in for the commands of that host which would reach all of the machine:
``MARK stop`` ends every process of the host, ``MARK pkill -SIGNAL -f PATTERN`` signals some.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

# Variable of the environment that the server gives to what it starts.
MARK = "ESAM_TUNE_TEST_HOST"
_GRACE_SECONDS = 10.0


def processes_of_the_host(mark: str) -> dict[int, str]:
    """Process ids and command lines of what carries the mark, and of all that it started."""
    parents: dict[int, int] = {}
    found: set[int] = set()
    for folder in Path("/proc").iterdir():
        # A process may end, or be another user's, while it is looked at.
        with suppress(OSError):
            if folder.name.isdigit():
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if fields[0] != "Z":
                    parents[int(folder.name)] = int(fields[1])
                    if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                        found.add(int(folder.name))
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    lines = {}
    for pid in found:
        with suppress(OSError):
            lines[pid] = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    return lines


def stop_processes_of_the_host(mark: str) -> None:
    """End them, but for this very process and those that called it."""
    kept = {pid := os.getpid()}
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        kept.add(pid)
    deadline = time.monotonic() + _GRACE_SECONDS
    for number in (signal.SIGTERM, signal.SIGKILL):
        for found in set(processes_of_the_host(mark)) - kept:
            with suppress(ProcessLookupError):
                os.kill(found, number)
        while set(processes_of_the_host(mark)) - kept and time.monotonic() < deadline:
            time.sleep(0.1)


def signal_processes_of_the_host(mark: str, number: signal.Signals, pattern: str) -> None:
    """Signal those whose command line holds the pattern, but for this very process."""
    for pid, line in processes_of_the_host(mark).items():
        if pid != os.getpid() and re.search(pattern, line):
            with suppress(ProcessLookupError):
                os.kill(pid, number)


if __name__ == "__main__":
    match sys.argv[1:]:
        case [mark, "stop"]:
            stop_processes_of_the_host(mark)
        case [mark, "pkill", name, "-f", pattern]:
            signal_processes_of_the_host(mark, signal.Signals[f"SIG{name[1:]}"], pattern)
        case other:
            sys.exit(f"cannot stand in for {other}")
