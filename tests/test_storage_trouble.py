"""A storage in trouble when a study starts: full, read-only, in use, or with a damaged store."""

import os
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import write_space
from study_events import WrittenStudy, study_spec

from esam_tune.cli import main
from esam_tune.errors import InputError
from esam_tune.study.folder import check_storage, study_folder
from esam_tune.tracking import spool

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a disk")


@contextmanager
def disk(folder: Path, *options: str):
    """A file system of its own, as root alone can make one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def refusal(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    return line


@AS_ROOT
def test_a_disk_that_is_full_is_noticed_before_anything_starts(tmp_path, capsys):
    space = write_space(tmp_path)
    with disk(tmp_path / "disk", "size=4m") as full:
        line = refusal(capsys, "sweep", space, "--storage", full / "runs")
        assert f"--storage: must have 8 MiB free, and '{full / 'runs'}' has " in line
        assert list(full.iterdir()) == []
        (full / "ballast").write_bytes(b"x" * (4 << 20))
        with pytest.raises(InputError, match="--storage: "):
            check_storage(full / "runs")
    with disk(tmp_path / "room", "size=64m") as room:
        check_storage(room / "runs")


@AS_ROOT
def test_a_disk_that_is_read_only_is_told_apart(tmp_path, capsys):
    space = write_space(tmp_path)
    with disk(tmp_path / "disk", "size=64m") as kept:
        study = WrittenStudy(kept / "small" / "journal.jsonl", study_spec(name="small"))
        study.trial(0.9, 1.5)
        study.writer.close()
        subprocess.run(["mount", "-o", "remount,ro", str(kept)], check=True)
        line = refusal(capsys, "sweep", space, "--storage", kept)
        assert f"--storage: cannot write to '{kept}' (Read-only file system)" in line
        line = refusal(capsys, "pareto", "small", "--storage", kept, "--export", kept / "x.yaml")
        assert "--export: cannot write" in line
        # What only reads goes on.
        assert main(["pareto", "small", "--storage", str(kept)]) == 0


def test_a_second_sweep_of_a_study_is_refused_and_told_who_runs_it(tmp_path, capsys):
    space = write_space(tmp_path)
    storage = tmp_path / "runs"
    with study_folder(storage, "tiny").lock():
        line = refusal(capsys, "sweep", space, "--storage", storage)
    assert f"--name: study 'tiny' is being run by process {os.getpid()} on " in line
    assert not storage.exists()


def test_a_damaged_tracking_store_costs_no_study_and_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(spool, "_POLL_SECONDS", 0.01)
    path = tmp_path / "small" / "journal.jsonl"
    study = WrittenStudy(path, study_spec(name="small"), tracking_uri=None)
    study.trial(0.9, 1.5)
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 500)
    before = path.read_bytes()
    assert main(["sync", "small", "--storage", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "file is not a database" in said
    assert f"{len(before.splitlines())} are kept: try again later" in said
    assert path.read_bytes() == before
    assert main(["pareto", "small", "--storage", str(tmp_path)]) == 0
