"""Driver and workers that share no disk: a node sees neither the storage nor Ray's folder here.

The node is this machine, in a mount namespace where those two folders are empty disks of its own.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import REPOSITORY, command_line, environment, esam_tune, journal_events, write_space
from host_processes import MARK, processes_of_the_host
from object_store import object_store
from ray._common.utils import get_default_ray_temp_dir
from ray.cluster_utils import Cluster

from esam_tune.study import cluster

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.e2e,
    pytest.mark.long,
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("unshare") is None,
        reason="only root can give a node disks of its own",
    ),
]

EPOCHS = 30
WORKER = "ray::RayTrainWorker"


class Node:
    """A node with two CPUs and disks of its own, of a cluster whose head has none."""

    def __init__(self, address, mark) -> None:
        self.address, self.mark = address, mark

    def workers(self) -> list[int]:
        """Process ids of the workers that train."""
        found = processes_of_the_host(self.mark)
        return sorted(pid for pid, line in found.items() if line.startswith(WORKER))


@contextmanager
def node_with_its_own_disks(*folders):
    head = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    mark = uuid.uuid4().hex
    mounts = " && ".join(f"mount -t tmpfs none '{folder}'" for folder in folders)
    start = (
        f"exec '{Path(sys.executable).parent / 'ray'}' start --address={head.address} --num-cpus=2 "
        "--block --disable-usage-stats"
    )
    try:
        process = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", f"{mounts} && {start}"],
            env=environment(**{MARK: mark, "TMPDIR": str(folders[0])}),
            stdout=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + 120
            with cluster.connected(head.address, distributed=False):
                while not any(node.get("CPU") for node in cluster.cluster_nodes()):
                    assert process.poll() is None
                    assert time.monotonic() < deadline
                    time.sleep(0.2)
            yield Node(head.address, mark)
        finally:
            while left := processes_of_the_host(mark):
                for pid in left:
                    os.kill(pid, signal.SIGKILL)
            process.wait()
    finally:
        head.shutdown()


@pytest.fixture
def storage(tmp_path):
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


@pytest.fixture
def uri():
    with object_store() as uri:
        yield uri


@pytest.fixture
def node(storage, uri):
    """A node that has the store's credentials from its own environment."""
    with node_with_its_own_disks(storage, get_default_ray_temp_dir()) as node:
        yield node


@pytest.fixture
def space(tmp_path):
    return write_space(
        tmp_path,
        training={"epochs": EPOCHS, "batch_size": 64, "lr": 0.05},
        search={"optimizer": "sgd", "lr": {"low": 0.01, "high": 0.1}},
        baselines=[],
        trials=1,
    )


def test_a_killed_worker_s_group_goes_on_from_an_object_store(node, storage, uri, space, caplog):
    refused = esam_tune("sweep", space, "--storage", storage, "--address", node.address)
    assert refused.returncode == 2
    assert "--storage: node" in refused.stderr
    assert f"cannot see '{storage}" in refused.stderr
    assert "--checkpoint-storage" in refused.stderr
    assert not list(storage.iterdir())

    def checkpoints():
        return [e for e in journal_events(storage, "tiny") if e["event"] == "checkpoint"]

    with caplog.at_level("INFO", "werkzeug"):
        arguments = [
            *("sweep", space, "--storage", storage, "--checkpoint-storage", uri, "--json"),
            *("--address", node.address, "--workers-per-trial", 2),
        ]
        with subprocess.Popen(
            command_line(*arguments),
            env=environment(),
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as study:
            try:
                deadline = time.monotonic() + 300
                while not checkpoints():
                    assert study.poll() is None
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
                caplog.clear()
                first = node.workers()
                os.kill(first[0], signal.SIGKILL)
                while len(node.workers()) < 2 or node.workers() == first:
                    assert study.poll() is None
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
                printed, errors = study.communicate(timeout=300)
            finally:
                study.kill()
    assert study.returncode == 0, errors
    (trial,) = json.loads(printed)["trials"]
    assert trial["state"] == "complete"
    events = journal_events(storage, "tiny")
    epochs = [e["metrics"]["epoch"] for e in events if e["event"] == "epoch"]
    assert epochs == list(range(1, EPOCHS + 1))
    assert [e["setup"]["workers"] for e in events if e["event"] == "trial_start"] == [2]
    # Both workers of the second group read what the first had put there.
    read = [r.getMessage() for r in caplog.records if "GET /bucket/" in r.getMessage()]
    assert any("state-0.pt" in line for line in read)
    assert any("state-1.pt" in line for line in read)
    assert not (storage / "tiny" / "tune").exists()


def test_single_workers_and_a_training_need_no_disk_in_common(node, storage, uri, space, tmp_path):
    shared = ("--storage", storage, "--checkpoint-storage", uri, "--address", node.address)
    study = esam_tune("sweep", space, *shared, "--max-concurrent", 2, "--trials", 2)
    assert study.returncode == 0, study.stderr
    events = journal_events(storage, "tiny")
    assert [e["state"] for e in events if e["event"] == "trial_end"] == ["complete"] * 2
    kept = [e["path"] for e in events if e["event"] == "checkpoint"]
    assert kept
    assert all(path.startswith("bucket/") for path in kept)

    chosen = storage / "tiny" / "chosen.yaml"
    trained = esam_tune("train", chosen, *shared, "--workers", 2, "--name", "there", "--json")
    assert trained.returncode == 0, trained.stderr
    document = json.loads(trained.stdout)
    assert 0.0 < document["metrics"]["test_accuracy"] <= 1.0
    # From the node's disk through the store to this one.
    assert (storage / "models" / "there" / "weights.pt").stat().st_size > 100_000
