"""MLflow's own user interface on a store."""

import os
import socket
import sys
from pathlib import Path

from esam_tune.errors import InputError
from esam_tune.tracking.store import check_uri, without_credentials


def serve_ui(uri: str, artifact_root: Path | None, port: int) -> None:
    """Become MLflow's own server on a store, until it is interrupted.

    A tracking server has a UI of its own: its address is all there is to say.

    Raises:
        InputError: when the store is not there or the port is taken.
    """
    path = uri.removeprefix("sqlite:///")
    if uri.startswith("sqlite:") and not Path(path).exists():
        raise InputError("--storage", f"no runs are logged in {path!r}", "run a sweep first")
    check_uri(uri)
    if uri.startswith(("http://", "https://")):
        sys.stdout.write(f"MLflow UI: {without_credentials(uri)}\n")
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise InputError(
                "--port", f"cannot listen on {port} ({error.strerror})", "choose another --port"
            ) from None
    root = [] if artifact_root is None else ["--default-artifact-root", artifact_root.as_uri()]
    sys.stdout.write(f"MLflow UI: http://127.0.0.1:{port}  (Ctrl-C ends it)\n")
    sys.stdout.flush()
    # Through the environment: a command line, with its credentials, is everyone's to see.
    os.environ["MLFLOW_BACKEND_STORE_URI"] = uri
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    command = [sys.executable, "-m", "mlflow", "ui", *root]
    # Becoming the server, rather than starting it, hands it the terminal's signals.
    os.execv(sys.executable, [*command, "--host", "127.0.0.1", "--port", str(port)])  # noqa: S606
