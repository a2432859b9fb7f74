"""The cluster's other nodes, and how each of them is asked something before a study starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from esam_tune.errors import InputError
from esam_tune.failures import describe


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Another node of the cluster.

    Args:
        node_id: as Ray names it.
        address: for people.
    """

    node_id: str
    address: str


@dataclass(frozen=True, kw_only=True)
class Silent:
    """In place of a node's answer: why there is none.

    Args:
        reason: for people.
        mistake: what the node found to be the user's mistake, or None.
        gone: whether the node has left the cluster since, and nothing is wanted of it any more:
            an autoscaler takes back nodes that were too many, a cloud its spot nodes.
    """

    reason: str
    mistake: InputError | None = None
    gone: bool = False


# Asks each peer to call a function with arguments: the answers in the order of the peers.
Ask = Callable[..., list[Any]]


def peers(gpus: float = 0.0) -> list[Peer]:
    """Nodes beside the driver's, of those that run now, that could run a worker.

    Args:
        gpus: that a worker takes.
    """
    import ray

    own = ray.get_runtime_context().get_node_id()
    return [
        Peer(node_id=node["NodeID"], address=node["NodeManagerAddress"])
        for node in ray.nodes()
        if node["Alive"]
        and node["NodeID"] != own
        and node["Resources"].get("CPU", 0) > 0
        and node["Resources"].get("GPU", 0) >= gpus
    ]


def ask(asked: list[Peer], call: Callable[..., Any], *arguments: Any, seconds: float) -> list[Any]:
    """Call a function on each node.

    Args:
        asked: the nodes.
        call: a function that the nodes can import.
        arguments: of the function.
        seconds: that all of them together may take.

    Returns:
        What each returned, or a :class:`Silent`.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(call)
    references = [
        task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(peer.node_id, soft=False)
        ).remote(*arguments)
        for peer in asked
    ]
    ready, late = ray.wait(references, num_returns=len(references), timeout=seconds)
    for reference in late:
        ray.cancel(reference, force=True)
    answers: list[Any] = []
    for peer, reference in zip(asked, references, strict=True):
        if reference not in ready:
            answers.append(Silent(reason=f"no answer within {seconds:.0f} s"))
            continue
        try:
            answers.append(ray.get(reference))
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            mistake = cause if isinstance(cause, InputError) else None
            answers.append(
                Silent(
                    reason=describe(cause or error),
                    mistake=mistake,
                    gone=peer.node_id not in _alive(),
                )
            )
    return answers


def _alive() -> set[str]:
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}
