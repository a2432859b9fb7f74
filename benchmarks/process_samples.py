"""What a program and all that it started hold of a machine: memory, files, processes, disk.

Linux alone: it reads /proc. Processes are told by a variable of the environment, which children
inherit, so that those which outlive the program are found, too.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

_VARIABLE = "ESAM_TUNE_SOAK"
_MEGABYTE = 1e6


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One look at a program.

    Args:
        cpu_seconds: that the program's first process has taken, its ended children left out.
        memory: of that process, resident, in MB.
        open_files: of that process.
        threads: of that process.
        processes: of the program, the first included.
        all_memory: of all of them in MB; shared pages count once for each process.
        all_open_files: of all of them.
    """

    cpu_seconds: float
    memory: float
    open_files: int
    threads: int
    processes: int
    all_memory: float
    all_open_files: int


@dataclass(frozen=True)
class Mark:
    """Tells the processes of one program from all others.

    Args:
        value: of the variable in their environment.
    """

    value: str = field(default_factory=lambda: uuid.uuid4().hex)

    def environment(self) -> dict[str, str]:
        """What the program's environment must hold."""
        return {_VARIABLE: self.value}

    def processes(self) -> list[int]:
        """Ids of the program's living processes: what bears the mark, and what that started.

        A process that renames itself, as Ray's do, may write over its environment.
        """
        wanted = f"{_VARIABLE}={self.value}".encode()
        parents: dict[int, int] = {}
        found: set[int] = set()
        for folder in Path("/proc").iterdir():
            # A process may end, or be another user's, while it is looked at.
            with suppress(OSError):
                if folder.name.isdigit() and (stat := _stat(int(folder.name)))[0] != "Z":
                    parents[int(folder.name)] = int(stat[1])
                    if wanted in (folder / "environ").read_bytes().split(b"\0"):
                        found.add(int(folder.name))
        while more := {child for child, parent in parents.items() if parent in found} - found:
            found |= more
        return sorted(found)

    def sample(self, first: int) -> Sample:
        """Look at the program.

        Args:
            first: id of its first process.

        Raises:
            OSError: when that has ended.
        """
        processes = self.processes()
        own = _memory(first)
        stat = _stat(first)
        ticks = os.sysconf("SC_CLK_TCK")
        return Sample(
            cpu_seconds=(int(stat[11]) + int(stat[12])) / ticks,
            memory=own,
            open_files=_open_files(first),
            threads=int(stat[17]),
            processes=len(processes),
            all_memory=sum(_of_living(_memory, processes)),
            all_open_files=round(sum(_of_living(_open_files, processes))),
        )


def disk(folder: Path) -> tuple[float, int]:
    """MB that a folder's files hold, links not followed, and count of files and folders in it."""
    size = count = 0
    for path, folders, files in os.walk(folder):
        count += len(folders) + len(files)
        for name in files:
            # A file may go while it is looked at.
            with suppress(OSError):
                size += os.lstat(Path(path, name)).st_size
    return size / _MEGABYTE, count


def _stat(process: int) -> list[str]:
    """The system's line on a process, from its state on."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()


def _memory(process: int) -> float:
    """Resident memory in MB."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / _MEGABYTE


def _open_files(process: int) -> int:
    return len(os.listdir(f"/proc/{process}/fd"))  # noqa: PTH208 - names alone, of what may go


def _of_living(measure: Callable[[int], float], processes: Iterable[int]) -> list[float]:
    found = []
    for process in processes:
        with suppress(OSError):
            found.append(float(measure(process)))
    return found
