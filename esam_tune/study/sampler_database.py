"""The sampler's database in trouble: locked, full, away for a while, or damaged.

The journal is the authority: a database that is damaged is put aside and filled anew from it.
"""

from __future__ import annotations

import errno
import functools
import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esam_tune.errors import RunFailedError
from esam_tune.journal import Patience

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

_log = logging.getLogger(__name__)

_CHECK_SECONDS = 1.0
# What Optuna does in one transaction each, its cache's own entries included: a transaction that
# failed has changed nothing and can be tried again.
_TRANSACTIONS = (
    *("create_new_study", "get_study_id_from_name", "get_study_name_from_id", "get_all_studies"),
    *("get_study_directions", "get_study_user_attrs", "get_study_system_attrs"),
    *("set_study_user_attr", "set_study_system_attr", "_create_new_trial", "_set_trial_param"),
    *("set_trial_state_values", "set_trial_user_attr", "set_trial_system_attr"),
    *("get_trial", "_get_trials"),
)


def put_damaged_aside(path: Path) -> None:
    """Move an SQLite file that cannot be read out of the way of a new one.

    Args:
        path: of the file, which may be missing.
    """
    if not path.exists() or (damage := _damage(path)) is None:
        return
    kept = next(
        name
        for number in range(1_000_000)
        if not (name := path.with_name(f"{path.name}.damaged-{number}")).exists()
    )
    path.rename(kept)
    # The leftovers of a transaction would be taken for the new file's.
    for suffix in ("-journal", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    _log.warning(
        "the sampler's database %s is damaged (%s): it is filled anew from the study's journal, "
        "and kept as %s",
        path,
        damage,
        kept.name,
    )


def _damage(path: Path) -> str | None:
    """What is wrong with an SQLite file, or None; None also for one that is only locked."""
    try:
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", _CHECK_SECONDS, uri=True)
        try:
            (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
        finally:
            database.close()
    except sqlite3.OperationalError:
        return None
    except sqlite3.DatabaseError as error:
        return str(error)
    return None if found == "ok" else str(found).splitlines()[0]


def open_patiently(make: Callable[[], RDBStorage], patience: Patience) -> RDBStorage:
    """Open a storage each of whose transactions is tried again while the database is away.

    Args:
        make: opens it.
        patience: how long.

    Raises:
        RunFailedError: when patience is at its end, or the database is damaged in mid-study.
    """
    storage: RDBStorage = _patient(make, patience)()
    for name in _TRANSACTIONS:
        setattr(storage, name, _patient(getattr(storage, name), patience))
    return storage


def _patient(act: Callable[..., Any], patience: Patience) -> Callable[..., Any]:
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import DBAPIError, OperationalError

    @functools.wraps(act)
    def act_patiently(*arguments: Any, **named: Any) -> Any:
        result: list[Any] = []

        def attempt() -> None:
            try:
                result[:] = [act(*arguments, **named)]
            except (StorageInternalError, DBAPIError) as error:
                cause = error.__cause__ if isinstance(error, StorageInternalError) else error
                told = str(getattr(cause, "orig", None) or cause).strip().splitlines()[0]
                if isinstance(cause, OperationalError):
                    # Locked, full, read-only, or its server is away: all may pass.
                    raise OSError(errno.EIO, f"the sampler's database: {told}") from error
                raise RunFailedError(
                    f"the sampler's database cannot be used ({told}); what was reported is kept: "
                    "--resume fills it anew"
                ) from error

        patience(attempt)
        return result[0]

    return act_patiently
