"""A final training on a worker group whose driver is killed."""

from __future__ import annotations

import json
import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from host_processes import MARK, stop_processes_of_the_host
from ray.cluster_utils import Cluster
from training_process import events, train, training, untimed, wait_for_epoch, write_settings

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.e2e, pytest.mark.long]


@pytest.fixture(params=["a group on a Ray of its own", "one worker on a Ray that stays"])
def where(request: pytest.FixtureRequest) -> Iterator[tuple[object, ...]]:
    """Options that say on how many workers and on which Ray."""
    if request.param.startswith("a group"):
        yield ("--workers", 2)
        return
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        yield ("--workers", 1, "--address", nodes.address)
    finally:
        nodes.shutdown()


def test_a_training_whose_driver_was_killed_goes_on_bit_for_bit(
    tmp_path: Path, where: tuple[object, ...]
) -> None:
    settings, storage = write_settings(tmp_path / "settings.yaml"), tmp_path / "runs"
    common = (settings, "--storage", storage, "--cpus-per-worker", 1, *where)
    whole = train(*common, "--name", "whole", "--json")
    assert whole.returncode == 0, whole.stderr
    mark = uuid.uuid4().hex
    try:
        with training(*common, "--name", "cut", **{MARK: mark}) as process:
            wait_for_epoch(process, 3)
            os.kill(process.pid, signal.SIGKILL)
            assert process.wait(60) == -signal.SIGKILL
    finally:
        # A driver that is killed cannot end the Ray that it started.
        stop_processes_of_the_host(mark)
    before = [event["event"] for event in events(storage, "cut")]
    assert before.count("epoch") < 8
    assert "checkpoint" in before
    again = train(*common, "--name", "cut", "--resume", "--json")
    assert again.returncode == 0, again.stderr
    first, second = json.loads(whole.stdout), json.loads(again.stdout)
    assert second["weights_digest"] == first["weights_digest"]
    assert untimed(second["history"]) == untimed(first["history"])
    assert [metrics["epoch"] for metrics in second["history"]] == list(range(1, 9))
    # It went on from a checkpoint: what was trained again is not the whole of it.
    assert f"epoch {before.count('epoch') + 1}/8" in again.stderr
    assert "epoch 1/8" not in again.stderr
    assert not (storage / "models" / "cut" / "checkpoints").exists()
