"""The on-premise file on two hosts of their own, which are this machine in namespaces.

Each host has an address, processes, a name, a `/tmp/ray`, shared memory and a home of its own, and
an ssh server on port 22. So the file is taken as it stands but for addresses, key and a space more:
Ray's ports are the usual ones, and its `ray stop` reaches the processes of its own host alone. The
environment is links to this one, so that nothing is installed.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, environment, esam_tune, journal_events, write_space
from host_processes import MARK, processes_of_the_host
from launcher import BIN, Launcher, wait_for

from esam_tune.study.cluster import local_cores

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

from emulated_network import EmulatedNetwork, missing

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
LACKING = [
    f"needs {name}" for name in ("ssh", "rsync", "tmux", "unshare") if shutil.which(name) is None
]
LACKING += [] if SSHD else ["needs sshd"]
LACKING += [lack] if (lack := missing()) else []

pytestmark = [
    pytest.mark.long,
    pytest.mark.e2e,
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(bool(LACKING), reason=", ".join(LACKING)),
]

CLIENT, HEAD, WORKER = range(3)
WORKER_PROCESS = "RayTrainWorker"
NAMES = {HEAD: "headhost", WORKER: "workerhost"}
PID_1 = """
set -e
hostname {name}
mount --bind {folder}/hosts /etc/hosts
mount --bind {folder}/{name}.passwd /etc/passwd
mkdir -p /tmp/ray
mount -t tmpfs none /tmp/ray
mount -t tmpfs none /dev/shm
{sshd} -D -e -f {folder}/{name}.sshd &
wait
"""


@dataclass(frozen=True, kw_only=True)
class TwoHosts(Launcher):
    """A user's machine, and the cluster file that names a head and a worker."""

    homes: dict[int, Path]
    marks: dict[int, str]
    folder: Path


def make_home(home: Path) -> None:
    """A home with an environment made of links."""
    (home / "esam-tune-env").mkdir(parents=True)
    (home / ".bashrc").touch()
    for name in ("pyvenv.cfg", "lib", "bin"):
        (home / "esam-tune-env" / name).symlink_to(BIN.parent / name)


