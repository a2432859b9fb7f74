"""Each protection is missed by a test: taken out of a copy of the code, its tests fail.

``make test`` sees that each still stands where it is looked for; ``make chaos`` takes them out.
"""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from conftest import REPOSITORY
from protections import PROTECTIONS

IDS = [f"{protection.of}: {protection.name}" for protection in PROTECTIONS]
ONE_AT_A_TIME = pytest.mark.parametrize("protection", PROTECTIONS, ids=IDS)
FOLDERS = ("esam_tune", "tests", "search_spaces", "docs", "jobs", "benchmarks")
COPIED = (*FOLDERS, "pyproject.toml", "README.md", "Makefile")
# pytest's exit code for tests that ran and failed.
FAILED = 1
missed = []


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the code that tests can be run in."""
    folder = tmp_path_factory.mktemp("copy")
    for name in COPIED:
        source = REPOSITORY / name
        if source.is_dir():
            skipped = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, folder / name, ignore=skipped, symlinks=True)
        else:
            shutil.copy(source, folder / name)
    return folder


def outcome(folder, module):
    """pytest's exit code for a module's tests without Ray, in a folder, and what it printed."""
    run = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"),
            *("-m", "not ray and not long", f"tests/{module}"),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    return run.returncode, run.stdout[-3000:] + run.stderr[-1000:]


@ONE_AT_A_TIME
def test_it_stands_where_it_is_looked_for(protection):
    code = Path(REPOSITORY, "esam_tune", protection.file).read_text(encoding="utf-8")
    assert code.count(protection.code) == 1
    assert (REPOSITORY / "tests" / protection.tests).exists()


def test_names_tell_protections_apart():
    assert max(Counter(IDS).values()) == 1


@pytest.mark.long
@pytest.mark.parametrize("module", sorted({protection.tests for protection in PROTECTIONS}))
def test_nothing_fails_with_all_of_them(copy, module):
    code, printed = outcome(copy, module)
    assert code == 0, printed


@pytest.mark.long
@ONE_AT_A_TIME
def test_without_it_a_test_fails(copy, protection):
    path = copy / "esam_tune" / protection.file
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole.replace(protection.code, protection.without), encoding="utf-8")
    try:
        code, printed = outcome(copy, protection.tests)
    finally:
        path.write_text(whole, encoding="utf-8")
    assert code == FAILED, printed
    missed.append(protection.of)


@pytest.mark.long
def test_figures():
    figures = {"figure": "protections taken out and missed", **Counter(missed)}
    print(json.dumps(figures))  # noqa: T201 - shown by pytest -s
    assert len(missed) == len(PROTECTIONS)
