"""A PostgreSQL server of a test's own on the loopback, with a user who needs a password."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ports import free_port

PASSWORD = "not-for-logs"

_SERVERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def missing() -> list[str]:
    """What a server of its own would need here and is not there; empty where nothing lacks."""
    found = {
        "PostgreSQL's server (apt-get install postgresql)": bool(_SERVERS),
        "runuser": shutil.which("runuser") is not None,
    }
    return [name for name, there in found.items() if not there]


@contextmanager
def postgresql() -> Iterator[str]:
    """Run a server; the URL of a database in it."""
    # Not below pytest's own folder, which each session that starts closes to other users again:
    # the server refuses to run as root, and its own user must be able to reach its data.
    folder = Path(tempfile.mkdtemp(prefix="esam-postgresql-"))
    data, password, port = folder / "data", folder / "password", free_port()
    data.mkdir()
    password.write_text(PASSWORD)
    as_server = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    if as_server:
        for path in (folder, data, password):
            shutil.chown(path, "postgres")

    def run(program: str, *arguments: str | Path) -> None:
        subprocess.run(
            [*as_server, _SERVERS[-1] / program, *arguments],
            check=True,
            cwd=data,
            timeout=120,
            stdout=subprocess.DEVNULL,
        )

    login = ("-U", "tuner", "-A", "scram-sha-256", "--pwfile", password)
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
    try:
        run("initdb", "-D", data, "--no-sync", *login)
        run("pg_ctl", "-D", data, "-w", "-l", data / "log", "-o", options, "start")
        try:
            yield f"postgresql://tuner:{PASSWORD}@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)
