"""Servers are on loopback, ask for a token where they run code, and say so when opened."""

import ipaddress
import os
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import uuid
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import environment
from host_processes import MARK, processes_of_the_host
from ports import free_port

from esam_tune.cli import main
from esam_tune.tracking import ui

LISTENS = "0A"
CLUSTER = """
import sys
from ray._private import worker
from esam_tune.study import cluster
with cluster.connected(None, distributed=True):
    print("http://" + worker._global_node.webui_url, flush=True)
    sys.stdin.read()
"""


def sockets_of(pid):
    found = set()
    with suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                found.add(str(link.readlink()))
    return found


def address_of(text):
    """An address as the kernel's table has it: words of four bytes, each backwards."""
    host, _, port = text.partition(":")
    words = [bytes.fromhex(host[i : i + 8])[::-1] for i in range(0, len(host), 8)]
    found = ipaddress.ip_address(b"".join(words))
    return getattr(found, "ipv4_mapped", None) or found, int(port, 16)


def listening(pids):
    """Addresses and ports that processes listen on."""
    own = set().union(*map(sockets_of, pids))
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENS and f"socket:[{fields[9]}]" in own:
                found.add(address_of(fields[1]))
    return found


@pytest.mark.ray
@pytest.mark.slow
def test_a_ray_of_our_own_listens_on_loopback_and_asks_for_a_token(tmp_path):
    mark = uuid.uuid4().hex
    # Below it Ray makes sockets, whose paths hold 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="esam-") as scratch:
        process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER],
            env={**environment(), MARK: mark, "TMPDIR": scratch, "HOME": str(tmp_path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            dashboard = process.stdout.readline().strip()
            assert dashboard.startswith("http://127.0.0.1:")
            found = listening(processes_of_the_host(mark))
            assert int(dashboard.rpartition(":")[2]) in {port for _, port in found}
            assert len(found) > 3
            assert {str(address) for address, _ in found if not address.is_loopback} == set()
            # Whoever may submit a job runs code: without the token nobody may.
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(f"{dashboard}/api/jobs/", timeout=10)
            assert refused.value.code == 401
            process.stdin.close()
        assert process.returncode == 0


@pytest.fixture
def served(monkeypatch, tmp_path):
    """Commands that the interface would have become."""
    commands = []
    (tmp_path / "mlflow.db").touch()
    monkeypatch.setattr(ui.os, "execv", lambda _, command: commands.append(command))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    jobs = "MLFLOW_SERVER_ENABLE_JOB_EXECUTION"
    for name in ("MLFLOW_BACKEND_STORE_URI", "MLFLOW_DISABLE_TELEMETRY", jobs):
        # So that they are put back: the process that becomes the server has no other after it.
        monkeypatch.setenv(name, "")
    return commands


def test_the_interface_is_on_loopback_unless_told_otherwise(served, tmp_path, capsys):
    port = str(free_port())
    assert main(["ui", "--storage", str(tmp_path), "--port", port]) == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == (f"MLflow UI: http://127.0.0.1:{port}  (Ctrl-C ends it)\n", "")
    assert served[0][-4:] == ["--host", "127.0.0.1", "--port", port]
    # The store's address, which may hold a password, is in no command line.
    assert not [word for word in served[0] if "sqlite" in word or "mlflow.db" in word]


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_an_interface_that_others_reach_says_so(served, tmp_path, capsys, host):
    if ":" in host and not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    port = str(free_port())
    assert main(["ui", "--storage", str(tmp_path), "--host", host, "--port", port]) == 0
    said = capsys.readouterr()
    assert said.err.startswith("esam-tune: warning: MLflow asks for no password, and listens on ")
    assert f"whoever reaches port {port} there can read, change and delete every run" in said.err
    assert served[0][-4:] == ["--host", host, "--port", port]


@pytest.mark.parametrize("host", ["203.0.113.7", "a..b", "no such host"])
def test_a_host_that_is_none_of_this_machine_is_refused(served, tmp_path, capsys, host):
    arguments = ["ui", "--storage", str(tmp_path), "--host", host, "--port", str(free_port())]
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("esam-tune: error: --host: ")
    assert served == []


def test_token_authentication_is_never_switched_off():
    """Ray asks for a token by default; what starts nodes by hand says so in so many words."""
    from conftest import REPOSITORY

    folders = ("esam_tune", "jobs", "docs", "benchmarks")
    paths = [p for folder in folders for p in (REPOSITORY / folder).rglob("*") if p.is_file()]
    for path in (*paths, REPOSITORY / "README.md", REPOSITORY / "Makefile"):
        if path.suffix in (".py", ".yaml", ".md", "") and b"RAY_AUTH_MODE" in path.read_bytes():
            text = path.read_text(encoding="utf-8")
            modes = {part[:8].strip("=: '\"") for part in text.split("RAY_AUTH_MODE")[1:]}
            assert not [mode for mode in modes if mode.startswith(("disabl", "off", "none", "0"))]
    assert os.environ.get("RAY_AUTH_MODE", "token") == "token"
