"""The hours that `sweep --dry-run` foretells, beside what the same studies then take.

    python benchmarks/dry_run_estimate.py [--rounds 2]

Each study is estimated, run as a user runs it, and estimated once more, as the machine may have
become slower meanwhile; the two estimates are averaged. What it takes is the whole command's time,
start and end of Ray included. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

_SPACES = Path(__file__).parent.parent / "search_spaces"

# Name of a study -> space file and options.
_STUDIES: dict[str, list[str]] = {
    "digits, 1 at a time": [
        *(str(_SPACES / "digits_noisy.yaml"), "--trials", "4", "--epochs", "20"),
        *("--max-concurrent", "1"),
    ],
    "digits, 2 at a time": [
        *(str(_SPACES / "digits_noisy.yaml"), "--trials", "9", "--epochs", "20"),
        *("--max-concurrent", "2"),
    ],
    "glyphs, 2 at a time": [
        *(str(_SPACES / "glyphs_resnet18.yaml"), "--trials", "4", "--epochs", "5"),
        *("--set", "task.samples=2000", "--set", "task.model=small_cnn", "--max-concurrent", "2"),
    ],
}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One study's time, foretold and taken, in seconds.

    Args:
        estimate: mean of the estimates before and after.
        low: of the estimates, the least.
        high: of the estimates, the greatest.
        taken: by the whole command.
        training: of it, from the start of the first trial to the end of the last.
    """

    estimate: float
    low: float
    high: float
    taken: float
    training: float

    @property
    def within(self) -> bool:
        """Whether it took what the estimates' own bounds allow."""
        return self.low <= self.taken <= self.high


def compare(options: list[str], storage: Path) -> Comparison:
    """Estimate a study, run it, and estimate it again."""
    before = _estimate(options, storage / "before")
    start = time.perf_counter()
    _sweep([*options, "--json"], storage)
    taken = time.perf_counter() - start
    after = _estimate(options, storage / "after")
    (journal,) = storage.glob("*/journal.jsonl")
    events = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    starts = [event["time"] for event in events if event["event"] == "trial_start"]
    ends = [event["time"] for event in events if event["event"] == "trial_end"]
    return Comparison(
        estimate=(before["hours"] + after["hours"]) / 2 * 3600,
        low=min(before["low"], after["low"]) * 3600,
        high=max(before["high"], after["high"]) * 3600,
        taken=taken,
        training=max(ends) - min(starts),
    )


def _estimate(options: list[str], storage: Path) -> dict[str, Any]:
    estimate = json.loads(_sweep([*options, "--dry-run", "--json"], storage))["plan"]["estimate"]
    assert isinstance(estimate, dict), "the trials run on what this machine has"
    return estimate


def _sweep(options: list[str], storage: Path) -> str:
    return subprocess.run(
        [sys.executable, "-m", "esam_tune.cli", "sweep", *options, "--storage", str(storage)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--studies", nargs="+", choices=list(_STUDIES), default=list(_STUDIES))
    options = parser.parse_args()
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "ray", "optuna", "mlflow"))
    print(
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python "
        f"{platform.python_version()}, {versions}; seed 0, {options.rounds} rounds; load average "
        f"{os.getloadavg()[0]:.1f} before\n"
    )
    print("| study | estimate, s | its bounds | took, s | of it trials | took/estimate | within |")
    print("|---|---:|---:|---:|---:|---:|---|")
    ratios = []
    for _ in range(options.rounds):
        for name in options.studies:
            with tempfile.TemporaryDirectory() as folder:
                found = compare(_STUDIES[name], Path(folder))
            ratios.append(found.taken / found.estimate)
            print(
                f"| {name} | {found.estimate:.0f} | {found.low:.0f} to {found.high:.0f} "
                f"| {found.taken:.0f} | {found.training:.0f} | {ratios[-1]:.2f} "
                f"| {'yes' if found.within else 'no'} |",
                flush=True,
            )
    print(
        f"\nMedian of took/estimate {statistics.median(ratios):.2f}, from {min(ratios):.2f} to "
        f"{max(ratios):.2f}. Load average {os.getloadavg()[0]:.1f} after."
    )


if __name__ == "__main__":
    main()
