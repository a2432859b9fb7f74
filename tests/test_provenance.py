"""Where a study comes from: commit, device and data."""

import subprocess

import pytest
from image_files import write_images

from esam_tune.config import TaskSettings
from esam_tune.study import provenance
from esam_tune.study.provenance import device_name, git_commit
from esam_tune.tasks import digest
from esam_tune.tasks.data import load_split
from esam_tune.tasks.digest import data_digest

DIGITS = TaskSettings(dataset="digits", model="small_cnn")


def git(folder, *arguments):
    who = ["-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", "-C", folder, *who, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def space(tmp_path):
    """A space file in a repository."""
    git(tmp_path, "init", "-q")
    path = tmp_path / "space.yaml"
    path.write_text("name: x\n")
    git(tmp_path, "add", "space.yaml")
    git(tmp_path, "commit", "-q", "-m", "one")
    return path


def test_a_space_files_commit_is_its_repositorys(space):
    commit = git(space.parent, "rev-parse", "HEAD")
    assert git_commit(space) == commit
    (space.parent / "other.txt").write_text("not of the study")
    assert git_commit(space) == commit
    space.write_text("name: y\n")
    assert git_commit(space) == f"{commit}-dirty"


def test_a_file_that_was_never_committed_is_no_commits(space):
    untracked = space.parent / "another.yaml"
    untracked.write_text("name: z\n")
    assert git_commit(untracked).endswith("-dirty")


def test_a_repository_that_came_with_the_file_runs_nothing(space, tmp_path):
    """A monitor, a filter and a transport that it configures, which `git status` would run."""
    ran = tmp_path / "ran"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {ran}\ncat\n")
    program.chmod(0o755)
    (space.parent / ".gitattributes").write_text("*.yaml filter=own\n")
    for key in ("core.fsmonitor", "filter.own.clean", "filter.own.smudge", "core.sshCommand"):
        git(space.parent, "config", key, str(program))
    space.write_text("name: changed\n")
    assert git_commit(space).endswith("-dirty")
    assert not ran.exists()
    git(space.parent, "status", "--porcelain")
    assert ran.exists(), "the trap is none"


def test_a_files_name_is_no_pattern_and_no_option(space):
    odd = space.with_name(":(top)*.yaml")
    odd.write_text("name: x\n")
    assert git_commit(odd).endswith("-dirty")
    option = space.with_name("--help.yaml")
    option.write_text("name: x\n")
    assert git_commit(option).endswith("-dirty")


def test_no_repository_and_no_git_give_no_commit(tmp_path, monkeypatch):
    path = tmp_path / "space.yaml"
    path.write_text("name: x\n")
    assert git_commit(path) is None
    monkeypatch.setattr(provenance.shutil, "which", lambda _: None)
    assert git_commit(path) is None


def test_a_device_is_named(monkeypatch):
    assert device_name(0) == "CPU"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert device_name(0.5) == "GPU"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "NVIDIA X")
    assert device_name(1) == "NVIDIA X"


def test_a_digest_tells_splits_and_noise_apart_and_reads_no_test_data(monkeypatch):
    asked = []

    def noted(task, name):
        asked.append(name)
        return load_split(task, name)

    monkeypatch.setattr(digest, "load_split", noted)
    first = data_digest(DIGITS)
    assert set(asked) == {"train", "val"}
    assert first == data_digest(DIGITS)
    assert first["name"] == "digits"
    assert len(first["digest"]) <= 36
    assert first["profile"]["train_samples"] == len(load_split(DIGITS, "train"))
    others = [{"label_noise": 0.4}, {"split_seed": 1}, {"label_noise": 0.4, "split_seed": 1}]
    found = {
        data_digest(TaskSettings(dataset="digits", model="small_cnn", **other))["digest"]
        for other in others
    }
    assert len({first["digest"], *found}) == 4
    # The network is no part of the data.
    network = TaskSettings(dataset="digits", model="resnet18_cifar")
    assert data_digest(network)["digest"] == first["digest"]


def test_streamed_images_count_by_their_files(tmp_path):
    write_images(tmp_path, ["train"], count=12)
    task = TaskSettings(dataset="folder", model="resnet50", data_dir=str(tmp_path), image_size=8)
    before = data_digest(task)["digest"]
    load_split.cache_clear()
    assert data_digest(task)["digest"] == before
    load_split.cache_clear()
    (tmp_path / "train" / "ape" / "3.png").rename(tmp_path / "train" / "ape" / "33.png")
    assert data_digest(task)["digest"] != before
