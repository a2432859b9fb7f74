"""Watches a sweep of many trials from outside, as a soak: what it holds while its trials end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from process_samples import Mark, Sample, disk

_NAME = "many"
_POLL_SECONDS = 0.2
_KEPT = ("ray", "torchinductor_")  # what temporary files begin with that Ray and torch keep
_UNTRAINED = Path(__file__).with_name("untrained_sweep.py")


@dataclass(frozen=True, kw_only=True)
class Point:
    """The study as it stood when so many trials had ended.

    Args:
        trials: that had ended.
        program: what the driver and what it started held.
        journal: its size in MB.
        storage: MB of all of the study's files and of the MLflow store.
        storage_files: count of files and folders there.
        elsewhere: MB of temporary files, Ray's session included.
        elsewhere_files: count of them.
    """

    trials: int
    program: Sample
    journal: float
    storage: float
    storage_files: int
    elsewhere: float
    elsewhere_files: int


@dataclass(frozen=True, kw_only=True)
class Soak:
    """A study that was watched.

    Args:
        sampler: by name.
        points: as trials ended, in their order.
        ends: seconds since the epoch at which each trial ended, in their order.
        states: of the trials, to their count.
        left_processes: that outlived the driver.
        left_files: temporary files and folders that did, but Ray's session and torch's cache.
        unsent: whether MLflow lacks something at the end.
    """

    sampler: str
    points: tuple[Point, ...]
    ends: tuple[float, ...]
    states: Mapping[str, int]
    left_processes: int
    left_files: int
    unsent: bool

    def seconds_a_trial(self, first: int, last: int) -> float:
        """Mean time from the end of one trial to the end of the next, of a range of trials."""
        return (self.ends[last - 1] - self.ends[first - 1]) / (last - first)

    def cpu_a_trial(self, first: Point, last: Point) -> float:
        """Mean CPU seconds of the driver a trial between two points."""
        spent = last.program.cpu_seconds - first.program.cpu_seconds
        return spent / (last.trials - first.trials)


def soak(
    folder: Path,
    *,
    trials: int,
    sampler: str,
    trained: bool = False,
    checkpoints: int = 0,
    every: int | None = None,
) -> Soak:
    """Run a study and watch it.

    Args:
        folder: empty; receives the storage and all temporary files. Its path must be short, as
            Ray puts sockets there.
        trials: of the search; there is one baseline beside them.
        sampler: by name.
        trained: whether trials train, or take their metrics from a formula.
        checkpoints: that each trial writes if it does not train, one an epoch.
        every: so many trials are between two looks; a tenth of all if left out.

    Raises:
        RuntimeError: when the sweep fails, with what it printed.
    """
    storage, scratch = folder / "s", folder / "t"
    scratch.mkdir()
    space = folder / "space.yaml"
    space.write_text(yaml.safe_dump(_space(trials, sampler, max(1, checkpoints))), encoding="utf-8")
    mark = Mark()
    journal = storage / _NAME / "journal.jsonl"
    program = ["-m", "esam_tune.cli", "sweep"] if trained else [str(_UNTRAINED), str(checkpoints)]
    step = every or max(1, trials // 10)
    ends: list[float] = []
    states: dict[str, int] = {}
    points: list[Point] = []
    with (folder / "log").open("w+") as log:
        driver = subprocess.Popen(
            [sys.executable, *program, str(space), "--storage", str(storage)],
            env={
                **{key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"},
                **mark.environment(),
                "TMPDIR": str(scratch),
                "RAY_TMPDIR": str(scratch),
                "OMP_NUM_THREADS": "1",
            },
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        read = 0
        try:
            while driver.poll() is None:
                time.sleep(_POLL_SECONDS)
                ended, read = _ended(journal, read)
                for event in ended:
                    ends.append(event["time"])
                    states[event["state"]] = states.get(event["state"], 0) + 1
                due = len(ends) >= (points[-1].trials if points else 0) + step
                if ended and (due or not points):
                    points.append(_point(len(ends), mark.sample(driver.pid), storage, scratch))
        finally:
            driver.kill()
            driver.wait()
        log.seek(0)
        if driver.returncode:
            raise RuntimeError(f"the sweep ended with {driver.returncode}:\n{log.read()}")
        unsent = "sends the rest" in log.read()
    time.sleep(_POLL_SECONDS)
    return Soak(
        sampler=sampler,
        points=tuple(points),
        ends=tuple(ends),
        states=states,
        left_processes=len(mark.processes()),
        left_files=sum(not path.name.startswith(_KEPT) for path in scratch.iterdir()),
        unsent=unsent,
    )


def _ended(journal: Path, offset: int) -> tuple[list[dict[str, Any]], int]:
    """Ends of trials in a journal from a byte on, and the byte behind its last whole line."""
    if not journal.exists():
        return [], offset
    with journal.open("rb") as file:
        file.seek(offset)
        whole, _, _ = file.read().rpartition(b"\n")
    events = [json.loads(line) for line in whole.splitlines()]
    moved = offset + len(whole) + 1 if whole else offset
    return [event for event in events if event["event"] == "trial_end"], moved


def _point(trials: int, program: Sample, storage: Path, scratch: Path) -> Point:
    size, files = disk(storage)
    elsewhere, elsewhere_files = disk(scratch)
    return Point(
        trials=trials,
        program=program,
        journal=(storage / _NAME / "journal.jsonl").stat().st_size / 1e6,
        storage=size,
        storage_files=files,
        elsewhere=elsewhere,
        elsewhere_files=elsewhere_files,
    )


def _space(trials: int, sampler: str, epochs: int) -> dict[str, Any]:
    return {
        "name": _NAME,
        "task": {"dataset": "digits", "model": "small_cnn", "label_noise": 0.4},
        "training": {"epochs": epochs, "batch_size": 512, "lr": 0.05},
        "search": {
            "optimizer": "esam",
            "beta": {"low": 0.3, "high": 1.0},
            "gamma": {"low": 0.3, "high": 1.0},
            "rho": {"low": 0.02, "high": 1.0, "log": True},
        },
        "objectives": {"val_accuracy": "max", "step_flops_ratio": "min"},
        "baselines": [{"label": "SGD", "optimizer": "sgd"}],
        "trials": trials,
        "max_concurrent": 1,
        "sampler": sampler,
        "seed": 0,
    }
