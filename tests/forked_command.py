"""The command line in processes whose imports are made already.

What a command answers to wrong input is asked a hundred times, and most of such a process' life is
the imports of torch and scikit-learn. A server makes them once and forks for each command.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

SECONDS = 60


class Run(Protocol):
    """Runs a command to its end."""

    def __call__(
        self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Run a command.

        Args:
            arguments: of the command line.
            folder: to run in.
            environment: all of it; what ``PYTHONPATH`` names is found first.
        """


@contextmanager
def forked_commands(scratch: Path) -> Iterator[Run]:
    """Something that runs ``python -m esam_tune.cli``, one process a command.

    Args:
        scratch: folder for what the commands print.
    """
    printed = [scratch / "stdout", scratch / "stderr"]
    command = [sys.executable, __file__]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        asked, answers = server.stdin, server.stdout
        assert asked
        assert answers

        def run(
            arguments: Sequence[str], folder: Path, environment: Mapping[str, str]
        ) -> subprocess.CompletedProcess[str]:
            for path in printed:
                path.write_bytes(b"")
            paths = [str(folder), *map(str, printed)]
            asked.write(json.dumps([list(arguments), dict(environment), *paths]) + "\n")
            asked.flush()
            if not select.select([answers], [], [], SECONDS)[0]:
                server.kill()
                raise subprocess.TimeoutExpired(list(arguments), SECONDS)
            code = int(answers.readline())
            return subprocess.CompletedProcess(
                list(arguments), code, *(path.read_text("utf-8") for path in printed)
            )

        yield run


def _serve() -> int:
    """Fork for each line that asks for a command, and tell its exit code."""
    import optuna  # noqa: F401
    import sklearn.datasets  # noqa: F401
    import torch  # noqa: F401

    from esam_tune.cli import main

    # What a child's collector does not look at is not copied for it either.
    gc.freeze()

    for line in sys.stdin:
        child = os.fork()
        if not child:
            arguments, environment, folder, *printed = json.loads(line)
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environment)
            sys.path[:1] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
            for stream, path in zip((0, 1, 2), (os.devnull, *printed), strict=True):
                os.dup2(os.open(path, os.O_RDWR), stream)
            code = main(arguments)
            atexit._run_exitfuncs()
            sys.stdout.flush()
            # The rest of the interpreter's end takes as long as the command.
            os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(_serve())
