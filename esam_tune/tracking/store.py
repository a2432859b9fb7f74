"""The tracking store: its address, whether it answers, and how records are put into it."""

import http.client
import os
import re
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esam_tune.errors import InputError

EXPERIMENT = "esam-tune"
BATCH = 500  # metrics a request; MLflow takes 1,000
VALUE_LENGTH = 500  # characters of a parameter or tag
_CONNECT_SECONDS = 3.0
_TEXT_LENGTH = 200
_UNREADABLE = "(a URI that cannot be read)"
_SERVER_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306}


def connect(uri: str) -> Any:
    """An MLflow client that gives up soon: whoever calls it tries again later."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    # Standard output is for results.
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def experiment(client: Any, artifact_root: Path | None) -> str:
    """Id of the experiment that holds every run of this project, made when missing."""
    known = client.get_experiment_by_name(EXPERIMENT)
    if known is not None:
        if known.lifecycle_stage == "deleted":
            client.restore_experiment(known.experiment_id)
        return str(known.experiment_id)
    location = None if artifact_root is None else (artifact_root.resolve() / EXPERIMENT).as_uri()
    return str(client.create_experiment(EXPERIMENT, artifact_location=location))


def log_params(client: Any, run_id: str, params: Mapping[str, Any]) -> None:
    """Log parameters, cut to what every store takes."""
    from mlflow.entities import Param

    listed = [Param(key, str(value)[:VALUE_LENGTH]) for key, value in params.items()]
    client.log_batch(run_id, params=listed)


def points(metrics: Mapping[str, float | None], milliseconds: int) -> list[Any]:
    """One epoch's finite metrics as MLflow takes them, at the absolute epoch as their step."""
    from mlflow.entities import Metric

    step = int(metrics["epoch"] or 0)
    return [
        Metric(key, value, milliseconds, step)
        for key, value in metrics.items()
        if value is not None
    ]


def local_uri(storage: Path) -> str:
    """The store inside a storage."""
    return f"sqlite:///{storage.absolute() / 'mlflow.db'}"


def artifact_root(storage: Path, uri: str) -> Path | None:
    """Where artifacts go for the store inside the storage; a server decides for itself."""
    return storage.absolute() / "mlartifacts" if uri == local_uri(storage) else None


def check_uri(uri: str) -> None:
    """Require that a tracking store can be reached, within seconds and without MLflow.

    Raises:
        InputError: naming ``--tracking-uri``.
    """
    shown = without_credentials(uri)
    scheme = uri.partition("://")[0].lower()
    kind = scheme.partition("+")[0]
    if "://" not in uri or shown == _UNREADABLE or kind not in (*_SERVER_PORTS, "sqlite"):
        raise InputError(
            "--tracking-uri",
            f"must be a {', '.join(_SERVER_PORTS)} or sqlite URI, got {shown!r}",
            "write http://HOST:PORT or sqlite:////ABSOLUTE/FILE.db",
        )
    try:
        if kind in ("http", "https"):
            _ask(uri)
            return
        _require_driver(uri)
        if kind == "sqlite":
            path = urllib.parse.urlsplit(uri).path[1:]
            if not path or not Path(path).absolute().parent.is_dir():
                raise InputError("--tracking-uri", f"no folder for {shown!r}", "create it")
            return
        parts = urllib.parse.urlsplit(uri)
        where = (parts.hostname or "", parts.port or _SERVER_PORTS[kind])
        socket.create_connection(where, timeout=_CONNECT_SECONDS).close()
    except (OSError, http.client.HTTPException) as error:
        raise InputError(
            "--tracking-uri",
            f"no tracking server answers at {shown!r} ({getattr(error, 'reason', error)})",
            "start it, or leave the option out to log into the storage",
        ) from None


def _ask(uri: str) -> None:
    """Require that MLflow's health check answers; being asked for a password is an answer."""
    parts = urllib.parse.urlsplit(uri)
    bare = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}/health"
    try:
        urllib.request.urlopen(bare, timeout=_CONNECT_SECONDS).close()  # noqa: S310 - http(s) alone
    except urllib.error.HTTPError as error:
        if error.code not in (401, 403):
            raise


def _require_driver(uri: str) -> None:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    try:
        make_url(uri).get_dialect().import_dbapi()
    except (SQLAlchemyError, ImportError) as error:
        raise InputError(
            "--tracking-uri",
            f"{without_credentials(uri)!r} needs a database driver ({str(error).splitlines()[0]})",
            "install it, or name an MLflow server",
        ) from None


def error_text(error: BaseException, uri: str) -> str:
    """First line of what a tracking store answered, without the credentials of its address.

    Args:
        error: of MLflow, whose text begins with the address that it asked, password included.
        uri: that address.
    """
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    login = uri.partition("://")[2].partition("/")[0].rpartition("@")[0]
    password = login.partition(":")[2]
    for secret in (f"{login}@", password, urllib.parse.unquote(password)):
        if secret.strip("@"):
            text = text.replace(secret, "")
    return re.sub(r"[a-zA-Z][a-zA-Z0-9+.-]*://\S+", lambda m: without_credentials(m[0]), text)[
        :_TEXT_LENGTH
    ]


def without_credentials(uri: str) -> str:
    """The URI with user, password and query, which may hold either, left out.

    One that cannot be taken apart for certain is not shown at all.
    """
    if "://" not in uri:
        return uri
    try:
        parts = urllib.parse.urlsplit(uri)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return _UNREADABLE
    if host and "@" in parts.path + parts.query + parts.fragment:
        return _UNREADABLE
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{'' if port is None else f':{port}'}{parts.path}"
