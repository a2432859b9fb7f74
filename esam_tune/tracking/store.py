"""The tracking store: its address, whether it answers, and how records are put into it."""

import http.client
import json
import logging
import os
import re
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from esam_tune.errors import InputError
from esam_tune.tracking.local_store import ARTIFACTS, EXPERIMENT, prepare_store

# Why a run did not come to its end.
REASON_TAG = "esam_tune.reason"
BATCH = 500  # metrics a request; MLflow takes 1,000
DESCRIPTION_LENGTH = 5000  # characters, as older servers have it; today's take 8,000
_PARAMS = 100  # parameters or tags a request
_KEY_LENGTH = 250
_PARAM_LENGTH = 6000
_TAG_LENGTH = 5000
_CONNECT_SECONDS = 3.0
_TEXT_LENGTH = 200
_UNREADABLE = "(a URI that cannot be read)"
_WRONG_HOST = b"Invalid Host header"
_SERVER_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306}


def connect(uri: str, *, retries: int | None = None) -> Any:
    """An MLflow client that gives up soon: whoever calls it tries again later.

    Args:
        uri: of the tracking server or store.
        retries: that the client makes by itself, unseen by its caller, from now on and in this
            whole process; None for as many as the environment says, or 1.
    """
    if retries is None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    else:
        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = str(retries)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    # Standard output is for results.
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    # It would log a traceback at each request that a locked or full database refuses, beside the
    # error, which whoever calls says in a line.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    from mlflow import MlflowClient

    prepare_store(uri)
    return MlflowClient(tracking_uri=uri)


def experiment(client: Any, artifact_root: Path | None) -> str:
    """Id of the experiment that holds every run of this project, made when missing."""
    known = client.get_experiment_by_name(EXPERIMENT)
    if known is not None:
        if known.lifecycle_stage == "deleted":
            client.restore_experiment(known.experiment_id)
        return str(known.experiment_id)
    location = None if artifact_root is None else (artifact_root.resolve() / EXPERIMENT).as_uri()
    # Without it MLflow 3 shows an experiment among those on language models.
    tags = {"mlflow.experimentKind": "custom_model_development"}
    return str(client.create_experiment(EXPERIMENT, artifact_location=location, tags=tags))


def log_params(client: Any, run_id: str, params: Mapping[str, Any]) -> None:
    """Log parameters, cut to what every store takes; None is none."""
    from mlflow.entities import Param

    given = {key: str(value) for key, value in params.items() if value is not None}
    listed = [Param(key[:_KEY_LENGTH], value[:_PARAM_LENGTH]) for key, value in given.items()]
    for start in range(0, len(listed), _PARAMS):
        client.log_batch(run_id, params=listed[start : start + _PARAMS])


