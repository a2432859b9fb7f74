"""README's commands that are often wanted, run in order: smaller, and else as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, environment

pytestmark = [pytest.mark.long, pytest.mark.ray, pytest.mark.slow, pytest.mark.e2e]

PAGE = (REPOSITORY / "README.md").read_text(encoding="utf-8")
# What each verb must have said, beside ending with 0.
SAID = {
    "sweep": "Pareto front",
    "refine": "Pareto front",
    "pareto": "pick by accuracy",
    "train": "test accuracy",
    "scale": "predicted for",
}


def commands():
    """Those of the block, with a tenth of the trials and one epoch."""
    (block,) = re.findall(r"often wanted:\n\n((?:    .*\n)+)", PAGE)
    for line in block.splitlines():
        command = re.sub(r"--trials (\d+)0", r"--trials \1", line.strip())
        verb = command.split()[1]
        if verb == "sweep" and "--resume" not in command:
            command += " --epochs 1" + (" --trials 1" if "--trials" not in command else "")
        yield verb, command


def test_they_end_well_one_after_another(tmp_path):
    (tmp_path / "search_spaces").symlink_to(REPOSITORY / "search_spaces")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    verbs = []
    for verb, command in commands():
        answer = subprocess.run(
            ["bash", "-euc", command],
            cwd=tmp_path,
            env=environment(PATH=path, COLUMNS="120"),
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert answer.returncode == 0, f"{command}\n{answer.stdout}{answer.stderr}"
        if "--dry-run" not in command:
            assert SAID[verb] in answer.stdout, f"{command}\n{answer.stdout}"
        verbs.append(verb)
    assert set(verbs) == set(SAID)
    studies = {path.name for path in (tmp_path / "runs").iterdir() if path.is_dir()}
    assert {"longer", "cheap", "groups", "warm", "models", "scaling"} <= studies
