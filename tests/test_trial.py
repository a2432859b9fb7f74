"""One run in this process: what it emits, and that it goes on from a checkpoint."""

import pickle
import shutil
from pathlib import Path

import pytest
import torch
from object_store import object_store
from pyarrow.fs import copy_files

from esam_tune import step_timer, trial
from esam_tune.checkpoint_storage import join, open_storage
from esam_tune.run_state import load_state, load_weights, save_state
from esam_tune.training import DivergedError
from esam_tune.trial import RunRequest, describe, run_here

torch.set_num_threads(1)

TIMED = ("step_time_ratio", "epoch_seconds", "images_per_second")


@pytest.fixture(autouse=True)
def few_timed_steps(monkeypatch):
    monkeypatch.setattr(step_timer, "_PAIRS", 4)


def request_for(**changes):
    settings = {
        "task": {"dataset": "digits", "model": "small_cnn", "label_noise": 0.4},
        "training": {"epochs": 3, "batch_size": 256, "lr": 0.05},
        "params": {"optimizer": "esam"},
    }
    return RunRequest(
        **{"settings": settings, "run_id": "run", "storage": "", "checkpoint_seconds": 0.0}
        | changes
    )


def emitted(run, keep_in, own_checkpoint=None):
    """Metrics of each report, and where its checkpoint was kept."""
    reports = []

    def emit(metrics, folder):
        kept = None
        if folder:
            kept = shutil.copytree(folder, keep_in / f"epoch-{metrics['epoch']}")
        reports.append((metrics, kept))

    trial._run(run, emit, own_checkpoint, rank=0, device=torch.device("cpu"))
    return reports


def untimed(reports):
    return [{k: v for k, v in metrics.items() if k not in TIMED} for metrics, _ in reports]


def test_every_epoch_but_the_last_of_a_search_keeps_a_checkpoint_when_one_is_due(tmp_path):
    reports = emitted(request_for(), tmp_path)
    assert [metrics["epoch"] for metrics, _ in reports] == [1, 2, 3]
    assert [kept is not None for _, kept in reports] == [True, True, False]


def test_no_checkpoint_is_due_before_its_time(tmp_path):
    reports = emitted(request_for(checkpoint_seconds=1e9), tmp_path)
    assert [kept for _, kept in reports] == [None, None, None]


def test_a_node_that_is_about_to_leave_makes_a_checkpoint_due(tmp_path):
    reports = []
    trial._run(
        request_for(checkpoint_seconds=1e9),
        lambda metrics, folder: reports.append(folder is not None),
        None,
        rank=0,
        device=torch.device("cpu"),
        leaving=iter([False, True, False]).__next__,
    )
    assert reports == [False, True, False]


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_run_goes_on_from_a_checkpoint_as_if_undisturbed(tmp_path, epoch):
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    whole = emitted(request_for(), tmp_path / "first")
    resumed = emitted(request_for(resume_from=str(whole[epoch - 1][1])), tmp_path / "second")
    assert [metrics["epoch"] for metrics, _ in resumed] == list(range(epoch + 1, 4))
    assert untimed(resumed) == untimed(whole)[epoch:]


def test_the_checkpoint_of_the_same_attempt_comes_before_an_earlier_ones(tmp_path):
    from ray.train import Checkpoint

    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    whole = emitted(request_for(), tmp_path / "first")
    own = Checkpoint(str(whole[1][1]))
    run = request_for(resume_from=str(whole[0][1]))
    assert [m["epoch"] for m, _ in emitted(run, tmp_path / "second", own)] == [3]


def test_a_final_run_keeps_its_last_state_and_reads_the_test_split(tmp_path):
    (*_, (metrics, kept)) = emitted(request_for(read_test=True), tmp_path)
    assert 0.0 <= metrics["test_accuracy"] <= 1.0
    weights = {}

    def take(metrics, folder):
        if metrics["epoch"] == 3:
            weights.update(load_weights(folder))

    run_here(request_for(read_test=True), take)
    assert weights.keys() == load_weights(kept).keys()
    assert all(torch.equal(value, weights[key]) for key, value in load_weights(kept).items())


