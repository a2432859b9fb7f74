"""A thousand trials through the whole stack: what each costs, and what grows while they run.

    python benchmarks/many_trials.py --trials 1000                # orchestration alone
    python benchmarks/many_trials.py --trials 1000 --trained      # a soak, with real training

Runs `esam-tune sweep` as a user does, in a process of its own: space file, Ray Tune and its
actors, Optuna's database, journal, and MLflow's store, one trial at a time. By default a trial's
training is replaced by a formula of its setting, so that all the time between the ends of two
trials is orchestration; the formula is called where the training would be, in the actor. With
`--trained` each trial is one epoch of digits in batches of 512. From outside, the program's
memory, open files, processes and disk are read as trials end. Prints tables in Markdown, and what
was left afterwards. Exits with 1 and a line on stderr where something was: processes, temporary
files, records that MLflow lacks, trials that are not complete, or memory that has grown by more
than a fifth since the start was over.

CPU seconds a trial are the driver's own, of all its threads: unlike time they do not depend on
what else the machine does.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import statistics
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from soak import Point, Soak, soak

# Points at which what starts with the first trials, as the tracker does, may still be starting.
STARTING = 2
MOST_GROWTH = 1.2


def faults(study: Soak) -> list[str]:
    """What a study left behind, lacks or let grow that it should not have, in words."""
    settled = [point.program.memory for point in study.points[STARTING:]]
    growth = settled[-1] / settled[0] if settled else 1.0
    lacking = sum(count for state, count in study.states.items() if state != "complete")
    found = {
        f"{study.left_processes} processes are left": study.left_processes > 0,
        f"{study.left_files} temporary files are left": study.left_files > 0,
        "MLflow lacks records": study.unsent,
        f"{lacking} trials are not complete": lacking > 0,
        f"the driver's memory has grown {growth:.2f} times": growth > MOST_GROWTH,
    }
    return [fault for fault, holds in found.items() if holds]


def _cells(study: Soak, before: Point, point: Point) -> dict[str, str]:
    """A row of the table, by its headings."""
    held = point.program
    return {
        "trials": f"{point.trials}",
        "s a trial": f"{study.seconds_a_trial(before.trials, point.trials):.3f}",
        "driver: CPU s a trial": f"{study.cpu_a_trial(before, point):.3f}",
        "MB": f"{held.memory:.0f}",
        "open files": f"{held.open_files}",
        "threads": f"{held.threads}",
        "all processes": f"{held.processes}",
        "their MB": f"{held.all_memory:.0f}",
        "their open files": f"{held.all_open_files}",
        "journal, MB": f"{point.journal:.2f}",
        "storage, MB": f"{point.storage:.1f}",
        "its files": f"{point.storage_files}",
        "temporary, MB": f"{point.elsewhere:.1f}",
        "temporary files": f"{point.elsewhere_files}",
    }


def print_tables(study: Soak) -> None:
    """Print what a trial cost, and what was held, over the course of a study."""
    ends = study.ends
    share = max(2, len(ends) // 10)
    first = study.seconds_a_trial(1, share)
    last = study.seconds_a_trial(len(ends) - share + 1, len(ends))
    middle = statistics.median(after - before for before, after in itertools.pairwise(ends))
    print(f"\nSampler {study.sampler}: {len(ends)} trials ended, {dict(study.states)}.")
    print(
        f"First {share}: {first:.3f} s a trial, last {share}: {last:.3f} s, ratio "
        f"{last / first:.2f}; median of all {middle:.3f} s. Afterwards {study.left_processes} "
        f"processes and {study.left_files} temporary files are left; MLflow has "
        f"{'not ' * study.unsent}all.\n"
    )
    rows = [_cells(study, before, point) for before, point in itertools.pairwise(study.points)]
    print(f"| {' | '.join(rows[0])} |")
    print("|" + "---:|" * len(rows[0]))
    for row in rows:
        print(f"| {' | '.join(row.values())} |")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--samplers", nargs="+", default=["random", "tpe"])
    parser.add_argument("--trained", action="store_true", help="train each trial for an epoch")
    parser.add_argument("--checkpoints", type=int, default=0, help="of each untrained trial")
    options = parser.parse_args()
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "ray", "optuna", "mlflow"))
    print(
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python "
        f"{platform.python_version()}, {versions}; seed 0, one run, one trial at a time; "
        f"{'one epoch each' if options.trained else 'training replaced by a formula'}; load "
        f"average {os.getloadavg()[0]:.1f} before"
    )
    code = 0
    for sampler in options.samplers:
        with tempfile.TemporaryDirectory(prefix="m") as folder:
            study = soak(
                Path(folder),
                trials=options.trials,
                sampler=sampler,
                trained=options.trained,
                checkpoints=options.checkpoints,
            )
        print_tables(study)
        print(f"\nLoad average {os.getloadavg()[0]:.1f} after.", flush=True)
        if found := faults(study):
            code = 1
            print(f"many_trials: sampler {sampler}: {'; '.join(found)}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
