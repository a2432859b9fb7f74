"""Whole trainings in one group: the first ranks train, the others wait."""

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from made_study import settings_document

from esam_tune.config import trial_settings
from esam_tune.scaling.records import Cell
from esam_tune.scaling.trainings import train_cells
from esam_tune.training import train


def cell(workers):
    settings = settings_document(optimizer="sgd")
    return Cell(method="sgd", workers=workers, rows=128 // workers, settings=settings)


def member(rank, folder):
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    found = train_cells([cell(1), cell(2)], torch.device("cpu"))
    with Path(folder, f"{rank}.json").open("w") as file:
        json.dump(found, file)
    dist.destroy_process_group()


@pytest.mark.slow
def test_one_worker_of_a_larger_group_trains_as_if_it_were_alone(tmp_path):
    mp.spawn(member, (str(tmp_path),), nprocs=2)
    one, two = json.loads((tmp_path / "0.json").read_text())
    assert json.loads((tmp_path / "1.json").read_text()) == []
    alone = []
    train(trial_settings(cell(1).settings), lambda metrics, _: alone.append(metrics))
    for key in ("val_accuracy", "val_loss", "train_loss"):
        assert one[key] == pytest.approx(alone[-1][key], rel=1e-4)
    # The same batches on two workers: the same but for BatchNorm's smaller shares.
    assert two["train_loss"] == pytest.approx(one["train_loss"], rel=0.2)
    assert two["train_loss"] != one["train_loss"]
    assert not any("test" in key for key in [*one, *two])
