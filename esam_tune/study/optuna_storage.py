"""Where Optuna keeps a study's proposals: a file of the study's folder, or a storage of the user's.

Whatever it is, the study's journal stays the authority, so a storage that other programs read (a
dashboard, say) may lag behind but never decides.
"""

from __future__ import annotations

import os
import socket
import urllib.parse
from pathlib import Path
from typing import Any

from esam_tune.errors import InputError
from esam_tune.journal import Patience, no_patience
from esam_tune.study.sampler_database import open_patiently, put_damaged_aside
from esam_tune.tracking.store import without_credentials

OPTION = "--optuna-storage"
_SERVER_PORTS = {"postgresql": 5432, "mysql": 3306}
_CONNECT_SECONDS = 3.0
_LOCK_SECONDS = 1.0


def check_optuna_storage(url: str) -> None:
    """Require a storage URL that can be used, within seconds and without making anything.

    Args:
        url: ``postgresql://...``, ``mysql+pymysql://...``, ``sqlite:///FILE`` or ``journal:///FILE``.

    Raises:
        InputError: naming ``--optuna-storage``; credentials in the URL are not shown.
    """
    shown = without_credentials(url)
    kind = url.partition("://")[0].lower().partition("+")[0]
    if "://" not in url or shown == "(a URI that cannot be read)" or not _known(kind):
        raise InputError(
            OPTION,
            f"must be a postgresql, mysql, sqlite or journal URL, got {shown!r}",
            "write postgresql://HOST/DATABASE or journal:////ABSOLUTE/FILE",
        )
    parts = urllib.parse.urlsplit(url)
    if kind in ("sqlite", "journal"):
        path = _file(url)
        if ":memory:" in url:
            raise InputError(
                OPTION, f"{shown!r} would not outlast the process", "name a file: sqlite:////FILE"
            )
        # The methods of Path raise for a name that is too long.
        if parts.netloc or not path.name or not os.path.isdir(path.absolute().parent):  # noqa: PTH112
            raise InputError(
                OPTION, f"no folder for {shown!r}", "create it, and write three slashes before PATH"
            )
        if os.path.exists(path) and not os.path.isfile(path):  # noqa: PTH110, PTH113
            raise InputError(OPTION, f"{shown!r} names no file", "name one, or a new one")
        return
    _require_driver(url, shown)
    try:
        _connect(parts, _SERVER_PORTS[kind])
    # ValueError: a port that is no number, or a name that cannot be a host's.
    except (OSError, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            OPTION,
            f"no database server answers at {shown!r} ({reason})",
            "start it, or leave the option out to keep the study in its own folder",
        ) from None


def open_optuna_storage(where: Path | str, patience: Patience = no_patience) -> Any:
    """Open a storage, and make its tables where there are none.

    Args:
        where: file of an SQLite database, which is made anew when it is damaged, or a URL that
            :func:`check_optuna_storage` has passed.
        patience: with a database that is locked, full or away.

    Returns:
        An Optuna storage.

    Raises:
        InputError: when the database refuses; naming ``--optuna-storage``, without credentials.
        RunFailedError: when patience is at its end.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    if isinstance(where, Path):
        put_damaged_aside(where)
        # Short waits for a lock: between them a signal is noticed.
        engine = {"connect_args": {"timeout": _LOCK_SECONDS}}
        return open_patiently(
            lambda: optuna.storages.RDBStorage(f"sqlite:///{where}", engine_kwargs=engine), patience
        )
    if where.startswith("journal:"):
        backend = optuna.storages.journal.JournalFileBackend(str(_file(where)))
        return optuna.storages.JournalStorage(backend)
    try:
        # Hours may pass between two trials: a connection is tried before it is used.
        storage = optuna.storages.RDBStorage(where, engine_kwargs={"pool_pre_ping": True})
    except (SQLAlchemyError, ImportError) as error:
        # The driver's own words name host, database and user, but never the password.
        cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise InputError(
            OPTION,
            f"{without_credentials(where)!r} refuses ({cause})",
            "check user, password and database, and that the user may create tables",
        ) from None
    return open_patiently(lambda: storage, patience)


def _file(url: str) -> Path:
    """The file that an sqlite or journal URL names.

    SQLAlchemy takes the path of the former as it stands; of the latter %XX is the byte it spells.
    """
    path = urllib.parse.urlsplit(url).path[1:]
    return Path(path if url.lower().startswith("sqlite") else urllib.parse.unquote(path))


def _connect(parts: urllib.parse.SplitResult, usual_port: int) -> None:
    """Reach the server where its driver would: a host, or a socket of this machine.

    Raises:
        OSError: when nothing answers.
        ValueError: for what can be no port or host, as OverflowError.
    """
    query = dict(urllib.parse.parse_qsl(parts.query))
    host = query.get("host", parts.hostname or "localhost")
    port = int(query.get("port", parts.port or usual_port))
    # PostgreSQL's drivers take the folder of its socket for a host, MySQL's the socket itself.
    path = f"{host}/.s.PGSQL.{port}" if host.startswith("/") else query.get("unix_socket")
    if path is None:
        socket.create_connection((host, port), timeout=_CONNECT_SECONDS).close()
        return
    with socket.socket(socket.AF_UNIX) as local:
        local.settimeout(_CONNECT_SECONDS)
        local.connect(path)


def _known(kind: str) -> bool:
    return kind in (*_SERVER_PORTS, "sqlite", "journal")


def _require_driver(url: str, shown: str) -> None:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    try:
        make_url(url).get_dialect().import_dbapi()
    except (SQLAlchemyError, ImportError, ValueError) as error:
        raise InputError(
            OPTION,
            f"{shown!r} needs a database driver ({str(error).splitlines()[0]})",
            "install it, such as psycopg[binary] for postgresql",
        ) from None
