"""Whether all nodes have the data: what is asked of them and what is said if they do not."""

import pytest
import ray

from esam_tune.config import TaskSettings
from esam_tune.errors import InputError
from esam_tune.study import cluster, peers
from esam_tune.study.node_data import check_all_nodes_have, prepare_data
from esam_tune.study.peers import Peer, Silent

TASK = TaskSettings(dataset="digits", model="small_cnn")


@pytest.fixture(autouse=True)
def two_peers(monkeypatch):
    nodes = [Peer(node_id=str(i), address=f"10.0.0.{i}") for i in range(2)]
    monkeypatch.setattr(peers, "peers", lambda gpus=0.0: nodes if gpus < 1 else [])


def answering(*answers):
    asked = []

    def ask(nodes, call, task, *, seconds):
        asked.append((call, task))
        return list(answers)

    return ask, asked


def test_every_node_is_asked_for_the_data():
    ask, asked = answering(None, None)
    check_all_nodes_have(TASK, 0.0, ask=ask)
    assert asked == [(prepare_data, TASK)]
    prepare_data(TASK)


def test_what_a_node_lacks_is_said_as_it_found_it():
    mistake = InputError("task.root", "has no folder train/", "put it there")
    ask, _ = answering(None, Silent(reason="InputError: ...", mistake=mistake))
    with pytest.raises(InputError, match=r"^task.root: on node 10.0.0.1: has no folder .*put it"):
        check_all_nodes_have(TASK, 0.0, ask=ask)


def test_a_node_that_fails_otherwise_is_named():
    ask, _ = answering(Silent(reason="MemoryError: no message"), None)
    with pytest.raises(InputError, match=r"10.0.0.0 cannot prepare digits \(MemoryError: no mess"):
        check_all_nodes_have(TASK, 0.5, ask=ask)


def test_a_node_that_has_left_the_cluster_lacks_nothing():
    ask, _ = answering(Silent(reason="TaskUnschedulableError: ...", gone=True), None)
    check_all_nodes_have(TASK, 0.0, ask=ask)


@pytest.mark.ray
@pytest.mark.slow
def test_a_node_that_is_not_there_is_told_from_one_that_fails():
    with cluster.connected(None, distributed=False):
        here = Peer(node_id=ray.get_runtime_context().get_node_id(), address="here")
        left = Peer(node_id="ab" * (len(here.node_id) // 2), address="left")
        bad = TaskSettings(dataset="folder", model="small_cnn", data_dir="/none")
        failing, gone = peers.ask([here, left], prepare_data, bad, seconds=120.0)
        (fine,) = peers.ask([here], prepare_data, TASK, seconds=120.0)
    assert failing.mistake is not None
    assert not failing.gone
    assert gone.gone
    assert fine is None


def test_nodes_that_cannot_run_a_worker_are_not_asked():
    ask, asked = answering()
    check_all_nodes_have(TASK, 1.0, ask=ask)
    assert asked == []
