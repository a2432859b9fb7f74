"""How many trials fit a cluster, node by node."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esam_tune.errors import InputError
from esam_tune.study.placement import WorkerShape, place


def nodes_of(*sizes):
    return [{"CPU": float(cpus), "GPU": float(gpus)} for cpus, gpus in sizes]


@pytest.mark.parametrize(
    ("nodes", "workers", "shape", "trials"),
    [
        pytest.param([(8, 0)], 1, {}, 8, id="a core a trial"),
        pytest.param([(8, 0)], 3, {}, 2, id="a remainder stays idle"),
        pytest.param([(3, 0), (3, 0)], 1, {"cpus": 2}, 2, id="cores of two nodes make no worker"),
        pytest.param([(3, 0), (3, 0)], 2, {}, 3, id="workers of a trial lie on several nodes"),
        pytest.param([(16, 3), (16, 3)], 1, {"gpus": 2}, 2, id="GPUs of two nodes make no worker"),
        pytest.param([(16, 4)], 1, {"gpus": 0.5}, 8, id="two workers share a GPU"),
        pytest.param([(16, 2)], 1, {"gpus": 0.4}, 4, id="two rests make no share"),
        pytest.param([(16, 1)], 1, {"gpus": 0.1}, 10, id="a tenth is ten of one"),
        pytest.param([(2, 4)], 1, {"gpus": 0.5}, 2, id="cores are what runs out"),
        pytest.param([(8, 0), (4, 4)], 2, {"gpus": 1}, 2, id="GPUs on one node only"),
        pytest.param([(16, 4)], 1, {"gpus": 0}, 16, id="GPUs left alone"),
    ],
)
def test_trials_that_fit(nodes, workers, shape, trials):
    placement = place(nodes_of(*nodes), workers, None, shape=WorkerShape(**shape))
    assert placement.max_concurrent == trials
    assert placement.threads == shape.get("cpus", 1)


@pytest.mark.parametrize(
    ("nodes", "workers", "gpus", "trials"),
    [
        ([(8, 4)], 2, 1.0, 2),
        ([(8, 1)], 2, 0.0, 4),
        ([(8, 0)], 2, 0.0, 4),
        ([(8, 1), (8, 1)], 2, 1.0, 1),
    ],
)
def test_unless_asked_a_worker_takes_a_gpu_where_there_are_enough(nodes, workers, gpus, trials):
    placement = place(nodes_of(*nodes), workers, None)
    assert (placement.gpus_per_worker, placement.max_concurrent) == (gpus, trials)


def test_no_more_trials_than_asked():
    assert place(nodes_of((8, 0)), 1, 3).max_concurrent == 3
    assert place(nodes_of((2, 0)), 1, 3).max_concurrent == 2


@pytest.mark.parametrize(
    ("nodes", "workers", "shape", "words"),
    [
        ([(4, 0)], 5, {}, "--workers-per-trial: must be at most 4, the CPU cores of the Ray .* 5"),
        ([(4, 2)], 3, {"gpus": 1}, "at most 2, the workers of 1 CPU core and 1 GPU that .* 3"),
        ([(4, 2)], 5, {"gpus": 0.5}, "at most 4, the workers of .* 0.5 GPU that .*, got 5"),
        ([(4, 0), (2, 0)], 1, {"cpus": 5}, "--cpus-per-worker: must be at most 4, .* got 5; ask"),
        ([(4, 1), (4, 1)], 1, {"gpus": 2}, "--gpus-per-worker: must be at most 1, .* got 2; ask"),
        ([(4, 0)], 1, {"gpus": 0.5}, "at most 0, .* got 0.5; leave it out to train on the CPU"),
        ([(4, 0), (1, 1)], 1, {"cpus": 2, "gpus": 1}, "no node .* 2 CPU cores and 1 GPUs together"),
        ([], 1, {}, "--cpus-per-worker: must be at most 0"),
    ],
)
def test_what_does_not_fit(nodes, workers, shape, words):
    with pytest.raises(InputError, match=words):
        place(nodes_of(*nodes), workers, None, shape=WorkerShape(**shape))


@pytest.mark.parametrize("gpus", [1.5, -1, 0.001, float("nan"), float("inf")])
def test_a_share_that_ray_cannot_place(gpus):
    with pytest.raises(InputError, match="--gpus-per-worker: must be a whole number, or a share"):
        WorkerShape(gpus=gpus)


@given(
    sizes=st.lists(st.tuples(st.integers(1, 64), st.integers(0, 8)), min_size=1, max_size=6),
    workers=st.integers(1, 8),
    cpus=st.integers(1, 4),
    gpus=st.sampled_from([0, 0.1, 0.25, 0.3, 0.5, 1, 2]),
)
def test_trials_at_a_time_never_ask_for_more_than_there_is(sizes, workers, cpus, gpus):
    shape = WorkerShape(cpus=cpus, gpus=gpus)
    try:
        placement = place(nodes_of(*sizes), workers, None, shape=shape)
    except InputError:
        return
    taken = placement.max_concurrent * workers
    assert placement.max_concurrent >= 1
    assert taken * cpus <= sum(size for size, _ in sizes)
    assert taken * gpus <= sum(size for _, size in sizes) + 1e-9
    # One trial more would not fit: no node has room for the workers it lacks.
    assert sum(map(shape.slots, nodes_of(*sizes))) - taken < workers
