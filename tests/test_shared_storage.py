"""Whether all nodes see the checkpoints: what is asked of them and what is said if they do not."""

from pathlib import Path

import pytest

from esam_tune.errors import InputError
from esam_tune.study import peers, shared_storage
from esam_tune.study.peers import Peer, Silent
from esam_tune.study.shared_storage import check_all_nodes_see, exchange_tokens

PEERS = [Peer(node_id=str(i), address=f"10.0.0.{i}") for i in range(3)]


@pytest.fixture(autouse=True)
def three_peers(monkeypatch):
    monkeypatch.setattr(peers, "peers", lambda: PEERS)


def looking(seen, otherwise):
    """Nodes of which some see what the driver wrote, and the others answer otherwise."""
    asked = []

    def ask(nodes, call, where, path, *, seconds):
        asked.append((nodes, where, path))
        return [
            call(where, path) if node.node_id in seen else otherwise(where, path) for node in nodes
        ]

    return ask, asked


def blind(where, path):
    return None, "No such file or directory"


def read_only(where, path):
    return shared_storage.read_token(where, path), "Read-only file system"


def elsewhere(where, path):
    """What a node answers whose folder of that name is its own, with a stale copy in it."""
    return shared_storage.read_token(where, path), ("/no/such/file", "content")


def silent(where, path):
    return Silent(reason="ModuleNotFoundError: No module named 'esam_tune'")


def test_a_folder_that_all_nodes_see(tmp_path):
    ask, asked = looking("012", blind)
    check_all_nodes_see(str(tmp_path), "--storage", ask=ask)
    ((nodes, where, path),) = asked
    assert (nodes, where) == (PEERS, str(tmp_path))
    assert path.startswith(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("seen", "otherwise", "words"),
    [
        ("01", blind, r"node 10.0.0.2 cannot see .*\(No such file.*add --checkpoint-storage"),
        ("0", read_only, r"node 10.0.0.1 cannot write to .*\(Read-only.*add --checkpoint-storage"),
        ("02", elsewhere, "node 10.0.0.1 has another place at"),
        (
            "",
            silent,
            r"10.0.0.0 cannot run a worker \(ModuleNotFoundError: .*'esam_tune'\).*inst",
        ),
    ],
)
def test_a_node_that_cannot_use_the_folder(tmp_path, seen, otherwise, words):
    where = str(tmp_path / "made" / "here")
    with pytest.raises(InputError, match=f"--storage: .*{words}"):
        check_all_nodes_see(where, "--storage", ask=looking(seen, otherwise)[0])
    assert list(tmp_path.iterdir()) == []


def test_a_node_that_has_left_the_cluster_need_not_see_it(tmp_path):
    def left(where, path):
        return Silent(reason="TaskUnschedulableError: ...", gone=True)

    check_all_nodes_see(str(tmp_path), "--storage", ask=looking("02", left)[0])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_the_driver_cannot_write_is_the_users_mistake(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="--storage: cannot write to"):
        check_all_nodes_see(str(tmp_path / "file" / "x"), "--storage", ask=looking("012", blind)[0])


def test_what_a_node_says_of_a_folder_it_cannot_use(tmp_path):
    path, content = shared_storage.write_token(str(tmp_path))
    found, (own, written) = exchange_tokens(str(tmp_path), path)
    assert (found, Path(own).read_text()) == (content, written)
    found, reason = exchange_tokens(str(tmp_path / "none"), str(tmp_path / "none" / "token"))
    assert found is None
    assert "No such file" in reason
    assert exchange_tokens("nowhere://x/y", "token") == (None, "Protocol not known: nowhere")
    (tmp_path / "file").touch()
    found, reason = exchange_tokens(str(tmp_path / "file"), path)
    assert found == content
    assert "file" in reason


def test_a_store_that_a_node_cannot_reach():
    with pytest.raises(InputError, match=r"--checkpoint-storage: node 10.0.0.0 cannot read 'mem"):
        check_all_nodes_see("memory://h/x", "--checkpoint-storage", ask=looking("", blind)[0])


def test_a_single_node_is_asked_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "peers", list)
    ask, asked = looking("", blind)
    check_all_nodes_see(str(tmp_path), "--storage", ask=ask)
    assert asked == []
