"""Where a study comes from: the commit of its space file, the device, the data."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from esam_tune.config import TaskSettings

_GIT_SECONDS = 10.0


def provenance(
    task: TaskSettings, space_file: Path | None, gpus_per_worker: float
) -> dict[str, Any]:
    """What the journal's first event says of it: ``git_commit``, ``device`` and ``dataset``.

    Args:
        task: of the study, whose data this machine has.
        space_file: that asked for the study, or None when it came from elsewhere.
        gpus_per_worker: of its trials.
    """
    from esam_tune.tasks.digest import data_digest

    return {
        "git_commit": None if space_file is None else git_commit(space_file),
        "device": device_name(gpus_per_worker),
        "dataset": data_digest(task),
    }


def git_commit(path: Path) -> str | None:
    """The commit that a file is from, with ``-dirty`` where the file differs from it.

    None outside of a repository, and where git is missing or does not answer. A repository's own
    configuration may name programs (monitors, filters, transports), and it may have come from
    elsewhere together with the file: git is asked for what it looks up without running any.
    """
    git = shutil.which("git")
    if git is None:
        return None

    def ask(*arguments: str) -> str | None:
        done = subprocess.run(  # noqa: S603 - a fixed command on the user's own file
            [git, "-C", str(path.absolute().parent), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=_GIT_SECONDS,
            # A partial clone would fetch what it lacks, by a command that it names itself.
            env={**os.environ, "GIT_NO_LAZY_FETCH": "1", "GIT_ALLOW_PROTOCOL": "none"},
        )
        return None if done.returncode else done.stdout.strip()

    try:
        commit = ask("rev-parse", "--verify", "HEAD")
        then = ask("rev-parse", "--verify", f"HEAD:./{path.name}")
        now = ask("hash-object", "--no-filters", "--", path.name)
    except (OSError, subprocess.SubprocessError):
        return None
    if commit is None:
        return None
    return commit if now is not None and now == then else f"{commit}-dirty"


def device_name(gpus_per_worker: float) -> str:
    """What trials run on: ``CPU``, or the kind of GPU as far as this machine can tell."""
    if gpus_per_worker == 0:
        return "CPU"
    import torch

    # The workers' GPUs may be of other machines.
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "GPU"
