"""A storage that is full or gone: waited for, with words, and not for ever."""

import errno
import os

import pytest

from esam_tune.errors import RunFailedError
from esam_tune.study import patience
from esam_tune.study.patience import StoragePatience


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(patience, "_AGAIN_SECONDS", 0.01)


class Disk:
    """Refuses so many writes, then takes them."""

    def __init__(self, refusals, code=errno.ENOSPC):
        self.refusals = refusals
        self.code = code
        self.attempts = 0

    def write(self):
        self.attempts += 1
        if self.attempts <= self.refusals:
            raise OSError(self.code, os.strerror(self.code))


# Full, made read-only, failing, or a share of another machine that was gone.
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.ESTALE])
def test_a_disk_in_trouble_is_waited_for_and_named_once(caplog, code):
    disk, waits = Disk(5, code), []
    StoragePatience("/data/runs", lambda: waits.append(1))(disk.write)
    assert disk.attempts == 6
    assert len(waits) == 5
    problem, over = caplog.messages
    assert problem.startswith(f"cannot write to /data/runs ({os.strerror(code)}); the study waits")
    assert over == "/data/runs takes records again; the study goes on"


def test_what_works_at_once_is_not_spoken_of(caplog):
    StoragePatience("/data/runs", pytest.fail)(lambda: None)
    assert caplog.messages == []


def test_a_wait_that_is_too_long_ends_the_study_and_is_not_begun_again():
    disk = Disk(10**9)
    patient = StoragePatience("/data/runs", lambda: None, seconds=0.1)
    with pytest.raises(RunFailedError, match=r"cannot write to /data/runs \(No space left") as end:
        patient(disk.write)
    assert "go on with --resume" in str(end.value)
    before = disk.attempts
    assert before > 2
    with pytest.raises(RunFailedError):
        patient(disk.write)
    assert disk.attempts == before + 1


def test_a_signal_ends_the_wait():
    def stop():
        raise KeyboardInterrupt

    disk = Disk(10**9)
    with pytest.raises(KeyboardInterrupt):
        StoragePatience("/data/runs", stop)(disk.write)
    assert disk.attempts == 1


def test_no_other_error_is_waited_for():
    def broken():
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        StoragePatience("/data/runs", pytest.fail)(broken)
