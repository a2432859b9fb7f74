"""A local store of MLflow: made whole or not at all, and in step with where it lies."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path

_SCHEME = "sqlite:///"
# A folder in which no store has appeared for so long is a dead process'.
_DEAD_SECONDS = 600.0
# Where the artifacts of a storage's own runs lie, beside the database.
ARTIFACTS, EXPERIMENT = "mlartifacts", "esam-tune"
_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def prepare_store(uri: str) -> None:
    """Have a local store ready: its database made, its artifacts found where they lie now.

    Args:
        uri: of any tracking server or store; only a plain SQLite file is prepared.
    """
    # With a query or a driver it is no plain file's name.
    if not uri.startswith(_SCHEME) or "?" in uri:
        return
    path = Path(uri.removeprefix(_SCHEME))
    # Path.exists raises for a name that is too long.
    if os.path.exists(path):  # noqa: PTH110
        # What cannot be read or written now is MLflow's to say.
        with suppress(sqlite3.Error, OSError):
            _follow_move(path)
    elif path.parent.is_dir():
        _make_store(path)


def _follow_move(path: Path) -> None:
    """Let the runs of a storage that was moved, copied or fetched find their artifacts.

    MLflow keeps for each run the absolute address of its artifacts. Without this they would be
    looked for where they were, and what a resumed study adds would go there.
    """
    now = f"{(path.resolve().parent / ARTIFACTS).as_uri()}/"
    with closing(sqlite3.connect(path)) as database, database:
        found = database.execute(
            "SELECT artifact_location FROM experiments WHERE name = ?", (EXPERIMENT,)
        ).fetchone()
        before = str(found[0]).removesuffix(EXPERIMENT) if found else now
        ours = before.startswith("file:") and before.endswith(f"/{ARTIFACTS}/")
        if before == now or not ours:
            return
        for table, column in _ADDRESSES:
            database.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608 - ours
                f"WHERE substr({column}, 1, ?) = ?",
                (now, len(before) + 1, len(before), before),
            )


def _make_store(path: Path) -> None:
    """Make the database of a local store.

    MLflow takes seconds to make its tables, step by step, and SQLite does not take such steps back:
    a process that is stopped in their middle would leave a database which MLflow refuses from then
    on. So they are made beside the place, and appear there when they are complete.
    """
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
