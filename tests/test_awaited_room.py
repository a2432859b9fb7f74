"""Room on a cluster that grows: what is asked of its autoscaler, and how long it is waited for."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import ray
from conftest import environment, esam_tune, journal_events, write_space
from host_processes import MARK, processes_of_the_host
from ports import free_port

from esam_tune.errors import InputError
from esam_tune.study import awaited_room
from esam_tune.study.awaited_room import Room, with_room
from esam_tune.study.placement import WorkerShape, place

ADDRESS = "127.0.0.1:6379"
ON_A_GPU = WorkerShape(cpus=2, gpus=1)
SETTINGS = """
task: {dataset: digits, model: small_cnn}
training: {epochs: 1, batch_size: 64, lr: 0.05}
params: {optimizer: sgd}
"""


def room(workers, shape=ON_A_GPU):
    return Room(workers=workers, shape=shape, address=ADDRESS)


class GrowingCluster:
    """A cluster that adds a node at each look; what was asked of it."""

    def __init__(self, monkeypatch, nodes, *, grows=True):
        self.nodes, self.grows = nodes, grows
        self.asked = self.removed = None
        monkeypatch.setattr(ray.util, "placement_group", self.ask)
        monkeypatch.setattr(ray.util, "remove_placement_group", self.remove)
        monkeypatch.setattr(awaited_room, "cluster_nodes", lambda: self.nodes)

    def ask(self, bundles):
        self.asked = bundles
        return self

    def wait(self, _seconds):
        if self.grows:
            self.nodes = [*self.nodes, {"CPU": 4.0, "GPU": 1.0}]
        return len(self.nodes) > len(self.asked)

    def remove(self, group):
        assert group is self
        self.removed = True


def test_nodes_that_have_the_room_are_not_waited_for(monkeypatch):
    nodes = [{"CPU": 4.0, "GPU": 2.0}]
    cluster = GrowingCluster(monkeypatch, nodes)
    assert with_room(nodes, None) is nodes
    assert with_room(nodes, room(2)) is nodes
    assert cluster.asked is None


def test_a_cluster_is_asked_and_waited_for_until_it_has_grown(monkeypatch, caplog):
    head = [{"CPU": 0.0}]
    cluster = GrowingCluster(monkeypatch, head)
    found = with_room(head, room(3))
    assert cluster.asked == [{"CPU": 2.0, "GPU": 1.0}] * 3
    assert cluster.removed
    assert found == [*head, *[{"CPU": 4.0, "GPU": 1.0}] * 3]
    assert "room for 0 of 3 workers" in caplog.text


def test_without_gpus_none_are_asked_for(monkeypatch):
    cluster = GrowingCluster(monkeypatch, [])
    with_room([], room(1, WorkerShape(gpus=0)))
    assert cluster.asked == [{"CPU": 1.0}]


def test_what_does_not_come_is_given_up_with_what_there_is(monkeypatch):
    monkeypatch.setattr(awaited_room, "_MINUTES", 0.0)
    nodes = [{"CPU": 4.0, "GPU": 1.0}]
    cluster = GrowingCluster(monkeypatch, nodes, grows=False)
    with pytest.raises(InputError, match="room for 1 of 3 workers after 0 minutes") as caught:
        with_room(nodes, room(3))
    assert caught.value.field == "--await-workers"
    assert cluster.removed


@pytest.mark.parametrize(
    ("workers", "shape"),
    [
        (3, ON_A_GPU),
        (3, WorkerShape(cpus=2, gpus=0)),
        (5, WorkerShape(gpus=0.25)),
        (4, WorkerShape(gpus=0.25)),
        (2, WorkerShape(cpus=2, gpus=2)),
    ],
)
def test_the_room_as_nodes_holds_the_workers_and_no_more(workers, shape):
    asked = room(workers, shape)
    assert asked.found(asked.nodes()) == workers
    assert place(asked.nodes(), workers, None, shape=shape).slots == workers
    with pytest.raises(InputError, match=f"at most {workers}"):
        place(asked.nodes(), workers + 1, None, shape=shape)


@pytest.mark.parametrize("verb", ["sweep", "train", "scale", "refine"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--gpus-per-worker", "1"], "--await-workers: waits for nodes of a cluster"),
        (["--address", ADDRESS], "--await-workers: needs --gpus-per-worker"),
    ],
)
def test_a_request_that_says_too_little_is_refused(
    capsys, monkeypatch, tmp_path, verb, options, words
):
    from esam_tune.cli import main

    space = write_space(tmp_path)
    first = {
        "sweep": [space],
        "train": [tmp_path / "settings.yaml"],
        "scale": [tmp_path / "settings.yaml", "--workers", "1,2"],
        "refine": ["tiny", "--seeds", "2"],
    }[verb]
    (tmp_path / "settings.yaml").write_text(SETTINGS)
    code = main([verb, *map(str, first), *options, "--await-workers", "2"])
    assert code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verb", "given", "words"),
    [
        ("train", [], "must be 1, the workers of the training, got 3; ask for 1"),
        ("train", ["--workers", "2"], "must be 2, the workers of the training, got 3"),
        ("scale", ["--workers", "1,2"], "must be 2, the workers of the largest count, got 3"),
    ],
)
def test_a_training_awaits_its_own_workers(capsys, tmp_path, verb, given, words):
    from esam_tune.cli import main

    settings = tmp_path / "settings.yaml"
    settings.write_text(SETTINGS)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        asked = ["--address", address, "--gpus-per-worker", "1", "--await-workers", "3"]
        storage = ["--storage", str(tmp_path)]
        assert main([verb, str(settings), *given, *asked, *storage]) == 2
    assert f"--await-workers: {words}" in capsys.readouterr().err


def cloud(port):
    """A cluster file of Ray's own for one machine: a head without CPUs, and up to two nodes."""
    node = {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2}
    head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    lists = ("initialization", "setup", "head_setup", "worker_setup")
    lists += ("head_start_ray", "worker_start_ray")
    return {
        "cluster_name": "grows",
        "max_workers": 2,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 10,
        "provider": {
            # By its own name, it would want a file that Ray's packages leave out.
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "launch_multiple": True,
            "disable_node_updaters": True,
            "gcs_address": f"127.0.0.1:{port}",
            "head_node_id": FIRST_NODE,
        },
        "auth": {},
        "head_node_type": "ray.head.default",
        "available_node_types": {"ray.head.default": head, "worker": node},
        "file_mounts": {},
        "cluster_synced_files": [],
        **{f"{name}_commands": [] for name in lists},
    }


