"""What a cluster holds, now and when its autoscaler has started what it may."""

import pytest

from esam_tune.errors import InputError
from esam_tune.study import cluster
from esam_tune.study.placement import place

HEAD = {"CPU": 4.0}
GPU_NODE = {"CPU": 8.0, "GPU": 4.0}


def test_without_an_autoscaler_the_nodes_are_those_that_run():
    assert cluster._with_room_to_grow([HEAD, GPU_NODE], []) == [HEAD, GPU_NODE]


def test_an_autoscalers_nodes_count_before_they_run():
    nodes = cluster._with_room_to_grow([HEAD], [(HEAD, 1), (GPU_NODE, 3)])
    assert nodes == [HEAD, GPU_NODE, GPU_NODE, GPU_NODE]
    assert place(nodes, 4, None).max_concurrent == 3


def test_nodes_joined_by_hand_count_beside_an_autoscalers_smaller_plan():
    assert cluster._with_room_to_grow([GPU_NODE, GPU_NODE], [(GPU_NODE, 1)]) == [GPU_NODE] * 2


def test_a_plan_without_a_limit_is_cut():
    assert len(cluster._with_room_to_grow([HEAD], [(GPU_NODE, -1)])) == 1_000


def test_workers_of_one_core_each():
    cluster.check_workers(4, 4, "here")
    with pytest.raises(InputError, match="--workers: must be at most 4, the CPU cores of here"):
        cluster.check_workers(5, 4, "here", "--workers")


def test_this_machine_is_a_cluster_of_one_node():
    (node,) = cluster.local_nodes()
    assert node["CPU"] == cluster.local_cores()
    assert node["GPU"] >= 0
