"""What pyproject.toml asks for is what the code imports, and the pins fit it."""

import ast
import functools
import re
import sys
import tomllib

import pytest
from conftest import REPOSITORY
from packaging.requirements import Requirement
from packaging.version import Version

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Distribution -> what is imported of it, where the names differ.
IMPORTED_AS = {"pillow": "PIL", "pyyaml": "yaml", "scikit-learn": "sklearn"}
# Imported without being asked for by name, since what is asked for stands on it and must fit it.
BROUGHT_ALONG = {"pyarrow": "ray", "fsspec": "ray", "sqlalchemy": "optuna", "packaging": "mlflow"}
# Asked for without being imported: programs, plug-ins and types.
TOOLS = {
    "moto",
    "mypy",
    "pip-audit",
    "pre-commit",
    "psycopg",
    "pytest-cov",
    "pytest-xdist",
    "ruff",
    "types-pyyaml",
}


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def asked_for(requirements):
    return {canonical(Requirement(text).name) for text in requirements}


@functools.cache
def imported_by(*folders):
    """Libraries that the Python files below some folders import, wherever the import stands."""
    found = set()
    own = {path.stem for folder in folders for path in (REPOSITORY / folder).rglob("*.py")}
    for folder in folders:
        for path in (REPOSITORY / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    found |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - own - {"esam_tune", "__future__"}


def libraries(names):
    return {IMPORTED_AS.get(name, name) for name in names}


RUNTIME = asked_for(PROJECT["dependencies"])
DEVELOPMENT = asked_for(PROJECT["optional-dependencies"]["dev"])


def test_every_dependency_is_imported():
    assert sorted(libraries(RUNTIME) - imported_by("esam_tune")) == []
    used = imported_by("tests", "benchmarks", "docs")
    assert sorted(libraries(DEVELOPMENT - TOOLS) - used) == []


def test_every_import_is_asked_for():
    missing = imported_by("esam_tune", "jobs") - libraries(RUNTIME) - BROUGHT_ALONG.keys()
    assert sorted(missing) == []
    assert set(BROUGHT_ALONG.values()) <= RUNTIME


def test_tools_are_asked_for():
    assert TOOLS <= DEVELOPMENT


def pins():
    text = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    return [line for line in lines if line]


def test_pins_are_names_and_versions_and_nothing_else():
    """An address there would send every installation to it; a range would be no pin."""
    for line in pins():
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+(\s*;.*)?", line), line


@pytest.mark.parametrize(
    "requirement",
    [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]],
    ids=lambda text: Requirement(text).name,
)
def test_a_dependency_is_pinned_within_its_bounds(requirement):
    wanted = Requirement(requirement)
    pinned = {
        canonical(name): Version(version.partition(";")[0].strip())
        for name, version in (line.split("==") for line in pins())
    }
    assert pinned[canonical(wanted.name)] in wanted.specifier
