"""The journal: whole events come back, torn ones are cut off, damage is named."""

import errno
import json
import os
import resource
import shutil
import subprocess
import time
from contextlib import contextmanager, suppress

import pytest

from esam_tune import journal
from esam_tune.journal import Journal, JournalError


def kinds(path, offset=0):
    return [event["event"] for event, _ in journal.read(path, offset)]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "journal.jsonl"
    writer = Journal(path)
    for number in range(3):
        writer.append(journal.EPOCH, trial_id=str(number), metrics={"epoch": 1, "val_loss": None})
    writer.close()
    return path


def test_what_is_appended_reads_back_with_its_time_and_content(tmp_path):
    writer = Journal(tmp_path / "journal.jsonl")
    written = [
        writer.append(journal.STUDY, durable=True, space={"name": "ä\n"}),
        writer.append(journal.STUDY_END, front=[]),
    ]
    # Every event is on its way to the disk when append returns: a reader sees it at once.
    assert [event for event, _ in journal.read(writer.path)] == written
    assert written[0]["space"] == {"name": "ä\n"}
    assert written[0]["time"] <= written[1]["time"]
    writer.close()


def test_an_offset_reads_on_from_where_it_was_taken(path):
    events = list(journal.read(path))
    assert [event["trial_id"] for event, _ in events] == ["0", "1", "2"]
    assert events[-1][1] == path.stat().st_size
    for index, (_, offset) in enumerate(events):
        assert list(journal.read(path, offset)) == events[index + 1 :]


@pytest.mark.parametrize("kept", [1, 10, -1])
def test_a_torn_last_line_is_passed_over_and_cut_off_by_the_next_writer(path, kept):
    whole = path.read_bytes()
    last = whole.splitlines(keepends=True)[0]
    path.write_bytes(whole + last[:kept])
    assert len(kinds(path)) == 3
    assert path.read_bytes() != whole
    writer = Journal(path)
    assert path.read_bytes() == whole
    writer.append(journal.STUDY_RESUME)
    writer.close()
    assert kinds(path) == [journal.EPOCH] * 3 + [journal.STUDY_RESUME]


def test_a_journal_that_is_nothing_but_a_torn_line_begins_anew(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text('{"event": "stu')
    assert kinds(path) == []
    Journal(path).close()
    assert path.stat().st_size == 0


@pytest.mark.parametrize(
    "line", ["not json", "[1]", "3", "null", '{"event": "epoch"}', '{"time": 0}', ""]
)
def test_a_damaged_line_is_named_with_its_place_and_not_passed_over(path, line):
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + line + "\n" + lines[1])
    events = journal.read(path)
    assert next(events)[0]["trial_id"] == "0"
    with pytest.raises(JournalError, match="damaged in line 2, before byte") as caught:
        next(events)
    assert str(path) in str(caught.value)
    assert f"byte {len(lines[0]) + len(line) + 1} " in str(caught.value)
    assert "`head -n 1` gives what comes before it" in str(caught.value)
    with pytest.raises(JournalError, match="damaged in line 2"):
        Journal(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_no_json_is_refused_and_nothing_is_written(path, value):
    before = path.read_bytes()
    writer = Journal(path)
    with pytest.raises(ValueError):
        writer.append(journal.EPOCH, metrics={"val_loss": value})
    writer.close()
    assert path.read_bytes() == before


def test_each_event_is_one_line_of_json(path):
    lines = path.read_text().splitlines()
    assert [json.loads(line)["metrics"]["val_loss"] for line in lines] == [None] * 3


@contextmanager
def file_size_limit(size):
    """The kernel's own refusal to write beyond a size, as a full disk refuses, for the block."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [0, 1, 30, 79])
def test_an_event_that_the_disk_has_no_room_for_is_not_written_at_all(path, room):
    before = path.read_bytes()
    writer = Journal(path)
    with file_size_limit(len(before) + room), pytest.raises(OSError, match="File too large"):
        writer.append(journal.EPOCH, trial_id="9", metrics={"epoch": 1, "val_loss": 0.5})
    assert path.read_bytes() == before
    # And the next one, with room again, is whole.
    writer.append(journal.STUDY_RESUME)
    writer.close()
    assert kinds(path) == [journal.EPOCH] * 3 + [journal.STUDY_RESUME]


def test_a_disk_that_gives_no_room_and_no_way_back_leaves_a_tail_that_is_cut_later(
    path, monkeypatch
):
    """As when a storage goes away in mid-write."""
    before = path.read_bytes()
    writer = Journal(path)

    def gone(*_):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch, file_size_limit(len(before) + 30):
        patch.setattr(os, "ftruncate", gone)
        with pytest.raises(OSError):
            writer.append(journal.EPOCH, trial_id="9", metrics={"epoch": 1, "val_loss": 0.5})
        assert len(path.read_bytes()) == len(before) + 30
    assert len(kinds(path)) == 3
    writer.append(journal.STUDY_RESUME)
    assert kinds(path) == [journal.EPOCH] * 3 + [journal.STUDY_RESUME]


def test_an_event_that_did_not_reach_the_disk_is_written_again(path, monkeypatch):
    """What a failed fsync leaves in the system's cache may be gone later without a word."""
    calls = []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) == 1:
            raise OSError(errno.EIO, "Input/output error")

    def patience(attempt):
        with pytest.raises(OSError):
            attempt()
        assert len(kinds(path)) == 3
        attempt()

    writer = Journal(path, patience)
    monkeypatch.setattr(os, "fsync", fsync)
    writer.append(journal.STUDY_RESUME, durable=True)
    assert len(calls) == 2
    assert kinds(path) == [journal.EPOCH] * 3 + [journal.STUDY_RESUME]


