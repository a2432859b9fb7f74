"""One run in this process: what it emits, and that it goes on from a checkpoint."""

import shutil
from pathlib import Path

import pytest
import torch
from object_store import object_store
from pyarrow.fs import copy_files

from esam_tune import step_timer, training, trial, worker
from esam_tune.checkpoint_storage import join, open_storage
from esam_tune.resumption import Resumption
from esam_tune.run_state import load_state, load_weights, state_file
from esam_tune.training import DivergedError
from esam_tune.trial import REFUSED, RunRequest, run_here, run_worker
from esam_tune.worker import Worker

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

    run_worker(run, emit, own_checkpoint, rank=0, device=torch.device("cpu"))
    return reports


def untimed(reports):
    return [{k: v for k, v in metrics.items() if k not in TIMED} for metrics, _ in reports]


def test_a_checkpoint_is_put_together_beside_those_it_joins(tmp_path):
    seen = []

    def emit(metrics, folder):
        seen.append(folder and Path(folder))

    run = request_for(storage=str(tmp_path / "tune" / "groups"))
    run_worker(run, emit, None, rank=0, device=torch.device("cpu"))
    assert [folder and folder.parent for folder in seen] == [tmp_path / "tune" / "groups"] * 2 + [
        None
    ]
    assert not any((tmp_path / "tune" / "groups").iterdir())


def test_every_epoch_but_the_last_of_a_search_keeps_a_checkpoint_when_one_is_due(tmp_path):
    reports = emitted(request_for(), tmp_path)
    assert [metrics["epoch"] for metrics, _ in reports] == [1, 2, 3]
    assert [kept is not None for _, kept in reports] == [True, True, False]


def test_no_checkpoint_is_due_before_its_time(tmp_path):
    reports = emitted(request_for(checkpoint_seconds=1e9), tmp_path)
    assert [kept for _, kept in reports] == [None, None, None]


def test_a_node_that_is_about_to_leave_makes_a_checkpoint_due(tmp_path):
    reports = []
    run_worker(
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
    resumed = emitted(request_for(resume_from=(str(whole[epoch - 1][1]),)), tmp_path / "second")
    assert [metrics["epoch"] for metrics, _ in resumed] == list(range(epoch + 1, 4))
    assert untimed(resumed) == untimed(whole)[epoch:]


def test_the_checkpoint_of_the_same_attempt_comes_before_an_earlier_ones(tmp_path):
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    whole = emitted(request_for(), tmp_path / "first")
    run = request_for(resume_from=(str(whole[0][1]),))
    assert [m["epoch"] for m, _ in emitted(run, tmp_path / "second", str(whole[1][1]))] == [3]


def test_a_torn_checkpoint_costs_the_epochs_since_the_one_before_and_nothing_else(tmp_path):
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    whole = emitted(request_for(), tmp_path / "first")
    older, torn = (str(kept) for _, kept in whole[:2])
    file = Path(torn, state_file(0))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    resumed = emitted(request_for(resume_from=(torn, older)), tmp_path / "second")
    assert untimed(resumed)[1:] == untimed(whole)[2:]
    # Said once, for the one who watches the study.
    first = resumed[0][0]
    (reason,) = first.pop(REFUSED)
    assert f"checkpoint '{torn}' is refused: state-0.pt has " in reason
    assert untimed(resumed)[0] == untimed(whole)[1]
    assert REFUSED not in resumed[1][0]


def test_a_checkpoint_of_another_setting_is_not_gone_on_from(tmp_path):
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    whole = emitted(request_for(), tmp_path / "first")
    other = request_for(resume_from=(str(whole[1][1]),))
    other.settings["seed"] = 1
    resumed = emitted(other, tmp_path / "second")
    assert [metrics["epoch"] for metrics, _ in resumed] == [1, 2, 3]
    assert "of a run with other settings" in resumed[0][0][REFUSED][0]


def test_workers_that_found_different_checkpoints_do_not_train_together():
    class OneOfThree(Worker):
        """Beside two others that found epoch 4."""

        def sum(self, values):
            return values + 2 * torch.tensor([4, 16])

    here = OneOfThree(workers=3)
    trial._agree(here, Resumption(state={"epoch": 4}, refused=()))
    for state in ({"epoch": 3}, {"epoch": 5}, None):
        with pytest.raises(RuntimeError, match="checkpoints of different epochs"):
            trial._agree(here, Resumption(state=state, refused=()))


def test_workers_compare_what_they_found_before_they_train(monkeypatch):
    class BesideOneAhead(Worker):
        """One of two that begins anew, beside one that found epoch 1."""

        def sum(self, values):
            return values + torch.tensor([1, 1])

    monkeypatch.setattr(worker, "Worker", BesideOneAhead)
    monkeypatch.setattr(training, "train", lambda *_, **__: pytest.fail("they train"))
    with pytest.raises(RuntimeError, match="different epochs, this one epoch 0"):
        run_worker(
            request_for(workers=2),
            lambda metrics, folder: None,
            None,
            rank=0,
            device=torch.device("cpu"),
        )


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
        run = request_for(resume_from=(f"{root}/checkpoint",), storage=uri)
        (tmp_path / "second").mkdir()
        assert untimed(emitted(run, tmp_path / "second")) == untimed(whole)[2:]


def test_a_checkpoint_holds_all_that_a_run_goes_on_with(tmp_path):
    whole = emitted(request_for(), tmp_path)
    state = load_state(whole[0][1], 0)
    assert state.keys() == {
        *("epoch", "model", "optimizer", "schedule", "order", "timer", "random"),
    }
    assert state["random"].keys() == {"torch", "numpy", "python"}
    assert {"generator", "augmentation"} <= state["order"].keys()
    assert "masks" in state["optimizer"]["per_sample"]


def test_a_run_here_raises_what_ends_it():
    run = request_for()
    run.settings["training"]["lr"] = 1e30
    with pytest.raises(DivergedError, match="epoch 1"):
        run_here(run, lambda metrics, folder: None)


def test_a_request_survives_as_plain_values():
    run = request_for(resume_from=("there", "before"), workers=2)
    assert RunRequest(**run.to_dict()) == run
