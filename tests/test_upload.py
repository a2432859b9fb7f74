"""The size of a job's upload: what Ray would pack, and the bound that is kept before it is sent."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path, PurePath

import pytest
from conftest import REPOSITORY
from hypothesis import given
from hypothesis import strategies as st

from esam_tune.errors import InputError
from esam_tune.upload import MIB, Upload, check_submission, measure


def write(folder, sizes):
    for name, size in sizes.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)


@pytest.fixture
def work(tmp_path):
    """A working directory with what should be sent, and much that should not."""
    write(
        tmp_path,
        {
            "jobs/sweep.py": 100,
            "esam_tune/cli/main.py": 200,
            "esam_tune/trace.log": 300,
            ".git/objects/pack": 5000,
            ".venv/lib/torch.so": 5000,
            "esam_tune/__pycache__/main.pyc": 5000,
            "runs/big/state.bin": 5000,
            "data/images.bin": 5000,
            "notes/draft.txt": 50,
        },
    )
    (tmp_path / ".gitignore").write_text("/runs/\n")
    (tmp_path / ".rayignore").write_text("/data/\n")
    (tmp_path / "esam_tune" / ".gitignore").write_text("*.log\n")
    return tmp_path


def test_what_is_ignored_anywhere_is_not_counted(work):
    names = {str(path) for path in measure(work, ["notes"]).sizes}
    assert names == {
        ".gitignore",
        ".rayignore",
        "esam_tune/.gitignore",
        "jobs/sweep.py",
        "esam_tune/cli/main.py",
    }


def test_the_files_are_those_that_ray_packs(work, tmp_path_factory):
    """Against the archive that the submission client makes of the same folder."""
    from ray._private import ray_constants
    from ray._private.runtime_env.packaging import create_package

    target = tmp_path_factory.mktemp("packed") / "upload.zip"
    excludes = ray_constants.get_runtime_env_default_excludes()
    create_package(str(work), target, include_gitignore=True, excludes=excludes)
    with zipfile.ZipFile(target) as archive:
        packed = {PurePath(item.filename): item.file_size for item in archive.infolist()}
    assert measure(work).sizes == packed
    # Stored, not compressed: what was measured is what is sent, names and all.
    assert measure(work).total < target.stat().st_size < measure(work).total + 2000


def test_gitignore_can_be_switched_off_as_in_ray(work, monkeypatch):
    monkeypatch.setenv("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "1")
    assert PurePath("runs/big/state.bin") in measure(work).sizes


def test_the_repository_itself_is_a_small_upload():
    upload = measure(REPOSITORY)
    assert upload.total < 5 * MIB
    tops = {path.parts[0] for path in upload.sizes}
    assert {"esam_tune", "jobs", "search_spaces", "pyproject.toml"} <= tops
    assert not tops & {".git", ".venv", "runs", "tests", "data"}


@given(
    st.dictionaries(
        st.lists(st.sampled_from(["a", "b", "c.txt"]), min_size=1, max_size=3).map(
            lambda parts: PurePath(*parts)
        ),
        st.integers(0, 10 * MIB),
    )
)
def test_the_entries_add_up_to_the_whole(sizes):
    upload = Upload(Path("/work"), sizes)
    entries = upload.largest(100)
    assert sum(size for _, size in entries) == upload.total
    assert [size for _, size in entries] == sorted((s for _, s in entries), reverse=True)


def test_a_too_large_folder_is_refused_with_its_largest_entry(tmp_path):
    write(tmp_path, {"weights/last": 3 * MIB, "small": 10})
    measure(tmp_path).check(3.1)
    with pytest.raises(InputError, match=r"at most 2 MiB .* weights/ 3\.0 MiB.*\.rayignore"):
        measure(tmp_path).check(2)


def check_upload(*arguments):
    return subprocess.run(
        [sys.executable, REPOSITORY / "jobs" / "check_upload.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.e2e
def test_the_check_command_prints_the_size_and_exits_2_above_the_bound(tmp_path):
    write(tmp_path, {"weights/last": 3 * MIB, "small": 10})
    fits = check_upload(tmp_path)
    assert fits.returncode == 0
    assert fits.stdout.startswith("3.0 MiB in 2 files; the largest entries: weights/ 3.0 MiB")
    large = check_upload(tmp_path, "--limit", 1)
    assert large.returncode == 2
    assert large.stderr.startswith("check_upload: error: --working-dir: must hold at most 1 MiB")
    missing = check_upload(tmp_path / "none")
    assert missing.returncode == 2
    assert "no folder" in missing.stderr


@pytest.mark.e2e
def test_a_submission_is_stopped_before_anything_is_sent(tmp_path):
    """`ray job submit` itself calls the hook; the address answers to nobody."""
    with (tmp_path / "weights").open("wb") as file:
        file.truncate(40 * MIB)
    run = subprocess.run(
        [
            *(Path(sys.executable).with_name("ray"), "job", "submit"),
            *("--address", "http://127.0.0.1:9", "--working-dir", tmp_path, "--", "true"),
        ],
        env={**os.environ, "RAY_JOB_SUBMIT_HOOK": "esam_tune.upload.check_submission"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 2
    assert "must hold at most 32 MiB" in run.stderr
    assert "Traceback" not in run.stderr
    assert "Connect" not in run.stderr


def test_the_hook_reads_the_runtime_environment_as_ray_does(tmp_path, capsys):
    with (tmp_path / "weights").open("wb") as file:
        file.truncate(40 * MIB)
    as_json = json.dumps({"working_dir": str(tmp_path)})
    with pytest.raises(SystemExit) as stopped:
        check_submission(runtime_env_json=as_json, address=None, entrypoint=("true",))
    assert stopped.value.code == 2

    document = tmp_path / "environment.yaml"
    document.write_text(json.dumps({"working_dir": str(tmp_path), "excludes": ["weights"]}))
    check_submission(runtime_env=str(document))
    assert "1 files" in capsys.readouterr().err


@pytest.mark.parametrize("remote", [None, "s3://bucket/work.zip"])
def test_the_hook_lets_pass_what_is_not_packed_here(remote, capsys):
    check_submission(working_dir=remote, entrypoint=("true",))
    assert capsys.readouterr().err == ""
