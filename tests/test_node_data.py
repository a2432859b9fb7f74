"""Whether all nodes have the data: what is asked of them and what is said if they do not."""

import pytest

from esam_tune.config import TaskSettings
from esam_tune.errors import InputError
from esam_tune.study import peers
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


def test_nodes_that_cannot_run_a_worker_are_not_asked():
    ask, asked = answering()
    check_all_nodes_have(TASK, 1.0, ask=ask)
    assert asked == []
