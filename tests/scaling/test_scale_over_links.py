"""The verb ``scale`` over a Ray cluster whose nodes are joined by slow links of known rate."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, command_line, environment
from host_processes import MARK, processes_of_the_host
from made_study import settings_document

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

from emulated_network import EmulatedNetwork, missing

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.e2e,
    pytest.mark.long,
    pytest.mark.skipif(missing() is not None, reason=f"no emulation here: {missing()}"),
]

NODES = 4
MEGABITS = 25.0
COUNT_NODES = (
    "import ray, sys; ray.init(sys.argv[1], log_to_driver=False); "
    "print(sum(node['Alive'] for node in ray.nodes()))"
)


@pytest.fixture
def variables():
    """The environment of all who may speak to the cluster."""
    return environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(16))


@contextmanager
def ray_nodes(network, variables):
    """A Ray node of one CPU in each namespace, the first of them the head; its address."""
    mark = uuid.uuid4().hex
    # Ray's sockets lie below it, and the path of a socket has at most 107 characters.
    temporary = tempfile.mkdtemp(prefix="esam-")
    address = f"{network.address(0)}:6379"
    started = []
    try:
        for number in range(NODES):
            head = ["--head", "--port=6379", f"--temp-dir={temporary}"]
            command = [
                *(str(Path(sys.executable).parent / "ray"), "start", "--block"),
                *("--disable-usage-stats", "--num-cpus=1"),
                *(head if number == 0 else [f"--address={address}"]),
                f"--node-ip-address={network.address(number)}",
            ]
            started.append(
                subprocess.Popen(
                    network.inside(number, *command),
                    # Without a name server, gloo would not find the interface by itself.
                    env={**variables, MARK: mark, "GLOO_SOCKET_IFNAME": network.interface(number)},
                    stdout=subprocess.DEVNULL,
                )
            )
            wait_for_nodes(network, variables, address, number + 1)
        yield address
    finally:
        while left := processes_of_the_host(mark):
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for process in started:
            process.wait()
        shutil.rmtree(temporary, ignore_errors=True)


def wait_for_nodes(network, variables, address, count):
    asking = network.inside(0, sys.executable, "-c", COUNT_NODES, address)
    deadline = time.monotonic() + 180
    while True:
        answer = subprocess.run(asking, env=variables, capture_output=True, text=True, check=False)
        if answer.stdout.strip() == str(count):
            return
        assert time.monotonic() < deadline, answer.stderr
        time.sleep(1)


def test_the_link_between_the_nodes_is_found_in_the_step_times(variables, tmp_path):
    settings = settings_document()
    # With few rows the links are what limits, and two cores serve four workers.
    settings["training"]["batch_size"] = 4
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(settings))
    storage = tmp_path / "runs"
    with (
        EmulatedNetwork(NODES, MEGABITS, 0.0) as network,
        ray_nodes(network, variables) as address,
    ):
        command = command_line(
            *("scale", path, "--workers", "1,2,4", "--mode", "weak", "--rounds", 5, "--steps", 5),
            *("--storage", storage, "--address", address, "--name", "links"),
            *("--network", f"latency=1us,bandwidth={MEGABITS:g}Mbit"),
        )
        study = subprocess.run(
            network.inside(0, *command),
            env=variables,
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
    assert study.returncode == 0, study.stderr
    document = json.loads((storage / "scaling" / "links" / "result.json").read_text())
    rate = MEGABITS / 8e-6
    for method in document["methods"]:
        for point in method["points"][1:]:
            # What a ring sends over a link cannot arrive sooner, but for the burst that passes.
            sent = 2 * (1 - 1 / point["workers"]) * point["all_reduce_bytes"]
            assert point["all_reduce_seconds"]["value"] > 0.9 * sent / rate
    fitted = document["model"]["bandwidth_bytes_per_second"]["value"]
    # Other work on this machine makes steps longer, never shorter.
    assert 0.3 * rate < fitted < 1.5 * rate
    assert [check["workers"] for check in document["model"]["leave_one_out"]] == [2, 4]
    assert "leaving out 4 workers: SGD" in study.stdout
