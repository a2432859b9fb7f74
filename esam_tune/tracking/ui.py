"""MLflow's own user interface on a store."""

import errno
import ipaddress
import os
import socket
import sys
from pathlib import Path

from esam_tune.errors import InputError
from esam_tune.tracking.local_store import prepare_store
from esam_tune.tracking.store import check_uri, without_credentials


def serve_ui(uri: str, artifact_root: Path | None, host: str, port: int) -> None:
    """Become MLflow's own server on a store, until it is interrupted.

    A tracking server has a UI of its own: its address is all there is to say.

    Args:
        uri: of the store.
        artifact_root: where its artifacts lie, or None for the store's own choice.
        host: to listen on; said to be open where others reach it.
        port: to listen on.

    Raises:
        InputError: when the store is not there, the host is none of this machine's, or the port is
            taken.
    """
    path = uri.removeprefix("sqlite:///")
    # Path.exists raises for a name that is too long.
    if uri.startswith("sqlite:") and not os.path.exists(path):  # noqa: PTH110
        raise InputError("--storage", f"no runs are logged in {path!r}", "run a sweep first")
    check_uri(uri)
    if uri.startswith(("http://", "https://")):
        sys.stdout.write(f"MLflow UI: {without_credentials(uri)}\n")
        return
    address = _free_address(host, port)
    if not ipaddress.ip_address(address).is_loopback:
        sys.stderr.write(
            f"esam-tune: warning: MLflow asks for no password, and listens on {address}: whoever "
            f"reaches port {port} there can read, change and delete every run\n"
        )
    prepare_store(uri)
    root = [] if artifact_root is None else ["--default-artifact-root", artifact_root.as_uri()]
    shown = f"[{host}]" if ":" in host else host
    sys.stdout.write(f"MLflow UI: http://{shown}:{port}  (Ctrl-C ends it)\n")
    sys.stdout.flush()
    # Through the environment: a command line, with its credentials, is everyone's to see.
    os.environ["MLFLOW_BACKEND_STORE_URI"] = uri
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    # Seven processes for jobs that nobody here gives it.
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    # One reader: MLflow's four processes would take four times as long to start.
    command = [sys.executable, "-m", "mlflow", "ui", "--workers", "1", *root]
    # Becoming the server, rather than starting it, hands it the terminal's signals.
    os.execv(sys.executable, [*command, "--host", host, "--port", str(port)])  # noqa: S606


def _free_address(host: str, port: int) -> str:
    """The IP address of a host of this machine, where a port is free."""
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise InputError(
            "--host", f"{host!r} is no address ({error})", "use 127.0.0.1, or one of this machine"
        ) from None
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(where)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise InputError(
                    "--host", f"{host!r} is no address of this machine", "use 127.0.0.1"
                ) from None
            raise InputError(
                "--port", f"cannot listen on {port} ({error.strerror})", "choose another --port"
            ) from None
    return str(where[0])
