"""Whether all nodes of the cluster see the place where checkpoints are kept.

Nothing else of a study is shared: journal, Optuna's database, MLflow's store and pictures are
written by the driver alone. A trial's checkpoint is written on the node it runs on and read on the
node it goes on at, so a folder on the driver's own disk would lose every trial on another node.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from esam_tune.checkpoint_storage import (
    OPTION,
    is_remote,
    read_token,
    remove_token,
    write_token,
)
from esam_tune.errors import InputError

_ANSWER_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Another node of the cluster.

    Args:
        node_id: as Ray names it.
        address: for people.
    """

    node_id: str
    address: str


# Asks nodes what they read at a path: where, path -> each node's answer in the order of the peers.
Look = Callable[[list[Peer], str, str], list[str | None]]


def check_all_nodes_see(where: str, field: str, *, look: Look | None = None) -> None:
    """Require that what this process writes to a place is to be read on every node.

    Args:
        where: folder or URI, for checkpoints.
        field: option that named it.
        look: asks the nodes; by default a task on each.

    Raises:
        InputError: naming ``field`` and a node that does not see it.
    """
    peers = _peers()
    if not peers:
        return
    path, content = write_token(where)
    try:
        answers = (look or _ask)(peers, where, path)
    finally:
        remove_token(where, path)
    blind = [p.address for p, seen in zip(peers, answers, strict=True) if seen != content]
    if not blind:
        return
    nodes = f"node {blind[0]}" + (f" and {len(blind) - 1} more" if len(blind) > 1 else "")
    if is_remote(where):
        raise InputError(
            field,
            f"{nodes} cannot read {where!r}",
            "give every node the credentials and a way to the endpoint",
        )
    raise InputError(
        field,
        f"{nodes} does not see {where!r}, where trials keep their checkpoints",
        f"add {OPTION} with a folder that all nodes share (NFS) or a URI such as s3://BUCKET/PATH",
    )


def _peers() -> list[Peer]:
    """Nodes beside the driver's that could run a worker."""
    import ray

    own = ray.get_runtime_context().get_node_id()
    return [
        Peer(node_id=node["NodeID"], address=node["NodeManagerAddress"])
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] != own and node["Resources"].get("CPU", 0) > 0
    ]


def _ask(peers: list[Peer], where: str, path: str) -> list[str | None]:
    """Read on each node; None where nothing was read or no answer came."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(read_token)
    asked = [
        task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(peer.node_id, soft=False)
        ).remote(where, path)
        for peer in peers
    ]
    ready, _ = ray.wait(asked, num_returns=len(asked), timeout=_ANSWER_SECONDS)
    answers: list[str | None] = []
    for reference in asked:
        try:
            answers.append(ray.get(reference) if reference in ready else None)
        except ray.exceptions.RayError:
            answers.append(None)
    return answers
