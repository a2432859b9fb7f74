"""Verbs as the entry point of a Ray job: what the scripts in ``jobs/`` call."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from esam_tune import cli


def main(verb: str, arguments: Sequence[str] | None = None) -> int:
    """Run a verb with defaults that fit a job; what the arguments say goes before them.

    ``--address`` is the cluster that the job runs on, and ``--storage`` the folder ``runs`` at
    home, since a job's working directory is removed after it.

    Args:
        verb: of the command line.
        arguments: of the verb; those of the process by default.

    Returns:
        The exit code.
    """
    given = sys.argv[1:] if arguments is None else arguments
    defaults = ["--address", "auto", "--storage", str(Path.home() / "runs")]
    return cli.main([verb, *defaults, *given])
