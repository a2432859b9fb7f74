"""The launcher's commands of docs/clusters.md with the on-premise file, against sshd on loopback.

The test's copy of the file names this machine, the test's key and free ports; the commands in it
run as they stand. What must not touch the machine is kept apart: the account's home is a folder of
the test on both sides, its environment is links to this one, so that nothing is installed, and its
`ray stop` and `pkill`, which would reach every process of the account, reach those alone that came
in through the test's own server.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import host_processes
import pytest
import yaml
from conftest import REPOSITORY, environment, esam_tune, journal_events
from host_processes import MARK, processes_of_the_host, stop_processes_of_the_host
from launcher import BIN, Launcher, wait_for
from ports import free_port

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
MISSING = [name for name in ("ssh", "ssh-keygen", "rsync") if shutil.which(name) is None]
MISSING += [] if SSHD else ["sshd"]

pytestmark = [
    pytest.mark.long,
    pytest.mark.e2e,
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}"),
]


@dataclass(frozen=True, kw_only=True)
class Host(Launcher):
    """An account behind an ssh server, and the cluster file that names it."""

    home: Path
    mark: str
    dashboard: str


def make_home(home: Path, mark: str) -> None:
    """A home with an environment made of links."""
    # sshd starts in the home that the system knows; a user's shell starts in the one it is told.
    (home / ".bashrc").write_text("cd\n")
    linked = home / "esam-tune-env"
    (linked / "bin").mkdir(parents=True)
    for name in ("pyvenv.cfg", "lib"):
        (linked / name).symlink_to(BIN.parent / name)
    for tool in BIN.iterdir():
        if tool.name != "ray":
            (linked / "bin" / tool.name).symlink_to(tool)
    instead = f"exec {sys.executable} {host_processes.__file__} {mark}"
    for name, lines in {
        "ray": f'[ "$1" = stop ] && {instead} stop\nexec {BIN / "ray"} "$@"',
        "pkill": f'{instead} pkill "$@"',
    }.items():
        command = linked / "bin" / name
        command.write_text(f"#!/bin/bash\n{lines}\n")
        command.chmod(0o755)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    mark = secrets.token_hex(8)
    home, client, tools = (tmp_path / name for name in ("home", "client", "tools"))
    for folder in (home, client / ".ray", tools):
        folder.mkdir(parents=True)
    make_home(home, mark)
    # Ray's sockets lie below it, and the path of a socket has at most 107 characters.
    temporary = Path(tempfile.mkdtemp(prefix="esam-"))
    key, host_key = tmp_path / "key", tmp_path / "host_key"
    for path in (key, host_key):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    ssh_port, ray_port, dashboard_port = free_port(), free_port(), free_port()
    token = secrets.token_hex(16)
    (client / ".ray" / "auth_token").write_text(token)

    (tmp_path / "sshd_config").write_text(
        f"Port {ssh_port}\nListenAddress 127.0.0.1\nHostKey {host_key}\nPidFile none\n"
        f"AuthorizedKeysFile {key}.pub\nStrictModes no\nPasswordAuthentication no\nUsePAM no\n"
        f"SetEnv HOME={home} RAY_TMPDIR={temporary} {MARK}={mark}\n"
    )
    # A user would write the port into ~/.ssh/config; here that file is left alone.
    (tmp_path / "ssh_config").write_text(f"Host 127.0.0.1\n  Port {ssh_port}\n")
    ssh = tools / "ssh"
    ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {tmp_path / "ssh_config"} "$@"\n')
    ssh.chmod(0o755)

    text = (REPOSITORY / "jobs" / "clusters" / "on-premise.yaml").read_text(encoding="utf-8")
    text = text.replace("--port=6379", f"--port={ray_port} --dashboard-port={dashboard_port}")
    config = yaml.safe_load(text)
    config["cluster_name"] = f"esam-tune-{mark}"
    config["provider"] |= {"head_ip": "127.0.0.1", "worker_ips": []}
    config["auth"] = {"ssh_user": getpass.getuser(), "ssh_private_key": str(key)}
    cluster_file = tmp_path / "cluster.yaml"
    cluster_file.write_text(yaml.safe_dump(config), encoding="utf-8")

    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    assert SSHD is not None
    with (tmp_path / "sshd.log").open("wb") as log:
        server = subprocess.Popen([SSHD, "-D", "-e", "-f", tmp_path / "sshd_config"], stderr=log)
    variables = environment(
        HOME=str(client), TMPDIR=str(client), PATH=f"{tools}{os.pathsep}{os.environ['PATH']}"
    )
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_MODE"):
        variables.pop(name, None)
    variables["RAY_TMPDIR"] = str(client)
    try:
        yield Host(
            cluster_file,
            variables,
            home=home,
            mark=mark,
            dashboard=f"http://127.0.0.1:{dashboard_port}",
        )
    finally:
        stop_processes_of_the_host(mark)
        server.terminate()
        server.wait(20)
        shutil.rmtree(temporary, ignore_errors=True)


def answer(dashboard: str) -> int | None:
    """How a cluster's dashboard answers to a request without the token, or None."""
    try:
        with urllib.request.urlopen(f"{dashboard}/api/jobs/", timeout=20) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as refused:
        return refused.code
    except OSError:
        return None