FIRST_NODE = "f" * 51 + "00000"
# Ray has two autoscalers; `ray up` and KubeRay use the second, unless told otherwise.
AUTOSCALERS = {
    "first": {},
    "second": {
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FIRST_NODE,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FIRST_NODE,
    },
}


@contextmanager
def growing_cluster(variables, autoscaler):
    """The address of a Ray whose autoscaler starts nodes on this machine when they are wanted."""
    mark, port = uuid.uuid4().hex, free_port()
    # Ray's sockets lie below it, and the path of a socket has at most 107 characters.
    temporary = Path(tempfile.mkdtemp(prefix="esam-"))
    (temporary / "cloud.json").write_text(json.dumps(cloud(port)))
    command = [
        *(Path(sys.executable).parent / "ray", "start", "--head", "--block", "--num-cpus=0"),
        *(f"--port={port}", f"--dashboard-port={free_port()}", "--disable-usage-stats"),
        *(f"--temp-dir={temporary}", f"--autoscaling-config={temporary / 'cloud.json'}"),
    ]
    here = {
        MARK: mark,
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        **AUTOSCALERS[autoscaler],
    }
    head = subprocess.Popen(command, env={**variables, **here}, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not answers(port):
            assert head.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield f"127.0.0.1:{port}"
    finally:
        while left := processes_of_the_host(mark):
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        head.wait()
        shutil.rmtree(temporary, ignore_errors=True)


def answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.long
@pytest.mark.parametrize("autoscaler", AUTOSCALERS)
def test_an_autoscaler_adds_the_nodes_that_a_study_awaits(tmp_path, autoscaler):
    space = write_space(tmp_path, trials=1)
    asked = ("sweep", space, "--storage", tmp_path / "runs", "--gpus-per-worker", "0")
    variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    with growing_cluster(environment(**variables), autoscaler) as address:
        without = esam_tune(*asked, "--address", address, **variables)
        assert without.returncode == 2
        assert "--cpus-per-worker: must be at most 0" in without.stderr
        planned = esam_tune(
            *asked, "--address", address, "--await-workers", "2", "--dry-run", "--json", **variables
        )
        assert planned.returncode == 0, planned.stderr
        assert json.loads(planned.stdout)["plan"]["max_concurrent"] == 2
        study = esam_tune(*asked, "--address", address, "--await-workers", "2", **variables)
        assert study.returncode == 0, study.stderr
        assert "room for 0 of 2 workers" in study.stderr
    events = journal_events(tmp_path / "runs", "tiny")
    ended = [event for event in events if event["event"] == "trial_end"]
    assert {event["state"] for event in ended} == {"complete"}
    # On nodes that no one had started: the head has no CPU.
    assert len(ended) > 1