def test_a_run_goes_on_from_an_object_store(tmp_path):
    (whole,) = [emitted(request_for(), tmp_path)]
    with object_store() as uri:
        filesystem, root = open_storage(join(uri, "tune", "000"))
        filesystem.create_dir(f"{root}/checkpoint", recursive=True)
        copy_files(str(whole[1][1]), f"{root}/checkpoint", destination_filesystem=filesystem)
        run = request_for(resume_from=f"{root}/checkpoint", storage=uri)
        (tmp_path / "second").mkdir()
        assert untimed(emitted(run, tmp_path / "second")) == untimed(whole)[2:]


def test_a_worker_that_the_group_did_not_have_before_takes_the_firsts_state(tmp_path):
    whole = emitted(request_for(), tmp_path)
    folder = Path(whole[0][1])
    first, fifth, sixth = (load_state(folder, rank) for rank in (0, 5, 6))
    assert fifth["epoch"] == first["epoch"] == 1
    assert all(torch.equal(value, fifth["model"][key]) for key, value in first["model"].items())
    streams = [state["rng"] for state in (first, fifth, sixth)]
    assert not torch.equal(streams[0], streams[1])
    assert not torch.equal(streams[1], streams[2])
    for stream in streams:
        with torch.random.fork_rng():
            torch.set_rng_state(stream)


def test_the_lost_state_of_a_worker_is_not_made_up_from_the_firsts(tmp_path):
    for rank in (0, 1):
        save_state(tmp_path, rank, 3, {"epoch": 1, "rng": torch.get_rng_state()})
    with pytest.raises(FileNotFoundError, match="lacks the state of worker 2"):
        load_state(tmp_path, 2)
    assert load_state(tmp_path, 3)["epoch"] == 1


@pytest.mark.parametrize(
    ("gpus", "backend", "resources"),
    [
        (0.0, None, {"CPU": 2.0}),
        (0.5, "gloo", {"CPU": 2.0, "GPU": 0.5}),
        (1.0, None, {"CPU": 2.0, "GPU": 1.0}),
    ],
)
def test_workers_that_share_a_gpu_do_not_use_nccl(gpus, backend, resources):
    group = trial.worker_group((1, 3), 2, gpus)
    assert group["torch_config"].backend == backend
    scaling = group["scaling_config"]
    assert (scaling.num_workers, scaling.use_gpu) == ((1, 3), gpus > 0)
    assert scaling.resources_per_worker == resources


class Anything:
    """What a foreign file may hold: unpickling it would run its code."""


def test_a_foreign_file_is_no_checkpoint(tmp_path):
    torch.save({"model": Anything()}, tmp_path / "state-0.pt")
    with pytest.raises(pickle.UnpicklingError, match=r"(?i)weights.only"):
        load_weights(tmp_path)


def test_a_run_here_raises_what_ends_it():
    run = request_for()
    run.settings["training"]["lr"] = 1e30
    with pytest.raises(DivergedError, match="epoch 1"):
        run_here(run, lambda metrics, folder: None)


def test_a_request_survives_as_plain_values():
    run = request_for(resume_from="there", workers=2)
    assert RunRequest(**run.to_dict()) == run


def test_a_failure_is_described_by_its_cause_in_one_line():
    wrapper = RuntimeError("the wrapper")
    wrapper.__cause__ = ValueError("a traceback\nthe reason")
    assert describe(wrapper) == "ValueError: the reason"
    assert describe(KeyError()) == "KeyError: no message"
    assert "\n" not in describe(OSError(28, "No space left", str(Path("x"))))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
    ids=["gpu", "cpu", "python"],
)
def test_a_lack_of_memory_is_named_with_its_remedy_once(error):
    said = describe(error)
    assert said.count("use a smaller batch_size") == 1
    again = describe(RuntimeError(f"{said} (worker 0 on node a)"))
    assert again.count("use a smaller batch_size") == 1
    assert "memory" not in describe(RuntimeError("something else"))