def log_tags(client: Any, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags, cut likewise."""
    from mlflow.entities import RunTag

    listed = [RunTag(key[:_KEY_LENGTH], value[:_TAG_LENGTH]) for key, value in tags.items()]
    for start in range(0, len(listed), _PARAMS):
        client.log_batch(run_id, tags=listed[start : start + _PARAMS])


def log_metrics(client: Any, run_id: str, points: Sequence[tuple[str, float, int, int]]) -> None:
    """Log metrics: of each its key, value, time in milliseconds, and step."""
    from mlflow.entities import Metric

    for start in range(0, len(points), BATCH):
        listed = [Metric(*point) for point in points[start : start + BATCH]]
        client.log_batch(run_id, metrics=listed)


def log_dataset(client: Any, run_id: str, dataset: Mapping[str, Any]) -> None:
    """Log a data set as a run's input: its ``name``, ``digest`` and ``profile``."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = {"tags": {"mlflow.source.type": "LOCAL", "mlflow.source.name": dataset["name"]}}
    logged = Dataset(
        name=dataset["name"],
        digest=dataset["digest"],
        source_type="code",
        source=json.dumps(source),
        profile=json.dumps(dataset["profile"]),
    )
    context = InputTag("mlflow.data.context", "training")
    client.log_inputs(run_id, datasets=[DatasetInput(logged, [context])])


def points(
    metrics: Mapping[str, float | None], milliseconds: int
) -> list[tuple[str, float, int, int]]:
    """One epoch's finite metrics for :func:`log_metrics`, at the absolute epoch as their step."""
    step = int(metrics["epoch"] or 0)
    return [(key, value, milliseconds, step) for key, value in metrics.items() if value is not None]


def asked_uri(uri: str | None) -> str | None:
    """The address that was asked for, by an argument or the environment; None for the local one."""
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or None


def local_uri(storage: Path) -> str:
    """The store inside a storage."""
    return f"sqlite:///{storage.absolute() / 'mlflow.db'}"


def artifact_root(storage: Path, uri: str) -> Path | None:
    """Where artifacts go for the store inside the storage; a server decides for itself."""
    return storage.absolute() / ARTIFACTS if uri == local_uri(storage) else None


def check_form(uri: str) -> None:
    """Require that an address is of a tracking store, whether or not that can be reached now.

    Raises:
        InputError: naming ``--tracking-uri``.
    """
    shown, kind = without_credentials(uri), _kind(uri)
    if "://" not in uri or shown == _UNREADABLE or kind not in (*_SERVER_PORTS, "sqlite"):
        raise InputError(
            "--tracking-uri",
            f"must be a {', '.join(_SERVER_PORTS)} or sqlite URI, got {shown!r}",
            "write http://HOST:PORT or sqlite:////ABSOLUTE/FILE.db",
        )
    if kind not in ("http", "https"):
        _require_driver(uri)
    if kind == "sqlite":
        path = urllib.parse.urlsplit(uri).path[1:]
        # Path.is_dir raises for a name that is too long.
        if not path or not os.path.isdir(Path(path).absolute().parent):  # noqa: PTH112
            raise InputError("--tracking-uri", f"no folder for {shown!r}", "create it")


def check_uri(uri: str) -> None:
    """Require that a tracking store can be reached, within seconds and without MLflow.

    Raises:
        InputError: naming ``--tracking-uri``.
    """
    check_form(uri)
    kind = _kind(uri)
    try:
        if kind in ("http", "https"):
            _ask(uri)
        elif kind != "sqlite":
            parts = urllib.parse.urlsplit(uri)
            where = (parts.hostname or "", parts.port or _SERVER_PORTS[kind])
            socket.create_connection(where, timeout=_CONNECT_SECONDS).close()
    # ValueError: a name that cannot be a host's, a path that cannot be one of HTTP.
    except (OSError, ValueError, http.client.HTTPException) as error:
        shown = without_credentials(uri)
        raise InputError(
            "--tracking-uri",
            f"no tracking server answers at {shown!r} ({getattr(error, 'reason', error)})",
            "start it, or leave the option out to log into the storage",
        ) from None


def _kind(uri: str) -> str:
    return uri.partition("://")[0].lower().partition("+")[0]


def _ask(uri: str) -> None:
    """Require that MLflow's health check answers; being asked for a password is an answer."""
    parts = urllib.parse.urlsplit(uri)
    bare = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
    try:
        _get(f"{bare}/health")
    except urllib.error.HTTPError as error:
        if error.code not in (401, 403):
            raise
    # To that one MLflow answers under any name. What else it answers is not asked for here.
    try:
        _get(f"{bare}/api/2.0/mlflow/experiments/search?max_results=1")
    except urllib.error.HTTPError as error:
        with suppress(OSError, http.client.HTTPException):
            if _WRONG_HOST in error.read(_TEXT_LENGTH):
                raise InputError(
                    "--tracking-uri",
                    f"the MLflow server does not answer to the name {parts.hostname!r}",
                    "start it with that name among its --allowed-hosts, or use one it knows",
                ) from None
    except (OSError, http.client.HTTPException):
        pass


def _get(address: str) -> None:
    urllib.request.urlopen(address, timeout=_CONNECT_SECONDS).close()  # noqa: S310 - http(s) alone


def _require_driver(uri: str) -> None:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    try:
        make_url(uri).get_dialect().import_dbapi()
    except (SQLAlchemyError, ImportError, ValueError) as error:
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
    # What a database said; the text of SQLAlchemy around it begins with advice to programmers.
    said = getattr(error.__cause__, "orig", None) or error
    lines = str(said).strip().splitlines()
    text = lines[0] if lines else type(said).__name__
    # Of a request that failed below HTTP, what was asked and the innermost cause.
    text = re.sub(r" failed with exception .*\(Caused by (.*)\)$", r": \1", text)
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
        # No URI, or one with a slip in it, password and all.
        return _UNREADABLE if "@" in uri else uri
    try:
        parts = urllib.parse.urlsplit(uri)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return _UNREADABLE
    if host and "@" in parts.path + parts.query + parts.fragment:
        return _UNREADABLE
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{'' if port is None else f':{port}'}{parts.path}"
