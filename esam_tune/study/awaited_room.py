"""Room on a cluster that grows: its autoscaler is shown what is wanted, and waited for."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from esam_tune.errors import InputError
from esam_tune.study.cluster import cluster_nodes
from esam_tune.study.placement import Node, WorkerShape

OPTION = "--await-workers"

_log = logging.getLogger(__name__)

# A cloud's GPU nodes take minutes to start and to be set up.
_MINUTES = 30.0
_LOOK_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Room:
    """Room for so many workers at a time, which a cluster may have yet to make.

    Args:
        workers: count.
        shape: of each, its GPUs among them: nodes that are not there cannot tell theirs.
        address: of the cluster.

    Raises:
        InputError: for a shape that does not say its GPUs, or no cluster.
    """

    workers: int
    shape: WorkerShape
    address: str | None

    def __post_init__(self) -> None:
        """Check that there is something to wait for."""
        if self.address is None:
            raise InputError(
                OPTION,
                "waits for nodes of a cluster, got no --address",
                "add --address, or leave it out",
            )
        if self.shape.gpus is None:
            raise InputError(
                OPTION,
                "needs --gpus-per-worker: nodes that are yet to come do not tell theirs",
                "add --gpus-per-worker 1, or 0 to train on the CPU",
            )

    def found(self, nodes: list[Node]) -> int:
        """Workers, of those wanted, that nodes have room for."""
        return min(self.workers, sum(map(self.shape.slots, nodes)))

    def nodes(self) -> list[Node]:
        """The room as a cluster of one node for each worker, or for all that share a GPU."""
        gpus = self.shape.gpus or 0
        if 0 < gpus < 1:
            share = int(1 / gpus + 1e-4)
            return [
                {"CPU": float(self.shape.cpus * min(share, left)), "GPU": 1.0}
                for left in range(self.workers, 0, -share)
            ]
        return [{"CPU": float(self.shape.cpus), "GPU": gpus}] * self.workers


def check_room(room: Room | None, workers: int, what: str) -> None:
    """Check that a training gets the workers it has, and no node is started that it leaves idle.

    Args:
        room: that is asked for, or None.
        workers: of the training.
        what: it is.

    Raises:
        InputError: for any other number.
    """
    if room is not None and room.workers != workers:
        raise InputError(
            OPTION,
            f"must be {workers}, the workers of the {what}, got {room.workers}",
            f"ask for {workers}, or change --workers",
        )


def with_room(nodes: list[Node], room: Room | None) -> list[Node]:
    """The connected cluster's nodes, as soon as they have the room that was asked for.

    What is wanted is a placement group: one that does not fit is what Ray's autoscaler adds nodes
    for, and it ends with this process, so that nobody pays for the nodes of a study that died.

    Args:
        nodes: as they are.
        room: to wait for, or None to take what there is.

    Raises:
        InputError: when it is not there after half an hour.
    """
    if room is None or room.found(nodes) == room.workers:
        return nodes
    from ray.util import placement_group, remove_placement_group

    _log.warning(
        "the cluster has room for %d of %d workers; waiting until its autoscaler has made it: "
        "`RAY_AUTH_MODE=token ray status` on the head shows how far it is",
        room.found(nodes),
        room.workers,
    )
    one = {"CPU": float(room.shape.cpus), "GPU": float(room.shape.gpus or 0)}
    group = placement_group([{what: much for what, much in one.items() if much}] * room.workers)
    deadline = time.monotonic() + 60 * _MINUTES
    try:
        while not group.wait(_LOOK_SECONDS):
            if time.monotonic() > deadline:
                raise InputError(
                    OPTION,
                    f"the cluster has room for {room.found(cluster_nodes())} of {room.workers} "
                    f"workers after {_MINUTES:.0f} minutes",
                    "see on the head what holds its autoscaler up, with `RAY_AUTH_MODE=token ray "
                    "status` and in /tmp/ray/session_latest/logs/monitor.log, or ask for fewer",
                )
    finally:
        remove_placement_group(group)
    return cluster_nodes()
