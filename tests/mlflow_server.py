"""A real MLflow server on the loopback, which a test may kill and start again, and the verb ui."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

from conftest import REPOSITORY, command_line, environment
from ports import free_port

_START_SECONDS = 300.0
# Otherwise each server starts seven more processes, which takes minutes of two cores.
WITHOUT_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


class MlflowServer:
    """A server on one port with one database, whatever happens to its process.

    Args:
        folder: of what it keeps.
        database: where runs are kept, as SQLAlchemy names it; by default a file in the folder.
    """

    def __init__(self, folder, database=None):
        self.folder = folder
        self._database = database or f"sqlite:///{folder / 'server.db'}"
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.kill()

    def start(self):
        """Start it, and wait until it answers."""
        command = [sys.executable, "-m", "mlflow", "server"]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        # By variables, as docs/clusters.md has it: an option would show a database's password.
        places = {
            "MLFLOW_BACKEND_STORE_URI": self._database,
            "MLFLOW_ARTIFACTS_DESTINATION": str(self.folder / "artifacts"),
        }
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **places, **WITHOUT_JOBS, "MLFLOW_DISABLE_TELEMETRY": "true"},
            )
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            assert self._process.poll() is None, (self.folder / "server.log").read_text()
            with suppress(OSError):
                urllib.request.urlopen(f"{self.uri}/health", timeout=1).close()
                return
            time.sleep(0.1)
        raise AssertionError("the server did not start")

    @property
    def processes(self):
        """Ids of its processes."""
        groups = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                groups[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[2])
        return [number for number, group in groups.items() if group == self._process.pid]

    def stop(self):
        """Let it hang: it takes connections, and answers none until it goes on."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def go_on(self):
        """Let it answer what has piled up, and all that follows."""
        os.killpg(self._process.pid, signal.SIGCONT)

    def kill(self):
        """End it as a lost machine does, its workers too."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextmanager
def user_interface(storage):
    """What ``esam-tune ui`` serves of a storage; its address."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        command_line("ui", "--storage", storage, "--port", port),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
        cwd=REPOSITORY,
    )
    try:
        end = time.monotonic() + _START_SECONDS
        while True:
            assert process.poll() is None, "the interface ended"
            assert time.monotonic() < end, "the interface did not start"
            with suppress(OSError):
                urllib.request.urlopen(f"{address}/health", timeout=1).close()
                break
            time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
