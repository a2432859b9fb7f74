"""A cluster of two nodes on this machine, one of which may be lost."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from host_processes import MARK
from ray.cluster_utils import Cluster


class TwoNodes:
    """A cluster of two nodes on this machine, with room for a trial of two workers on each."""

    def __init__(self) -> None:
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
        self._second = self._cluster.add_node(num_cpus=2)
        self.address = self._cluster.address

    def lose_one(self) -> None:
        """Kill the second node, as a machine's end does."""
        self._cluster.remove_node(self._second, allow_graceful=False)

    def replace_it(self) -> None:
        """Start another in its place."""
        self._second = self._cluster.add_node(num_cpus=2)

    @property
    def second(self) -> int:
        """Process id of the second node's raylet, whose children its workers are."""
        return self._second.all_processes["raylet"][0].process.pid

    def shutdown(self) -> None:
        """End both."""
        self._cluster.shutdown()


@contextmanager
def two_nodes(mark: str) -> Iterator[TwoNodes]:
    """A cluster for the time of the block, whose processes carry a mark."""
    with patch.dict(os.environ, {MARK: mark}):
        nodes = TwoNodes()
        try:
            yield nodes
        finally:
            nodes.shutdown()
