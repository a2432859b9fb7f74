"""What several test modules share: a small space file and the command line as a user runs it."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml

# How long an example takes says something about the machine.
hypothesis.settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("untimed")

REPOSITORY = Path(__file__).parent.parent
TEST_DATA = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest: the modules that start Ray."""
    items.sort(key=lambda item: not _starts_ray(item.path))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Say what may run side by side, as `make test` does.

    A cluster of Ray starts several processes and wants the machine's cores: no two are to be up at
    a time, so that all modules that start one go to one worker. The tests of any other module stay
    together for its fixtures' sake.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByModule(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            module = nodeid.partition("::")[0]
            return "ray" if _starts_ray(REPOSITORY / module) else module

    return ByModule(config, log)


@functools.cache
def _starts_ray(module: Path) -> bool:
    return "pytest.mark.ray" in module.read_text(encoding="utf-8")


def tiny_space(**changes: Any) -> dict[str, Any]:
    """A space document whose trials take a second; keyword arguments replace whole sections."""
    document: dict[str, Any] = {
        "name": "tiny",
        "task": {"dataset": "digits", "model": "small_cnn", "label_noise": 0.4},
        "training": {"epochs": 2, "batch_size": 256, "lr": 0.05},
        "search": {
            "optimizer": "esam",
            "beta": {"low": 0.3, "high": 1.0},
            "gamma": {"low": 0.3, "high": 1.0},
            "rho": {"low": 0.02, "high": 1.0, "log": True},
        },
        "objectives": {"val_accuracy": "max", "step_flops_ratio": "min"},
        "baselines": [
            {"label": "SGD", "optimizer": "sgd"},
            {"label": "SAM", "optimizer": "sam", "rho": 0.2},
        ],
        "trials": 3,
        "max_concurrent": 2,
        "seed": 0,
    }
    return {**document, **changes}


def write_space(folder: Path, **changes: Any) -> Path:
    """A tiny space as a file."""
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump(tiny_space(**changes)), encoding="utf-8")
    return path


def command_line(*arguments: object) -> list[str]:
    """The command as the installed entry point runs it."""
    return [sys.executable, "-m", "esam_tune.cli", *map(str, arguments)]


def environment(**changes: str) -> dict[str, str]:
    """This process' environment without what would redirect tracking, and with changes."""
    kept = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    return {**kept, **changes}


def esam_tune(
    *arguments: object, timeout: float = 600.0, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a verb to its end."""
    return subprocess.run(
        command_line(*arguments),
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment(**variables),
        cwd=REPOSITORY,
        check=False,
    )


def journal_events(storage: Path, study: str) -> list[dict[str, Any]]:
    """Whole lines of a study's journal so far."""
    path = storage / study / "journal.jsonl"
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A local store of MLflow whose tables are made, which takes seconds."""
    from esam_tune.tracking.store import connect, local_uri

    folder = tmp_path_factory.mktemp("store")
    connect(local_uri(folder)).search_experiments()
    return (folder / "mlflow.db").read_bytes()


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """URL of a database on a PostgreSQL server of the module's own."""
    from postgresql import missing, postgresql

    pytest.importorskip("psycopg")
    if lacking := missing():
        pytest.skip(f"needs {' and '.join(lacking)}")
    with postgresql() as url:
        yield url
