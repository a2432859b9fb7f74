"""A local store of MLflow, made whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

_SCHEME = "sqlite:///"
# A folder in which no store has appeared for so long is a dead process'.
_DEAD_SECONDS = 600.0


def make_store(uri: str) -> None:
    """Make the database of a local store that has none yet.

    MLflow takes seconds to make its tables, step by step, and SQLite does not take such steps back:
    a process that is stopped in their middle would leave a database which MLflow refuses from then
    on. So they are made beside the place, and appear there when they are complete.

    Args:
        uri: of any tracking server or store; only a missing SQLite file is made.
    """
    # With a query or a driver it is no plain file's name.
    if not uri.startswith(_SCHEME) or "?" in uri:
        return
    path = Path(uri.removeprefix(_SCHEME))
    # Path.exists raises for a name that is too long.
    if os.path.exists(path) or not path.parent.is_dir():  # noqa: PTH110
        return
    from mlflow import MlflowClient

    # No TemporaryDirectory: that would go, at the process' end, from under a thread that is here.
    prefix = f".{path.name}-"
    scratch = tempfile.mkdtemp(prefix=prefix, dir=path.parent)
    try:
        made = Path(scratch, path.name)
        MlflowClient(tracking_uri=f"{_SCHEME}{made}").search_experiments(max_results=1)
        # Whoever was faster has made the same. Where there are no links MLflow makes it in place.
        with suppress(OSError):
            os.link(made, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        for left in path.parent.glob(f"{prefix}*"):
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > _DEAD_SECONDS:
                    shutil.rmtree(left, ignore_errors=True)
