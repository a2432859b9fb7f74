"""Whether all nodes see the checkpoints: what is asked of them and what is said if they do not."""

import pytest

from esam_tune.errors import InputError
from esam_tune.study import shared_storage
from esam_tune.study.shared_storage import Peer, check_all_nodes_see

PEERS = [Peer(node_id=str(i), address=f"10.0.0.{i}") for i in range(3)]


@pytest.fixture(autouse=True)
def peers(monkeypatch):
    monkeypatch.setattr(shared_storage, "_peers", lambda: PEERS)


def looking(seen):
    """Nodes of which some see what the driver wrote; what they were asked."""
    asked = []

    def look(peers, where, path):
        asked.append((peers, where, path))
        return [
            shared_storage.read_token(where, path) if peer.node_id in seen else None
            for peer in peers
        ]

    return look, asked


def test_a_folder_that_all_nodes_see(tmp_path):
    look, asked = looking("012")
    check_all_nodes_see(str(tmp_path), "--storage", look=look)
    ((peers, where, path),) = asked
    assert (peers, where) == (PEERS, str(tmp_path))
    assert path.startswith(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("seen", "words"),
    [("01", "node 10.0.0.2 does not see"), ("0", "node 10.0.0.1 and 1 more does not see")],
)
def test_a_disk_of_the_drivers_own(tmp_path, seen, words):
    look, _ = looking(seen)
    with pytest.raises(InputError, match=f"--storage: {words}.*add --checkpoint-storage"):
        check_all_nodes_see(str(tmp_path), "--storage", look=look)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_an_earlier_run_does_not_count(tmp_path):
    with pytest.raises(InputError, match="and 2 more"):
        check_all_nodes_see(str(tmp_path), "--storage", look=lambda *_: ["stale"] * 3)


def test_a_store_that_a_node_cannot_reach():
    with pytest.raises(InputError, match=r"--checkpoint-storage: node 10.0.0.0 .*cannot read 'mem"):
        check_all_nodes_see("memory://h/x", "--checkpoint-storage", look=looking("")[0])


def test_a_single_node_is_asked_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_storage, "_peers", list)
    look, asked = looking("")
    check_all_nodes_see(str(tmp_path), "--storage", look=look)
    assert asked == []