def test_a_storage_that_is_gone_and_comes_back_is_written_to_where_it_is_then(tmp_path):
    storage, away = tmp_path / "storage", tmp_path / "away"
    storage.mkdir()
    writer = Journal(storage / "journal.jsonl")
    writer.append(journal.EPOCH, trial_id="0", metrics={"epoch": 1})
    shutil.copytree(storage, away)
    shutil.rmtree(storage)
    with pytest.raises(FileNotFoundError):
        writer.append(journal.STUDY_RESUME)
    away.rename(storage)
    writer.append(journal.STUDY_RESUME)
    assert kinds(storage / "journal.jsonl") == [journal.EPOCH, journal.STUDY_RESUME]


def test_a_second_writer_is_noticed_before_anything_is_mixed(path):
    """A process that was taken for dead (its host slept, say) must not go on where another is."""
    first, second = Journal(path), Journal(path)
    second.append(journal.STUDY_RESUME)
    before = path.read_bytes()
    with pytest.raises(JournalError, match="changed by another process"):
        first.append(journal.EPOCH, trial_id="9", metrics={"epoch": 1})
    assert path.read_bytes() == before
    second.append(journal.STUDY_RESUME)


def test_a_journal_that_has_become_shorter_is_not_written_on(path):
    writer = Journal(path)
    os.truncate(path, 10)
    with pytest.raises(JournalError, match="changed by another process"):
        writer.append(journal.STUDY_RESUME)
    assert path.stat().st_size == 10


def test_times_do_not_go_back_when_the_clock_does_nor_leap_when_it_leaps(path, monkeypatch):
    now = time.time()
    writer = Journal(path)
    times = []
    for shift in (0, -86_400, 86_400, -1e9):
        monkeypatch.setattr(time, "time", lambda shift=shift: now + shift)
        times.append(writer.append(journal.STUDY_RESUME)["time"])
    # Another process, after a clock that was set back by a day.
    monkeypatch.setattr(time, "time", lambda: now - 86_400)
    writer.close()
    times.append(Journal(path).append(journal.STUDY_RESUME)["time"])
    assert times == sorted(times)
    assert times[-1] - times[0] < 60


def durable_and_loose(path):
    """Bytes of a journal up to its last durable event, and those behind, as lines."""
    writer = Journal(path)
    writer.append(journal.TRIAL_END, durable=True, trial_id="0", state="complete", reason=None)
    durable = path.read_bytes()
    for epoch in range(4):
        writer.append(journal.EPOCH, trial_id="1", metrics={"epoch": epoch})
    writer.close()
    return durable, path.read_bytes()[len(durable) :]


@pytest.mark.parametrize(("first", "last"), [(0, 40), (50, 120), (200, None), (0, None)])
def test_what_a_power_loss_zeroed_is_a_torn_end(path, first, last):
    """Blocks that had not reached the disk read as zeros, whole ones may follow."""
    durable, loose = durable_and_loose(path)
    zeroed = loose[:first] + b"\0" * len(loose[first:last]) + (loose[last:] if last else b"")
    path.write_bytes(durable + zeroed)
    whole = len(durable) + loose[:first].rfind(b"\n") + 1
    assert sum(1 for _ in journal.read(path)) == path.read_bytes()[:whole].count(b"\n")
    Journal(path).close()
    assert path.stat().st_size == whole


def test_zeros_before_a_durable_event_are_no_power_loss(path):
    durable, loose = durable_and_loose(path)
    path.write_bytes(b"\0" * 30 + durable[30:] + loose)
    with pytest.raises(JournalError, match="damaged in line 1"):
        list(journal.read(path))


def test_zeros_before_the_end_of_a_training_are_no_power_loss(path):
    """The end is written durably, and with it goes the one reading of the test split."""
    writer = Journal(path)
    writer.append(journal.TRAINING, durable=True, training_id="a")
    begun = path.stat().st_size
    writer.append(journal.EPOCH, metrics={"epoch": 1})
    epoch = path.stat().st_size - begun
    writer.append(journal.TRAINING_END, durable=True, metrics={"epoch": 2}, weights_digest="d")
    writer.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:begun] + b"\0" * (epoch - 1) + whole[begun + epoch - 1 :])
    with pytest.raises(JournalError, match="is damaged in line"):
        Journal(path)
    assert path.stat().st_size == len(whole)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a disk")
def test_a_disk_that_is_full_takes_no_event_and_after_some_room_the_next(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        writer = Journal(disk / "journal.jsonl")
        writer.append(journal.EPOCH, durable=True, trial_id="0", metrics={"epoch": 1})
        ballast = disk / "ballast"
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        epoch = 1
        with suppress(OSError):
            while epoch < 100:
                event = {"trial_id": "0", "metrics": {"epoch": epoch + 1}}
                writer.append(journal.EPOCH, **event)
                epoch += 1
        with pytest.raises(OSError, match="No space left"):
            writer.append(journal.EPOCH, **event)
        kept = [event["metrics"]["epoch"] for event, _ in journal.read(writer.path)]
        assert kept == list(range(1, epoch + 1))
        assert epoch < 100
        ballast.unlink()
        writer.append(journal.EPOCH, **event)
        writer.close()
        assert len(kinds(writer.path)) == epoch + 1
    finally:
        subprocess.run(["umount", str(disk)], check=True)
