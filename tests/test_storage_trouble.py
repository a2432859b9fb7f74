"""A storage in trouble when a study starts: full, read-only, in use, or with a damaged store."""

import functools
import os
import sqlite3
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
from esam_tune.tracking.store import connect, local_uri

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
    (line,) = capsys.readouterr().err.splitlines()
    assert "file is not a database" in line
    assert f"{len(before.splitlines())} are kept: try again later" in line
    assert path.read_bytes() == before
    assert main(["pareto", "small", "--storage", str(tmp_path)]) == 0


class HastyCursor(sqlite3.Cursor):
    """Does not wait for a lock for the twenty seconds that MLflow gives each of its requests."""

    def execute(self, statement, *parameters):
        hasty = statement.replace("busy_timeout = 20000", "busy_timeout = 20")
        return super().execute(hasty, *parameters)


class HastyConnection(sqlite3.Connection):
    def cursor(self):
        return super().cursor(HastyCursor)


@pytest.mark.slow
def test_a_tracking_store_that_another_program_holds_gets_everything_later(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(spool, "_POLL_SECONDS", 0.01)
    hasty = functools.partial(sqlite3.connect, factory=HastyConnection)
    monkeypatch.setattr("sqlite3.dbapi2.connect", hasty)
    path = tmp_path / "small" / "journal.jsonl"
    study = WrittenStudy(path, study_spec(name="small"), tracking_uri=None)
    study.trial(0.8, 1.4)
    sync = ["sync", "small", "--storage", str(tmp_path)]
    assert main(sync) == 0
    late = study.trial(0.9, 1.5)
    before = path.read_bytes()
    other = sqlite3.connect(tmp_path / "mlflow.db")
    # From writers alone, so that a request fails in the midst of others; then from readers, too.
    for kind in ("IMMEDIATE", "EXCLUSIVE"):
        other.execute(f"BEGIN {kind}")
        capsys.readouterr()
        assert main(sync) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("esam-tune: MLflow at sqlite:///")
        assert line.endswith(
            "does not take records (database is locked); 4 are kept: try again later"
        )
        other.rollback()
    other.close()
    assert path.read_bytes() == before
    assert main(sync) == 0
    client = connect(local_uri(tmp_path))
    experiment = client.get_experiment_by_name("esam-tune")
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 3
    (run,) = [run for run in runs if run.data.tags.get("esam_tune.trial_id") == late]
    for key, value in (("val_accuracy", 0.9), ("step_flops_ratio", 1.5)):
        history = client.get_metric_history(run.info.run_id, key)
        assert [(point.step, point.value) for point in history] == [(1, value), (2, value)]
