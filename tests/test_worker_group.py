"""A worker group: what it takes, and which failures end it at once."""

import pytest

from esam_tune.failures import failure_of
from esam_tune.training import DivergedError
from esam_tune.worker_group import _NoVainRetries, worker_group


@pytest.mark.parametrize(
    ("gpus", "backend", "resources"),
    [
        (0.0, None, {"CPU": 2.0}),
        (0.5, "gloo", {"CPU": 2.0, "GPU": 0.5}),
        (1.0, None, {"CPU": 2.0, "GPU": 1.0}),
    ],
)
def test_workers_that_share_a_gpu_do_not_use_nccl(gpus, backend, resources):
    group = worker_group((1, 3), 2, gpus)
    assert group["torch_config"].backend == backend
    scaling = group["scaling_config"]
    assert (scaling.num_workers, scaling.use_gpu) == ((1, 3), gpus > 0)
    assert scaling.resources_per_worker == resources


def test_only_a_failure_that_would_come_again_ends_a_group_at_once():
    lost = failure_of(RuntimeError("Connection closed by peer"), "worker 0")
    final = failure_of(DivergedError("training loss is nan in epoch 1"), "worker 1")
    ends = _NoVainRetries()
    ends.after_exception(None, {0: lost, 1: SystemError("the worker's process died")})
    with pytest.raises(type(final), match=r"DivergedError: training loss is nan .*worker 1"):
        ends.after_exception(None, {0: lost, 1: final})
