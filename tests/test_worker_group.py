"""A worker group: what it takes, and which failures end it at once."""

import pytest

from esam_tune import worker_group as module
from esam_tune.failures import failure_of
from esam_tune.training import DivergedError
from esam_tune.trial import FAILURE, RunRequest
from esam_tune.worker_group import _NoVainRetries, run_in_group, worker_group


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


@pytest.fixture
def trainer(monkeypatch):
    """Stands for a group's trainer; a test says how it ends, and reads what it was given."""

    def make(error=None):
        class Trainer:
            run_config = None

            def __init__(self, _, *, run_config, **__):
                Trainer.run_config = run_config

            def fit(self):
                if error is not None:
                    raise error

        monkeypatch.setattr(module, "TorchTrainer", Trainer)
        return Trainer

    # It is set for the group's controller.
    monkeypatch.setenv(module._ROOM_VARIABLE, "1")
    monkeypatch.setattr(module, "TuneReportCallback", module.UserCallback)
    return make


def test_a_group_keeps_two_checkpoints_and_is_tried_again_as_often_as_asked(trainer, tmp_path):
    stub = trainer()
    request = RunRequest(
        settings={}, run_id="0000", storage=str(tmp_path), workers=2, max_failures=7
    )
    run_in_group(request.to_dict())
    # The one before is there while the newest is written, and where that proves to be torn.
    assert stub.run_config.checkpoint_config.num_to_keep == 2
    assert stub.run_config.failure_config.max_failures == 7
    assert any(isinstance(each, _NoVainRetries) for each in stub.run_config.callbacks)


def test_a_group_that_is_given_up_tells_tune_why(trainer, tmp_path, monkeypatch):
    reports = []
    monkeypatch.setattr(module.tune, "report", reports.append)
    trainer(failure_of(OSError(28, "No space left on device"), "worker 1"))
    run_in_group(RunRequest(settings={}, run_id="0000", storage=str(tmp_path), workers=2).to_dict())
    (report,) = reports
    assert report[FAILURE].startswith("OSError: [Errno 28] No space left on device (worker 1 on ")