def start_host(
    network: EmulatedNetwork, number: int, mark: str, folder: Path, key: Path
) -> subprocess.Popen[bytes]:
    """Start a host's ssh server as all that runs there."""
    home = folder / NAMES[number]
    make_home(home)
    name = NAMES[number]
    hosts = [f"{network.address(each)} {other}\n" for each, other in NAMES.items()]
    (folder / "hosts").write_text("127.0.0.1 localhost\n" + "".join(hosts))
    accounts = Path("/etc/passwd").read_text().splitlines(keepends=True)
    others = [line for line in accounts if not line.startswith("root:")]
    root = f"root:x:0:0:root:{home}:/bin/bash\n"
    (folder / f"{name}.passwd").write_text("".join([root, *others]))
    (folder / f"{name}.sshd").write_text(
        f"ListenAddress {network.address(number)}\nHostKey {key}\nPidFile none\n"
        f"AuthorizedKeysFile {key}.pub\nStrictModes no\nPasswordAuthentication no\nUsePAM no\n"
        f"SetEnv {MARK}={mark} TMUX_TMPDIR={home}\n"
    )
    first = PID_1.format(name=name, folder=folder, sshd=SSHD)
    apart = ("unshare", "--mount", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child")
    return subprocess.Popen(
        network.inside(number, *apart, "sh", "-c", first),
        env=environment(),
        stderr=(folder / f"{name}.log").open("wb"),
    )


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[TwoHosts]:
    Path("/run/sshd").mkdir(exist_ok=True)
    key, client = tmp_path / "key", tmp_path / "client"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    (client / ".ray").mkdir(parents=True)
    (client / ".ray" / "auth_token").write_text(secrets.token_hex(16))
    marks = {number: uuid.uuid4().hex for number in NAMES}
    with ExitStack() as running:
        network = running.enter_context(EmulatedNetwork(3, megabits=1000.0, latency=0.0))
        for number in NAMES:
            # Hosts have a way out, by whose interface Ray finds their address.
            way = ("route", "add", "default", "dev", network.interface(number))
            subprocess.run(network.inside(number, "ip", *way), check=True)
            host = start_host(network, number, marks[number], tmp_path, key)
            running.callback(host.wait)
            running.callback(host.kill)
        text = (REPOSITORY / "jobs" / "clusters" / "on-premise.yaml").read_text(encoding="utf-8")
        config = yaml.safe_load(text)
        config["cluster_name"] = f"esam-tune-{marks[HEAD]}"
        config["provider"] |= {
            "head_ip": network.address(HEAD),
            "worker_ips": [network.address(WORKER)],
        }
        # Search trials and nothing else: a group of workers over two hosts takes a while to start.
        config["file_mounts"]["~/esam-tune/tiny.yaml"] = str(write_space(tmp_path, baselines=[]))
        config["auth"] = {"ssh_user": "root", "ssh_private_key": str(key)}
        cluster_file = tmp_path / "cluster.yaml"
        cluster_file.write_text(yaml.safe_dump(config), encoding="utf-8")
        variables = environment(HOME=str(client), TMPDIR=str(client), RAY_TMPDIR=str(client))
        for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_MODE"):
            variables.pop(name, None)
        yield TwoHosts(
            cluster_file,
            variables,
            tuple(network.inside(CLIENT)),
            homes={number: tmp_path / name for number, name in NAMES.items()},
            marks=marks,
            folder=tmp_path,
        )


def joined(hosts: TwoHosts) -> bool:
    """Whether both hosts are nodes of the cluster, with the CPUs of both."""
    status = hosts.ray("exec", hosts.cluster_file, "RAY_AUTH_MODE=token ray status")
    return f"/{2 * local_cores()}.0 CPU" in status


def trains(hosts: TwoHosts, number: int) -> bool:
    """Whether a worker of a trial runs on a host."""
    return any(
        WORKER_PROCESS in line for line in processes_of_the_host(hosts.marks[number]).values()
    )


def test_a_study_runs_on_both_hosts_from_up_to_down(hosts: TwoHosts, tmp_path: Path) -> None:
    hosts.ray("up", "--yes", "--no-config-cache", hosts.cluster_file)
    wait_for(lambda: joined(hosts), "the worker host", 240)
    shared = tmp_path / "shared"
    shared.mkdir()
    sweep = (
        *(hosts.cluster_file, "jobs/sweep.py", "--"),
        *("esam-tune/tiny.yaml", "--name", "first", "--epochs", 1),
        *("--workers-per-trial", 2 * local_cores(), "--checkpoint-storage", shared),
    )
    with hosts.running("submit", "--no-config-cache", *sweep, "--trials", 1) as submitted:
        both = (HEAD, WORKER)
        wait_for(
            lambda: submitted.over() or all(trains(hosts, number) for number in both),
            "workers of a trial on both hosts",
            300,
        )
        assert not submitted.over(), submitted.printed()
        assert submitted.process.wait(600) == 0, submitted.printed()
    assert "Pareto front" in submitted.printed()

    # Once more: Ray starts anew on both, and the study stays.
    hosts.ray("up", "--yes", "--no-config-cache", hosts.cluster_file)
    wait_for(lambda: joined(hosts), "the worker host again", 240)

    def ended() -> list[str]:
        written = journal_events(hosts.homes[HEAD] / "runs", "first")
        return [event["trial_id"] for event in written if event["event"] == "trial_end"]

    before = ended()
    hosts.ray("submit", "--tmux", *sweep, "--trials", 2, "--resume")
    wait_for(lambda: len(ended()) == len(before) + 1, "the study in tmux", 300)
    assert ended()[:-1] == before

    def over() -> bool:
        events = journal_events(hosts.homes[HEAD] / "runs", "first")
        return events[-1]["event"] == "study_end"

    wait_for(over, "the end of the study in tmux", 120)
    fetched = tmp_path / "fetched"
    hosts.ray("rsync-down", hosts.cluster_file, "~/runs/", f"{fetched}/")
    read = esam_tune("pareto", "first", "--storage", fetched, "--json")
    assert read.returncode == 0, read.stderr
    trials = json.loads(read.stdout)["trials"]
    assert [trial["state"] for trial in trials] == ["complete"] * (len(before) + 1)
    page = esam_tune("report", "first", "--storage", fetched)
    assert page.returncode == 0, page.stderr
    assert (fetched / "first" / "report.html").stat().st_size > 10_000

    hosts.ray("down", "--yes", hosts.cluster_file)

    def stopped() -> bool:
        lines = [
            line for mark in hosts.marks.values() for line in processes_of_the_host(mark).values()
        ]
        return not any("raylet" in line or "gcs_server" in line for line in lines)

    # The launcher stops the head's Ray; a worker's ends when it has missed the head for a minute.
    wait_for(stopped, "the end of Ray on both hosts", 180)
