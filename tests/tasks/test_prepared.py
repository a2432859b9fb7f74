"""Prepared sets: made once, mapped by all, and whole or not there."""

import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from esam_tune.errors import InputError
from esam_tune.tasks.prepared import data_root, image_arrays, mapped, prepared
from esam_tune.tasks.stratified import split_rows

LARGE = 8 * 2**20


def make_slowly(folder):
    """Arrays whose making is noted, and takes long enough for another process to want them."""
    with Path(folder, "made").open("a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(0.5)
    return {"values": np.arange(LARGE, dtype=np.uint8)}


def memory(path):
    """Kilobytes of this process' mapping of a file: resident, and private to it; and its inode."""
    found, inode = {"Rss": 0, "Private_Dirty": 0, "Pss": 0}, None
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        key, _, rest = line.partition(":")
        if "-" in line.split()[0] and not rest.strip().endswith("kB"):
            inside = line.endswith(str(path))
            inode = line.split()[4] if inside else inode
        elif inside and key in found:
            found[key] += int(rest.split()[0])
    return {**found, "inode": inode}


def use(root, folder, barrier, results):
    kept = prepared(Path(root), "set", lambda: make_slowly(folder))
    values = mapped(kept, "values")
    total = int(values.sum(dtype=np.int64))
    # Both hold it at once when they look at their memory.
    barrier.wait(60)
    usage = memory(kept / "values.npy")
    barrier.wait(60)
    results.put((total, usage))


def test_two_processes_that_want_a_set_at_once_make_it_once_and_share_its_memory(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(2), spawn.Queue()
    processes = [
        spawn.Process(target=use, args=(str(tmp_path), str(tmp_path), barrier, results))
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    found = [results.get(timeout=90) for _ in processes]
    for process in processes:
        process.join()
    assert len((tmp_path / "made").read_text().splitlines()) == 1
    expected = int(np.arange(LARGE, dtype=np.uint8).sum(dtype=np.int64))
    assert [total for total, _ in found] == [expected] * 2
    file = tmp_path / "prepared" / "set" / "values.npy"
    for _, usage in found:
        assert usage["inode"] == str(file.stat().st_ino)
        # All of it is resident in each, yet none of it is a copy of its own: each is charged half.
        assert usage["Rss"] >= LARGE // 1024
        assert usage["Private_Dirty"] == 0
        assert usage["Pss"] <= 0.6 * usage["Rss"]


def test_what_is_written_to_a_mapped_array_stays_in_the_process(tmp_path):
    folder = prepared(tmp_path, "set", lambda: {"values": np.zeros(10)})
    mapped(folder, "values")[:] = 1.0
    assert mapped(folder, "values").sum() == 0.0


def test_a_making_that_failed_or_was_killed_leaves_nothing_behind(tmp_path):
    def fail():
        raise InputError("task.dataset", "not there", "get it")

    with pytest.raises(InputError, match="not there"):
        prepared(tmp_path, "set", fail)
    killed = tmp_path / "prepared" / ".set.unfinished"
    killed.mkdir()
    (killed / "values.npy").write_bytes(b"half")
    folder = prepared(tmp_path, "set", lambda: {"other": np.ones(2)})
    assert sorted(path.name for path in folder.iterdir()) == ["other.npy"]
    assert not killed.exists()


def test_files_that_cannot_be_read_are_not_taken_for_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(InputError) as caught:
        prepared(tmp_path, "set", lambda: os.scandir(tmp_path / "nowhere"))
    assert "the data set cannot be read" in caught.value.problem
    assert "nowhere" in caught.value.problem


@pytest.mark.parametrize("damage", [b"", b"not an array", None])
def test_a_damaged_file_is_named_with_the_remedy(tmp_path, damage):
    folder = prepared(tmp_path, "set", lambda: {"values": np.ones(1000)})
    file = folder / "values.npy"
    file.write_bytes(file.read_bytes()[:500] if damage is None else damage)
    with pytest.raises(InputError) as caught:
        mapped(folder, "values")
    assert str(file) in caught.value.problem
    assert str(folder) in caught.value.remedy


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError) as caught:
        prepared(tmp_path / "file", "set", lambda: pytest.fail("made"))
    assert caught.value.field == "task.data_dir"
    assert "ESAM_TUNE_DATA" in caught.value.remedy


def test_where_data_is_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("ESAM_TUNE_DATA", str(tmp_path))
    assert data_root() == tmp_path
    assert data_root("/elsewhere") == Path("/elsewhere")
    assert data_root("~/there") == Path("~/there").expanduser()
    monkeypatch.setenv("ESAM_TUNE_DATA", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data_root() == tmp_path / "cache" / "esam-tune"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data_root() == Path("~/.cache/esam-tune").expanduser()


@pytest.mark.parametrize("field", ["task.data_dir", "ESAM_TUNE_DATA"])
def test_a_relative_path_is_refused(monkeypatch, field):
    monkeypatch.setenv("ESAM_TUNE_DATA", "data")
    with pytest.raises(InputError) as caught:
        data_root("data" if field == "task.data_dir" else None)
    assert (caught.value.field, "got 'data'" in caught.value.problem) == (field, True)


def test_kept_sums_are_those_of_each_image():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, size=(1500, 3, 4, 5), dtype=np.uint8)
    sums = image_arrays("train", images, np.zeros(1500, dtype=np.int64))["train-sums"]
    whole = images.astype(np.int64)
    assert np.array_equal(sums[:, 0], whole.sum(axis=(2, 3)))
    assert np.array_equal(sums[:, 1], (whole**2).sum(axis=(2, 3)))


@pytest.mark.parametrize("share", [0.01, 0.1, 0.37, 0.5, 0.99])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_split_takes_its_share_of_each_class(share, seed):
    counts = torch.tensor([2, 3, 0, 50, 1000])
    labels = torch.repeat_interleave(torch.arange(5), counts)
    first, second = split_rows(labels, share, seed)
    assert sorted(first.tolist() + second.tolist()) == list(range(len(labels)))
    assert torch.equal(first.sort().values, first)
    taken = torch.bincount(labels[second], minlength=5)
    for count, number in zip(counts.tolist(), taken.tolist(), strict=True):
        if count:
            assert 1 <= number <= count - 1
            assert abs(number - share * count) <= 1


def test_a_split_is_fixed_by_its_seed_and_not_by_the_order_of_classes():
    labels = torch.arange(10).repeat(30)
    again = [split_rows(labels, 0.2, 4)[1] for _ in range(2)]
    assert torch.equal(*again)
    assert not torch.equal(again[0], split_rows(labels, 0.2, 5)[1])
    # A class' rows are drawn, not taken from the front.
    assert not torch.equal(again[0], torch.arange(60))