def check_status_is_shown(host: Host) -> None:
    def shown() -> bool:
        printed = host.ray("exec", host.cluster_file, "RAY_AUTH_MODE=token ray status")
        return re.search(r"\d/\d+\.\d CPU", printed) is not None

    # The first report takes Ray some seconds.
    wait_for(shown, "the cluster's status")


def check_dashboard_is_forwarded(host: Host) -> None:
    # The document's command goes without ports: they are the test's own here.
    here, there = free_port(), host.dashboard.rpartition(":")[2]
    ports = ("--port", here, "--remote-port", there)
    forwarded = f"http://localhost:{here}"
    with host.running("dashboard", *ports, host.cluster_file) as command:
        wait_for(lambda: command.over() or answer(forwarded), "the forwarded dashboard")
        assert not command.over(), command.printed()
        assert answer(forwarded) == 401


def check_a_study_is_stopped_from_here_and_goes_on(host: Host) -> None:
    sweep = (
        *("submit", "--no-config-cache", host.cluster_file, "jobs/sweep.py", "--"),
        *("esam-tune/search_spaces/digits_noisy.yaml", "--name", "stopped"),
        *("--trials", 1, "--epochs", 20),
    )

    def events(kind: str) -> list[str]:
        written = journal_events(host.home / "runs", "stopped")
        return [event["trial_id"] for event in written if event["event"] == kind]

    with host.running(*sweep) as submitted:
        wait_for(lambda: submitted.over() or events("epoch"), "the first epoch")
        assert not submitted.over(), submitted.printed()
        host.ray("exec", host.cluster_file, "pkill -TERM -f '[s]weep.py'")
        assert submitted.process.wait(120) != 0
    assert "--resume" in submitted.printed()
    # Five baselines and one of the search.
    assert len(events("trial_end")) < 6
    assert "Pareto front" in host.ray(*sweep, "--resume")
    assert sorted(events("trial_end")) == [f"{number:04d}" for number in range(6)]


def test_a_study_on_ones_own_hosts_from_up_to_down(host: Host, tmp_path: Path) -> None:
    host.ray("up", "--yes", "--no-config-cache", host.cluster_file)
    assert (host.home / "esam-tune" / "esam_tune" / "cli" / "job.py").is_file()
    assert not list((host.home / "esam-tune").rglob("__pycache__"))
    token = host.home / ".ray" / "auth_token"
    assert token.read_text() == (Path(host.environment["HOME"]) / ".ray/auth_token").read_text()
    assert token.stat().st_mode & 0o077 == 0
    assert answer(host.dashboard) == 401
    check_status_is_shown(host)
    check_dashboard_is_forwarded(host)

    printed = host.ray(
        *("submit", "--no-config-cache", host.cluster_file, "jobs/sweep.py", "--"),
        *("esam-tune/search_spaces/digits_noisy.yaml", "--name", "first"),
        *("--trials", 1, "--epochs", 1),
    )
    assert "Pareto front" in printed

    # What was chosen lies on the head already, and is trained there.
    host.ray("submit", host.cluster_file, "jobs/train.py", "--", "runs/first/chosen.yaml")
    (result,) = (host.home / "runs" / "models").glob("*/result.json")
    trained = json.loads(result.read_text())
    assert trained["settings"]["origin"]["study"] == "first"
    assert 0.0 < trained["metrics"]["test_accuracy"] <= 1.0

    check_a_study_is_stopped_from_here_and_goes_on(host)

    fetched = tmp_path / "fetched"
    host.ray("rsync-down", host.cluster_file, "~/runs/", f"{fetched}/")
    read = esam_tune("pareto", "first", "--storage", fetched, "--json")
    assert read.returncode == 0, read.stderr
    trials = json.loads(read.stdout)["trials"]
    assert {trial["state"] for trial in trials} == {"complete"}
    assert sum(not trial["baseline"] for trial in trials) == 1

    assert any("raylet" in line for line in processes_of_the_host(host.mark).values())
    host.ray("down", "--yes", host.cluster_file)
    wait_for(lambda: not processes_of_the_host(host.mark), "the end of the host's processes", 30)
