"""The emulated network: as slow as it says, gone afterwards, and fit for the model's check."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from emulated_network import EmulatedNetwork, missing  # noqa: E402

pytestmark = pytest.mark.skipif(missing() is not None, reason=f"no emulation here: {missing()}")

SERVER = """
import socket, sys
listener = socket.create_server((sys.argv[1], 5000))
for _ in range(2):
    peer, _ = listener.accept()
    while peer.recv(65536):
        pass
    peer.sendall(b"x")
    peer.close()
"""
CLIENT = """
import json, socket, sys, time
def ask(size):
    for _ in range(200):
        try:
            peer = socket.create_connection((sys.argv[1], 5000))
            break
        except ConnectionRefusedError:
            time.sleep(0.05)
    start = time.perf_counter()
    peer.sendall(bytes(size))
    peer.shutdown(socket.SHUT_WR)
    assert peer.recv(1) == b"x"
    return time.perf_counter() - start
json.dump([ask(1), ask(500_000)], open(sys.argv[2], "w"))
"""


def existing():
    spaces = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True)
    ours = f"es{os.getpid() % 100000}"
    return [line for line in (spaces.stdout + links.stdout).splitlines() if ours in line]


def test_a_link_is_no_faster_than_it_says_and_is_gone_afterwards(tmp_path):
    answer = tmp_path / "seconds.json"
    with EmulatedNetwork(2, megabits=10, latency=0.03) as network:
        assert len(existing()) == 2  # the interfaces are inside the namespaces
        address = network.address(1)
        server = network.start(1, [sys.executable, "-c", SERVER, address], {})
        client = network.start(0, [sys.executable, "-c", CLIENT, address, str(answer)], {})
        assert client.wait(60) == 0
        assert server.wait(60) == 0
    assert existing() == []
    one_byte, many = json.loads(answer.read_text())
    # There and back again.
    assert one_byte >= 2 * 0.03
    # 500 kB at 10 Mbit/s take 0.4 s, less what the bucket lets through at once.
    assert many >= 2 * 0.03 + 0.38


def test_nothing_is_left_behind_when_a_block_fails():
    threads = threading.active_count()
    with pytest.raises(ZeroDivisionError), EmulatedNetwork(2, megabits=10, latency=0.0):
        _ = 1 / 0
    assert existing() == []
    assert threading.active_count() == threads


def test_nothing_is_left_behind_when_a_link_cannot_be_made(monkeypatch):
    monkeypatch.setattr("emulated_network._QUEUE", "long")
    with pytest.raises(RuntimeError, match="tc qdisc"), EmulatedNetwork(2, 10, 0.0):
        pass
    assert existing() == []


@pytest.mark.long
def test_the_benchmark_holds_the_model_against_a_link(tmp_path):
    written = tmp_path / "table.json"
    done = subprocess.run(
        [
            sys.executable, str(BENCHMARKS / "network.py"), "--workers", "1,2", "--megabits", "40",
            "--milliseconds", "2", "--rounds", "3", "--steps", "2", "--json", str(written),
        ],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = json.loads(written.read_text())
    assert done.stdout.count("\n| 40 Mbit/s, 2 ms |") == len(table) == 3
    for row in table:
        assert row["workers"] == 2
        # A ring of two sends every byte once: 226 kB at 40 Mbit/s, less what the bucket holds.
        assert row["step_ms"] > row["local_ms"] / 2 + 40
        assert -1 < row["from_link"] < 1
        assert row["left_out"] is None
        assert 5 < row["fitted_megabits"] < 80
