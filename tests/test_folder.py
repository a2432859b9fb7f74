"""A study's folder: its lock, its names, and checks that leave nothing behind."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from study_events import WrittenStudy, study_spec

from esam_tune.errors import InputError
from esam_tune.study.folder import StudyFolder, check_storage, study_folder

HOST = socket.gethostname()
HOLDER = """
import sys
from pathlib import Path
from esam_tune.study.folder import study_folder
with study_folder(Path(sys.argv[1]), "small").lock():
    print("held", flush=True)
    sys.stdin.read()
"""


def with_study(storage, name):
    WrittenStudy(storage / name / "journal.jsonl", study_spec(name=name))
    return study_folder(storage, name)


def entries(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def held(tmp_path):
    """A study folder whose lock another process holds."""
    folder = study_folder(tmp_path, "small")
    folder.path.mkdir()
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        yield folder, process
        process.kill()


def test_a_second_process_is_kept_out_and_told_who_is_in(held):
    folder, process = held
    with pytest.raises(InputError) as caught, folder.lock():
        pytest.fail("the lock was given twice")
    assert caught.value.field == "--name"
    assert caught.value.problem == f"study 'small' is being run by process {process.pid} on {HOST}"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_dead_process_holds_no_lock(held, number):
    folder, process = held
    process.send_signal(number)
    process.wait()
    with folder.lock():
        holder = json.loads((folder.path / "lock").read_text())
        assert (holder["pid"], holder["host"]) == (os.getpid(), HOST)


def test_a_lock_ends_with_its_block_even_by_an_error(tmp_path):
    folder = StudyFolder(storage=tmp_path, name="small")
    folder.path.mkdir()
    with pytest.raises(RuntimeError, match="inside"), folder.lock():
        raise RuntimeError("inside")
    with folder.lock(), pytest.raises(InputError), folder.lock():
        pytest.fail("the lock was given twice")


@pytest.mark.parametrize(
    "name",
    ["../out", "a/b", "/etc", "..", ".", ".hidden", "-rf", "a b", "", "a\\b", "a\nb"],
)
def test_a_name_that_could_leave_the_storage_is_refused(tmp_path, name):
    with pytest.raises(InputError) as caught:
        study_folder(tmp_path, name)
    assert caught.value.field == "STUDY"
    assert repr(name) in caught.value.problem


@pytest.mark.parametrize("target", ["other", "../elsewhere", "nowhere"])
def test_a_link_is_no_studys_folder(tmp_path, target):
    storage, elsewhere = tmp_path / "runs", tmp_path / "elsewhere"
    with_study(storage, "other")
    (elsewhere / "tune").mkdir(parents=True)
    (elsewhere / "tune" / "kept").touch()
    (storage / "small").symlink_to(target)
    with pytest.raises(InputError, match=r"'small' is a link in .*, not a study's own folder"):
        study_folder(storage, "small")
    assert (elsewhere / "tune" / "kept").exists()
    # A storage may be reached through one.
    (tmp_path / "alias").symlink_to("runs")
    assert study_folder(tmp_path / "alias", "other").record().trials == {}


@pytest.mark.parametrize("name", ["mlflow.db", "mlartifacts", "models"])
def test_a_name_that_the_storage_uses_itself_is_refused(tmp_path, name):
    with pytest.raises(InputError):
        study_folder(tmp_path, name)


def test_paths_lie_in_the_studys_folder_whatever_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = study_folder(tmp_path.relative_to(tmp_path) / "runs", "small")
    monkeypatch.chdir("/")
    own = (folder.journal, folder.optuna, folder.cursor, folder.chosen)
    assert {path.parent for path in own} == {tmp_path / "runs" / "small"}
    assert entries(tmp_path) == []


def test_a_study_exists_once_its_journal_does(tmp_path):
    folder = study_folder(tmp_path, "small")
    assert not folder.exists()
    folder.path.mkdir()
    assert not folder.exists()
    assert with_study(tmp_path, "small").exists()


@pytest.mark.parametrize(
    ("known", "remedy"),
    [
        ((), "run `esam-tune sweep` first"),
        (("digits", "other"), "did you mean 'digits'?"),
        (("alpha", "beta"), "choose from alpha, beta"),
    ],
)
def test_an_unknown_study_is_answered_with_those_there_are(tmp_path, known, remedy):
    for name in known:
        with_study(tmp_path, name)
    with pytest.raises(InputError) as caught:
        study_folder(tmp_path, "digit").record()
    assert caught.value.problem == f"no study 'digit' in {str(tmp_path)!r}"
    assert caught.value.remedy == remedy


def test_a_journal_that_cannot_be_read_is_not_taken_for_none(tmp_path):
    folder = study_folder(tmp_path, "small")
    folder.journal.mkdir(parents=True)
    with pytest.raises(InputError, match=r"STUDY: cannot read .*journal.jsonl' \(Is a directory\)"):
        folder.record()


def test_each_process_gets_a_new_folder_for_tune(tmp_path):
    folder = with_study(tmp_path, "small")
    given = [folder.new_tune_folder() for _ in range(3)]
    assert given == [str(folder.path / "tune" / name) for name in ("000", "001", "002")]
    # One that somebody removed is not given again.
    (folder.path / "tune" / "000").rmdir()
    assert folder.new_tune_folder() == str(folder.path / "tune" / "003")
    folder.drop_tune_folders()
    assert not (folder.path / "tune").exists()


def test_files_of_tune_go_where_the_study_was_started_with(tmp_path):
    storage = tmp_path / "storage"
    shared = str(tmp_path / "shared")
    study = WrittenStudy(
        storage / "small" / "journal.jsonl",
        study_spec(name="small"),
        checkpoint_storage=shared,
    )
    folder = study_folder(storage, "small")
    first, second = folder.new_tune_folder(), folder.new_tune_folder()
    assert first == f"{shared}/small-a1b2/000"
    assert second == f"{shared}/small-a1b2/001"
    (tmp_path / "shared" / "another").mkdir(parents=True)
    Path(first).mkdir(parents=True)
    folder.drop_tune_folders()
    # What else is kept there is not this study's.
    assert entries(tmp_path / "shared") == ["another"]
    assert entries(folder.path) == ["journal.jsonl"]
    assert study.path.exists()


@pytest.mark.parametrize("below", ["", "runs", "a/b/c"])
def test_checking_the_storage_leaves_nothing_behind(tmp_path, below):
    check_storage(tmp_path / below)
    assert entries(tmp_path) == []


def test_checking_a_storage_in_use_leaves_it_as_it_is(tmp_path):
    with_study(tmp_path, "small")
    before = entries(tmp_path)
    check_storage(tmp_path)
    assert entries(tmp_path) == before


@pytest.mark.parametrize("below", ["file", "file/deeper", "new/" + "n" * 300])
def test_a_storage_that_cannot_be_written_is_refused_and_cleaned_up(tmp_path, below):
    (tmp_path / "file").touch()
    with pytest.raises(InputError) as caught:
        check_storage(tmp_path / below)
    assert caught.value.field == "--storage"
    assert f"cannot write to {str(tmp_path / below)!r} (" in caught.value.problem
    assert entries(tmp_path) == ["file"]


@pytest.mark.parametrize(("free", "refused"), [(0, True), (7, True), (8, False), (9, False)])
def test_a_storage_without_room_for_a_study_is_refused(tmp_path, monkeypatch, free, refused):
    usage = SimpleNamespace(free=(free << 20) + 1)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    if not refused:
        check_storage(tmp_path / "runs")
        return
    with pytest.raises(InputError) as caught:
        check_storage(tmp_path / "runs")
    assert caught.value.field == "--storage"
    place = str(tmp_path / "runs")
    assert caught.value.problem == f"must have 8 MiB free, and {place!r} has {free}"
    assert entries(tmp_path) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.ESTALE])
def test_a_storage_that_takes_no_file_is_refused(tmp_path, monkeypatch, code):
    def refuse(**_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(InputError) as caught:
        check_storage(tmp_path / "runs")
    place = str(tmp_path / "runs")
    assert caught.value.field == "--storage"
    assert caught.value.problem == f"cannot write to {place!r} ({os.strerror(code)})"
    assert entries(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_storage_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="Permission denied"):
        check_storage(tmp_path)
    tmp_path.chmod(0o700)


@pytest.mark.parametrize("study_id", ["/../../..", "../other", "a b", ".", ""])
def test_a_journal_that_names_a_place_for_its_study_has_nothing_removed_there(tmp_path, study_id):
    shared, other = tmp_path / "shared", tmp_path / "other"
    for place in (shared, other):
        place.mkdir()
        (place / "kept").touch()
    path = tmp_path / "runs" / "small" / "journal.jsonl"
    started = {"checkpoint_storage": str(shared), "study_id": study_id}
    WrittenStudy(path, study_spec(), **started).writer.close()
    folder = study_folder(tmp_path / "runs", "small")
    with pytest.raises(InputError, match="no study's id"):
        folder.checkpoint_root()
    with pytest.raises(InputError, match="no study's id"):
        folder.drop_tune_folders()
    assert (shared / "kept").exists()
    assert (other / "kept").exists()
