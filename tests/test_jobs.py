"""The scripts that Ray runs as jobs: the command line's verbs with defaults that fit a job."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, write_space

from esam_tune import cli
from esam_tune.cli import job

JOBS = REPOSITORY / "jobs"
VERBS = ("sweep", "train", "scale")


@pytest.fixture
def called(monkeypatch):
    """What the command line is called with."""
    calls = []
    monkeypatch.setattr(cli, "main", lambda arguments: calls.append(arguments) or 7)
    return calls


def test_a_job_runs_on_its_own_cluster_and_stores_at_home(called, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["sweep.py", "space.yaml", "--trials", "3"])
    assert job.main("sweep") == 7
    (arguments,) = called
    options = cli.build_parser().parse_args(arguments)
    assert options.address == "auto"
    assert options.storage == tmp_path / "runs"
    assert options.trials == 3


def test_what_the_user_says_goes_before_the_defaults(called):
    job.main("train", ["settings.yaml", "--storage", "/shared/runs", "--address", "10.0.0.1:6379"])
    (arguments,) = called
    options = cli.build_parser().parse_args(arguments)
    assert options.storage == Path("/shared/runs")
    assert options.address == "10.0.0.1:6379"


@pytest.mark.parametrize("verb", VERBS)
def test_a_script_calls_its_verb_and_needs_no_file_beside_it(verb):
    """`ray submit` copies the script alone: all it imports must come from the package."""
    source = (JOBS / f"{verb}.py").read_text(encoding="utf-8")
    tree = ast.parse(source)
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [ast.unparse(node) for node in imported] == [
        "import sys",
        "from esam_tune.cli.job import main",
    ]
    assert f'sys.exit(main("{verb}"))' in source


@pytest.mark.e2e
def test_a_script_run_where_no_cluster_is_says_so(tmp_path):
    alone = tmp_path / "sweep.py"
    alone.write_text((JOBS / "sweep.py").read_text(encoding="utf-8"), encoding="utf-8")
    run = subprocess.run(
        [sys.executable, alone, write_space(tmp_path), "--address", "127.0.0.1:9"],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 2
    assert run.stderr.startswith("esam-tune: error: --address: no Ray cluster answers")
    assert not (tmp_path / "runs").exists()


@pytest.mark.e2e
@pytest.mark.parametrize("storage", [(), ("--storage", "here")])
def test_a_job_may_not_store_in_its_own_working_directory(storage, tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "esam_tune.cli", "pareto", "study", *storage],
        env={**os.environ, "RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 2
    assert "--storage: must be absolute in a Ray job" in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_the_variable_that_marks_a_job_is_rays_own():
    from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

    assert RAY_JOB_CONFIG_JSON_ENV_VAR == "RAY_JOB_CONFIG_JSON_ENV_VAR"
