"""The commands of Ray's launcher, run as a user of a cluster file runs them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from conftest import REPOSITORY

BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Command:
    """A command of the launcher while it runs, and what it has printed."""

    process: subprocess.Popen[bytes]
    output: Path

    def printed(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace")

    def over(self) -> bool:
        return self.process.poll() is not None


@dataclass(frozen=True)
class Launcher:
    """Where the commands run, and on which cluster file."""

    cluster_file: Path
    environment: dict[str, str]
    # What runs a command elsewhere, such as in a network namespace.
    inside: tuple[str, ...] = ()

    def ray(self, *arguments: object) -> str:
        """Run a command of the launcher; what it printed."""
        with self.running(*arguments) as command:
            code = command.process.wait(300)
            assert code == 0, command.printed()
            return command.printed()

    @contextmanager
    def running(self, *arguments: object) -> Iterator[Command]:
        """A command of the launcher, which is ended with the block where it still runs."""
        # A pipe that nobody reads would fill up, and hold up what is shown on the other side.
        descriptor, path = tempfile.mkstemp(dir=self.cluster_file.parent, suffix=".log")
        with os.fdopen(descriptor, "wb") as output:
            process = subprocess.Popen(
                [*self.inside, BIN / "ray", *map(str, arguments)],
                env=self.environment,
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # With the ssh that it starts.
                start_new_session=True,
            )
        try:
            yield Command(process, Path(path))
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def wait_for(happened: Callable[[], object], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.2)
