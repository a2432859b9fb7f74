"""What a run goes on from when some of its checkpoints cannot be used."""

import shutil
from pathlib import Path

import pytest
import torch
from object_store import object_store
from pyarrow.fs import copy_files

from esam_tune import run_state
from esam_tune.checkpoint_storage import join, open_storage
from esam_tune.resumption import candidates, resume
from esam_tune.run_state import save_state, state_file


def checkpoint(folder, name, epoch, run="run"):
    where = Path(folder, name)
    where.mkdir(parents=True)
    save_state(where, 0, 1, {"epoch": epoch, "model": {"w": torch.ones(3)}}, run=run)
    return str(where)


def tear(path):
    file = Path(path, state_file(0))
    file.write_bytes(file.read_bytes()[:-7])


@pytest.fixture
def attempt(tmp_path):
    """What Ray keeps of a run, and what earlier processes left."""
    names = [f"checkpoint_00000{index}" for index in range(3)]
    own = [checkpoint(tmp_path / "now", name, 4 + index) for index, name in enumerate(names)]
    earlier = [checkpoint(tmp_path / "then", name, 2 - index) for index, name in enumerate(names)]
    (tmp_path / "now" / "notes_000000").mkdir()
    (tmp_path / "now" / "checkpoint_000000.json").touch()
    return own, earlier


def test_the_newest_that_can_be_used_is_taken_and_the_refused_are_named(attempt):
    own, earlier = attempt
    paths = candidates("", own[1], earlier)
    # What is newer than the registered one is not Ray's to give: its epochs may be unreported.
    assert paths == [own[1], own[0], *earlier]
    found = resume("", paths, 0, "run")
    assert (found.epoch, found.refused) == (5, ())
    for count, path in enumerate(paths, start=1):
        tear(path)
        found = resume("", paths, 0, "run")
        rest = [4, 2, 1, 0, 0][count - 1]
        assert found.epoch == rest
        assert len(found.refused) == count
        assert all(p in reason for p, reason in zip(paths, found.refused, strict=False))
        assert "its manifest says" in found.refused[-1]
    assert found.state is None


def test_a_folder_that_is_gone_or_of_another_run_is_passed_over(attempt):
    own, earlier = attempt
    shutil.rmtree(own[2])
    paths = candidates("", own[2], earlier)
    assert paths[:3] == [own[2], own[1], own[0]]
    assert resume("", paths, 0, "run").epoch == 5
    found = resume("", paths, 0, "another")
    assert found.epoch == 0
    assert "state-0.json is missing" in found.refused[0]
    assert "of a run with other settings" in found.refused[1]


def test_a_new_run_has_nothing_to_go_on_from():
    assert candidates("", None, ()) == []
    found = resume("", [], 0, "run")
    assert (found.state, found.epoch, found.refused) == (None, 0, ())


def test_a_storage_that_cannot_be_read_is_no_reason_to_begin_anew(attempt, monkeypatch):
    def fail(path):
        raise OSError(5, "Input/output error", str(path))

    own, earlier = attempt
    monkeypatch.setattr(run_state, "_file_digest", fail)
    with pytest.raises(OSError, match="Input/output error"):
        resume("", candidates("", own[2], earlier), 0, "run")


def test_in_an_object_store_too_the_one_before_a_torn_checkpoint_is_used(attempt, tmp_path):
    own, earlier = attempt
    tear(own[2])
    with object_store() as uri:
        filesystem, root = open_storage(join(uri, "tune"))
        for name in ("now", "then"):
            filesystem.create_dir(f"{root}/{name}", recursive=True)
            copy_files(str(tmp_path / name), f"{root}/{name}", destination_filesystem=filesystem)
        there = [path.replace(str(tmp_path), root) for path in (own[2], earlier[0])]
        paths = candidates(uri, there[0], [there[1]])
        assert [path.rsplit("/", 1)[-1] for path in paths] == [
            *("checkpoint_000002", "checkpoint_000001", "checkpoint_000000", "checkpoint_000000"),
        ]
        found = resume(uri, paths, 0, "run")
        assert found.epoch == 5
        assert there[0] in found.refused[0]
