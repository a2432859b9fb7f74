"""Hypervolume against epochs spent: searches replayed on learning curves that were truly trained.

    python benchmarks/search_efficiency.py --seeds 30

The curves are those of learning_curves.py. A search proposes settings as `esam-tune sweep` does; in
place of each the nearest stored setting that this search has not had yet is run (same optimizer,
distance over its searched parameters, each as a share of its range on its own scale), and the
sampler is told that setting, not the proposed one. Workers run at a time, each epoch takes every
trial the same simulated time, and nothing else takes any. The space's baselines have run before.

Hypervolume is that of the finished search trials alone, over the box that is more accurate than
SGD's baseline and cheaper than SAM's. The target is a share of what FIFO with TPE holds at the end
of the full budget (median over seeds). Prints tables in Markdown and draws a picture.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from search_replay import TRIALS, Method, Outcome, asha_rungs, pareto_rungs, replay
from stored_curves import CURVES, load

METHODS: dict[str, Method] = {
    "FIFO, random": Method(sampler="random"),
    "FIFO, NSGA-II": Method(sampler="nsga2"),
    "FIFO, TPE": Method(sampler="tpe"),
    "FIFO, Gaussian process": Method(sampler="gp"),
    "FIFO, known cost": Method(sampler="known_cost"),
    "ASHA on accuracy, TPE": Method(sampler="tpe", rungs=asha_rungs(10, 3.0), accuracy_alone=True),
    "Pareto rungs, random": Method(sampler="random", rungs=pareto_rungs(10, 3.0)),
    "Pareto rungs, TPE": Method(sampler="tpe", rungs=pareto_rungs(10, 3.0)),
    "Pareto rungs, known cost": Method(sampler="known_cost", rungs=pareto_rungs(10, 3.0)),
    "no margin at all, TPE": Method(sampler="tpe", rungs=pareto_rungs(10, 3.0, baselines=0.0)),
    "margin for all, TPE": Method(sampler="tpe", rungs=pareto_rungs(10, 3.0, contenders=0.1)),
    "first rung at 3, TPE": Method(sampler="tpe", rungs=pareto_rungs(3, 3.0)),
}


def _job(arguments: tuple[Path, list[str], str, int, int, int]) -> Outcome:
    path, without, name, seed, budget, workers = arguments
    return replay(load(path, without), METHODS[name], seed, budget, workers)


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """Median, and the 95 % percentile bootstrap interval of the median."""
    sample = np.array(values)
    draws = np.random.default_rng(seed).choice(sample, (2000, len(sample)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5], method="nearest")
    return statistics.median(values), float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--curves", type=Path, default=CURVES)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=4, help="simulated trials at a time")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--share", type=float, default=0.95)
    parser.add_argument("--without", nargs="*", default=[], help="optimizers to leave out")
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--picture", type=Path, help="where to draw, a .png")
    args = parser.parse_args()
    task = load(args.curves, args.without)
    budget = TRIALS * task.spec.training.epochs
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    jobs = [
        (args.curves, args.without, name, seed, budget, args.workers)
        for name in args.methods
        for seed in seeds
    ]
    outcomes: dict[str, list[Outcome]] = {name: [] for name in args.methods}
    with ProcessPoolExecutor(args.processes, mp_context=get_context("spawn")) as pool:
        for job, outcome in zip(jobs, pool.map(_job, jobs), strict=True):
            outcomes[job[2]].append(outcome)
    _tables(outcomes, budget, args.share)
    if args.picture:
        _draw(outcomes, budget, args.share, args.picture)


def _tables(outcomes: Mapping[str, list[Outcome]], budget: int, share: float) -> None:
    full = statistics.median(o.at(budget) for o in outcomes["FIFO, TPE"])
    print(f"full budget {budget} epochs; FIFO, TPE holds {full:.4f} there; share {share:g}\n")
    print(
        f"| search | epochs to {share:.0%} of it | of the budget | reached | at a third | at the "
        "end | trials | stopped | epochs on bad learners | bad ones run to the end |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, runs in outcomes.items():
        reached = [min(run.reaches(share * full), math.inf) for run in runs]
        middle, low, high = interval(reached)
        third = interval([run.at(budget / 3) / full for run in runs])
        end = interval([run.at(budget) / full for run in runs])
        print(
            f"| {name} | {middle:.0f} ({low:.0f} to {high:.0f}) | {middle / budget:.0%} | "
            f"{sum(map(math.isfinite, reached))}/{len(runs)} | "
            f"{third[0]:.1%} ({third[1]:.1%} to {third[2]:.1%}) | "
            f"{end[0]:.1%} ({end[1]:.1%} to {end[2]:.1%}) | "
            f"{statistics.median(r.trials for r in runs):.0f} | "
            f"{statistics.median(r.stopped for r in runs):.0f} | "
            f"{statistics.median(r.wasted for r in runs) / budget:.0%} | "
            f"{statistics.median(r.idle_kept for r in runs):.0%} |"
        )


def _draw(outcomes: Mapping[str, list[Outcome]], budget: int, share: float, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    full = statistics.median(o.at(budget) for o in outcomes["FIFO, TPE"])
    grid = np.linspace(0, budget, 241)
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for name, runs in outcomes.items():
        held = np.array([[run.at(epochs) / full for epochs in grid] for run in runs])
        low, middle, high = np.percentile(held, [25, 50, 75], axis=0)
        shown = name in ("FIFO, TPE", "FIFO, known cost")
        (line,) = axes.plot(
            grid, middle, label=name, linewidth=2.5 if shown else 1.0, zorder=3 if shown else 2
        )
        if shown:
            axes.fill_between(grid, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.axhline(share, color="grey", linewidth=0.8, linestyle="--")
    axes.axvline(budget / 3, color="grey", linewidth=0.8, linestyle="--")
    axes.set(
        xlabel="epochs trained",
        ylabel="hypervolume over that of FIFO with TPE at the end",
        xlim=(0, budget),
        ylim=(0.75, 1.03),
    )
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
