"""The files of a checkpoint: whatever damages them shows before any of them is used."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esam_tune import run_state
from esam_tune.resumption import candidates, resume
from esam_tune.run_state import (
    CheckpointError,
    load_state,
    load_weights,
    manifest_file,
    run_identity,
    save_state,
    state_file,
)

torch.set_num_threads(1)

SETTINGS = {"task": {"dataset": "digits"}, "params": {"rho": 0.1}, "seed": 0, "origin": {}}
RUN = run_identity(SETTINGS)
FILES = [name(rank) for rank in (0, 1) for name in (state_file, manifest_file)]


def state(epoch, rank):
    return {
        "epoch": epoch,
        "model": {"w": torch.full((40,), float(epoch))},
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(40)}}},
        "timer": {"base": [0.1 * rank]},
        "random": {"torch": torch.arange(8, dtype=torch.uint8) + rank},
    }


def checkpoint(folder, epoch, workers=2, run=RUN):
    """A checkpoint of all workers, as a group puts it together."""
    where = Path(folder, f"checkpoint_{epoch:06d}")
    where.mkdir(parents=True)
    for rank in range(workers):
        save_state(where, rank, workers, state(epoch, rank), run=run)
    return where


def same(left, right):
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(v, right[k]) for k, v in left.items())
    return left == right


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """Two checkpoints of a group of two workers."""
    folder = tmp_path_factory.mktemp("pristine")
    for epoch in (2, 3):
        checkpoint(folder, epoch)
    return folder


def flipped(content, data):
    at = data.draw(st.integers(0, len(content) - 1), label="byte")
    changed = content[at] ^ (1 << data.draw(st.integers(0, 7), label="bit"))
    return content[:at] + bytes([changed]) + content[at + 1 :]


def truncated(content, data):
    return content[: data.draw(st.integers(0, len(content) - 1), label="length")]


def zeroed(content, data):
    """A block that the disk never got, as after a power loss."""
    start = data.draw(st.integers(0, len(content) - 1), label="start")
    length = data.draw(st.integers(1, len(content) - start), label="length")
    return content[:start] + b"\0" * length + content[start + length :]


def foreign(content, data):
    return data.draw(st.binary(max_size=200) | st.just(b"{}") | st.just(b"[]"), label="content")


def lengthened(content, data):
    return content + data.draw(st.binary(min_size=1, max_size=20), label="more")


def means_the_same(before, after):
    try:
        return json.loads(after) == json.loads(before)
    except (ValueError, RecursionError):
        return False


@settings(max_examples=60)
@given(data=st.data())
def test_a_damaged_checkpoint_is_refused_and_the_one_before_is_used(pristine, data):
    damage = data.draw(st.sampled_from([flipped, truncated, zeroed, foreign, lengthened]))
    name = data.draw(st.sampled_from(FILES), label="file")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "kept")
        shutil.copytree(pristine, folder)
        newest = folder / "checkpoint_000003"
        before = (newest / name).read_bytes()
        after = damage(before, data)
        (newest / name).write_bytes(after)
        if after == before:
            return
        if name.endswith(".json") and means_the_same(before, after):
            # Such as another white space: nothing is lost by it.
            assert same(load_state(newest, 0, RUN), state(3, 0))
            return
        for rank in (0, 1, 2):
            # The workers of a group must come to the same verdict, whosever file it is.
            with pytest.raises(CheckpointError, match=f"{newest}.* is refused: .*{name}"):
                load_state(newest, rank, RUN)
        found = resume("", candidates("", str(newest), ()), 0, RUN)
        assert same(found.state, state(2, 0))
        assert len(found.refused) == 1


@pytest.mark.parametrize("name", FILES)
def test_a_checkpoint_that_lacks_a_file_is_refused(pristine, tmp_path, name):
    folder = shutil.copytree(pristine / "checkpoint_000003", tmp_path / "c")
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"refused: {name} is missing"):
        load_state(folder, 0)


def test_files_of_another_checkpoint_or_worker_are_refused(pristine, tmp_path):
    older, newer = (pristine / f"checkpoint_00000{epoch}" for epoch in (2, 3))
    mixed = shutil.copytree(newer, tmp_path / "state")
    shutil.copy(older / state_file(0), mixed)
    with pytest.raises(CheckpointError, match=r"state-0\.pt is not what was written"):
        load_state(mixed, 0)
    mixed = shutil.copytree(newer, tmp_path / "epochs")
    for name in (state_file(1), manifest_file(1)):
        shutil.copy(older / name, mixed)
    with pytest.raises(CheckpointError, match="epoch is 2 in worker 1's state, 3 else"):
        load_state(mixed, 0)
    mixed = shutil.copytree(newer, tmp_path / "workers")
    shutil.copy(newer / state_file(0), mixed / state_file(1))
    shutil.copy(newer / manifest_file(0), mixed / manifest_file(1))
    with pytest.raises(CheckpointError, match="is of worker 0"):
        load_state(mixed, 0)


def test_a_checkpoint_of_another_run_is_refused(pristine):
    folder = pristine / "checkpoint_000003"
    moved = SETTINGS | {"origin": {"study": "another"}}
    assert load_state(folder, 0, run_identity(moved))["epoch"] == 3
    for other in ({"seed": 1}, {"params": {"rho": 0.2}}):
        with pytest.raises(CheckpointError, match="of a run with other settings"):
            load_state(folder, 0, run_identity(SETTINGS | other))
    with pytest.raises(CheckpointError, match=r"state-0\.json is missing"):
        load_state(pristine / "nowhere", 0)


class Armed:
    """Unpickling it would run code of its choice."""

    def __reduce__(self):
        return os.mkdir, (str(Armed.target),)


def test_no_code_of_a_foreign_pickle_runs_however_well_it_is_dressed_up(tmp_path):
    Armed.target = tmp_path / "made by unpickling"
    (tmp_path / "c").mkdir()
    # Its manifest fits: whoever can write one file can write the other.
    save_state(tmp_path / "c", 0, 1, {"epoch": 1, "model": Armed()})
    with pytest.raises(CheckpointError, match=r"state-0\.pt cannot be read .*(?i:weights.only)"):
        load_weights(tmp_path / "c")
    assert not Armed.target.exists()


def test_workers_keep_what_they_have_in_common_once(tmp_path):
    folder = checkpoint(tmp_path, 3)
    own = torch.load(folder / state_file(1), weights_only=True)
    assert own.keys() == {"epoch", "timer", "random"}
    for rank in (0, 1):
        assert same(load_state(folder, rank), state(3, rank))
    assert same(load_weights(folder), state(3, 0)["model"])


def test_a_new_worker_of_a_larger_group_takes_the_firsts_state_but_for_its_streams(tmp_path):
    folder = checkpoint(tmp_path, 3)
    fresh = [load_state(folder, rank) for rank in (2, 3)]
    for loaded in fresh:
        assert same(loaded["model"], state(3, 0)["model"])
    seeds = [loaded["random"]["seed"] for loaded in fresh]
    assert len(set(seeds)) == 2
    # After another epoch it is another draw.
    (tmp_path / "later").mkdir()
    assert load_state(checkpoint(tmp_path / "later", 4), 2)["random"]["seed"] not in seeds


@pytest.mark.parametrize("fails_at", ["state", "manifest"])
def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(tmp_path, monkeypatch, fails_at):
    folder = checkpoint(tmp_path, 3, workers=1)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    def half(state, file):
        file.write(b"half of it")
        fail()

    if fails_at == "state":
        monkeypatch.setattr(torch, "save", half)
    else:
        monkeypatch.setattr(run_state.json, "dumps", fail)
    with pytest.raises(OSError, match="No space left"):
        save_state(folder, 0, 1, state(4, 0), run=RUN)
    monkeypatch.undo()
    names = {path.name for path in folder.iterdir()}
    assert names == set(before)
    if fails_at == "state":
        assert same(load_state(folder, 0, RUN), state(3, 0))
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    else:
        # The new state under the old manifest: nobody takes it for either.
        with pytest.raises(CheckpointError):
            load_state(folder, 0, RUN)


def test_a_state_is_never_to_be_seen_half_written(tmp_path, monkeypatch):
    folder = checkpoint(tmp_path, 3, workers=1)
    seen, save = [], torch.save

    def look(content, file):
        save(content, file)
        file.flush()
        seen.append(same(load_state(folder, 0, RUN), state(3, 0)))

    monkeypatch.setattr(torch, "save", look)
    save_state(folder, 0, 1, state(4, 0), run=RUN)
    assert seen == [True]
    assert same(load_state(folder, 0, RUN), state(4, 0))


def test_a_manifest_says_what_it_vouches_for(tmp_path):
    folder = checkpoint(tmp_path, 3)
    content = json.loads((folder / manifest_file(1)).read_text())["content"]
    assert content["bytes"] == (folder / state_file(1)).stat().st_size
    assert (content["rank"], content["workers"], content["epoch"]) == (1, 2, 3)
    assert (content["run"], len(content["sha256"])) == (RUN, 64)
