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
import heapq
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from esam_tune import pareto
from esam_tune.domains import Value
from esam_tune.study.rungs import Objectives, Rungs, rung_epochs
from esam_tune.study.space import parse_space
from esam_tune.study.spec import Range, StudySpec

CURVES = Path(__file__).parent / "results" / "learning_curves_digits.parquet"
REFERENCES = ("SGD", "SAM rho=0.5 (tuned)")
TRIALS = 60

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A setting with what it reported.

    Args:
        name: of the run.
        params: complete.
        accuracy: after each epoch, in 0..1.
        cost: of a step over plain SGD's, counted.
    """

    name: str
    params: Mapping[str, Value]
    accuracy: tuple[float, ...]
    cost: float

    @property
    def point(self) -> tuple[float, float]:
        """What a finished run adds to the front, minimised."""
        return -self.accuracy[-1], self.cost


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to search.

    Args:
        sampler: by name.
        rungs: makes the rungs for trials of so many epochs; None runs all to the end.
        accuracy_alone: whether rungs see nothing but the accuracy.
    """

    sampler: str
    rungs: Callable[[int], Rungs] | None = None
    accuracy_alone: bool = False


def pareto_rungs(
    grace: int, eta: float, *, baselines: float = 0.1, contenders: float = 0.0
) -> Callable[[int], Rungs]:
    """Rungs over accuracy and cost; by how much dearer than a trial who beats it may be."""
    objectives = Objectives(
        static=(False, True),
        margin=math.log1p(baselines),
        contender_margin=math.log1p(contenders),
    )
    return lambda last: Rungs(rung_epochs(grace, eta, last), eta, objectives)


def asha_rungs(grace: int, eta: float) -> Callable[[int], Rungs]:
    """Rungs over the accuracy alone."""
    return lambda last: Rungs(rung_epochs(grace, eta, last), eta, Objectives(static=(False,)))


METHODS: dict[str, Method] = {
    "FIFO, random": Method(sampler="random"),
    "FIFO, NSGA-II": Method(sampler="nsga2"),
    "FIFO, TPE": Method(sampler="tpe"),
    "ASHA on accuracy, TPE": Method(sampler="tpe", rungs=asha_rungs(10, 3.0), accuracy_alone=True),
    "Pareto rungs, random": Method(sampler="random", rungs=pareto_rungs(10, 3.0)),
    "Pareto rungs, TPE": Method(sampler="tpe", rungs=pareto_rungs(10, 3.0)),
    "no margin at all, TPE": Method(sampler="tpe", rungs=pareto_rungs(10, 3.0, baselines=0.0)),
    "margin for all, TPE": Method(sampler="tpe", rungs=pareto_rungs(10, 3.0, contenders=0.1)),
    "first rung at 3, TPE": Method(sampler="tpe", rungs=pareto_rungs(3, 3.0)),
}


@dataclass(frozen=True, kw_only=True)
class Task:
    """The stored curves with what a search over them needs to know.

    Args:
        spec: of the space they were drawn from.
        settings: the search's.
        baselines: by label.
        reference: the corner of the hypervolume's box, minimised accuracy and cost.
    """

    spec: StudySpec
    settings: tuple[Curve, ...]
    baselines: Mapping[str, Curve]
    reference: tuple[float, float]


def load(path: Path, without: Sequence[str] = ()) -> Task:
    """Read the Parquet file of learning_curves.py, some optimizers left out of space and pool."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    runs: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        runs.setdefault(row["run"], []).append(row)
    curves = {
        name: Curve(
            name=name,
            params=json.loads(rows[0]["params"]),
            accuracy=tuple(row["val_accuracy"] for row in rows),
            cost=rows[-1]["step_flops_ratio"],
        )
        for name, rows in runs.items()
    }
    baselines = {name: curves[name] for name, rows in runs.items() if rows[0]["baseline"]}
    accurate, cheap = (baselines[name] for name in REFERENCES)
    space = json.loads(table.schema.metadata[b"space"])
    choices = space["search"]["optimizer"]["choices"]
    space["search"]["optimizer"]["choices"] = [name for name in choices if name not in without]
    space["baselines"] = [b for b in space["baselines"] if b["optimizer"] not in without]
    spec = parse_space(space, default_name="curves")
    labels = {baseline.label for baseline in spec.baselines}
    baselines = {name: curve for name, curve in baselines.items() if name in labels}
    return Task(
        spec=spec,
        settings=tuple(
            curve
            for name, curve in curves.items()
            if not runs[name][0]["baseline"] and curve.params["optimizer"] not in without
        ),
        baselines=baselines,
        reference=(-accurate.accuracy[-1], cheap.cost),
    )


class Pool:
    """The stored settings that a search has not run yet."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._left = dict(enumerate(task.settings))

    def take(self, params: Mapping[str, Value]) -> Curve | None:
        """The nearest one left, those of the same optimizer first; None when none is left."""
        if not self._left:
            return None
        found = min(self._left, key=lambda index: self._distance(params, self._left[index]))
        return self._left.pop(found)

    def _distance(self, params: Mapping[str, Value], curve: Curve) -> tuple[bool, float]:
        squares = 0.0
        for key in params.keys() & curve.params.keys() & self._task.spec.dimensions.keys():
            dimension = self._task.spec.dimensions[key]
            if isinstance(dimension, Range):
                there, here = float(curve.params[key]), float(params[key])
                squares += (dimension.share(there) - dimension.share(here)) ** 2
        return curve.params["optimizer"] != params["optimizer"], squares


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one replayed search did.

    Args:
        epochs: spent when each trial finished, ascending.
        volume: held from then on.
        trials: started.
        stopped: of them, before their end.
        wasted: epochs of trials that were no better than SGD's baseline at the end of their curve.
        idle_kept: of the trials below SGD's baseline at the end of their curve, the share that
            was run to the end.
    """

    epochs: tuple[int, ...]
    volume: tuple[float, ...]
    trials: int
    stopped: int
    wasted: int
    idle_kept: float

    def at(self, epochs: float) -> float:
        """The hypervolume held after so many epochs."""
        held = [v for e, v in zip(self.epochs, self.volume, strict=True) if e <= epochs]
        return held[-1] if held else 0.0

    def reaches(self, volume: float) -> float:
        """Epochs until the hypervolume is held; infinite when it never is."""
        pairs = zip(self.epochs, self.volume, strict=True)
        return next((e for e, v in pairs if v >= volume), math.inf)


def replay(task: Task, method: Method, seed: int, budget: int, workers: int) -> Outcome:
    """Search with one method until the budget of epochs is spent."""
    import optuna

    from esam_tune.study.samplers import distribution, propose

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    spec = replace(task.spec, seed=seed, sampler=method.sampler, trials=TRIALS)
    study = optuna.create_study(directions=["maximize", "minimize"])
    last = spec.training.epochs
    rungs = method.rungs(last) if method.rungs else None
    pool = Pool(task)

    def rank(name: str, curve: Curve, epoch: int, *, exempt: bool = False) -> bool:
        if rungs is None:
            return True
        costs = (-curve.accuracy[epoch - 1], math.log(curve.cost))
        return rungs.report(
            name, epoch, costs[:1] if method.accuracy_alone else costs, exempt=exempt
        )

    for name, curve in task.baselines.items():
        for epoch in range(1, last + 1):
            rank(name, curve, epoch, exempt=True)

    # Running trials as (time of the next report, order of starting, number, epoch, curve).
    running: list[tuple[int, int, int, int, Curve]] = []
    started = spent = stopped = wasted = 0
    below = below_kept = 0
    finished: list[tuple[float, float]] = []
    history: list[tuple[int, float]] = []

    def start(time: int) -> None:
        nonlocal started, below
        trial, params = propose(study, spec, started)
        curve = pool.take(params)
        asked = study.get_trials(deepcopy=False)[trial.number]
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        if curve is None:
            return
        # The sampler learns the setting that was run; what it does not read stays as proposed.
        point = {**asked.params, **{k: v for k, v in curve.params.items() if k in spec.dimensions}}
        known = {k: v for k, v in point.items() if k in asked.params or k in curve.params}
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.RUNNING,
                params=known,
                distributions={key: distribution(spec.dimensions[key]) for key in known},
                system_attrs=asked.system_attrs,
            )
        )
        number = len(study.get_trials(deepcopy=False)) - 1
        below += curve.point[0] >= task.reference[0]
        heapq.heappush(running, (time + 1, started, number, 1, curve))
        started += 1

    for _ in range(workers):
        start(0)
    while running and spent < budget:
        time, order, number, epoch, curve = heapq.heappop(running)
        spent += 1
        bad = curve.point[0] >= task.reference[0]
        wasted += bad
        ended = epoch == len(curve.accuracy)
        goes_on = ended or rank(f"{order:03d}", curve, epoch)
        if not ended and goes_on:
            heapq.heappush(running, (time + 1, order, number, epoch + 1, curve))
            continue
        if epoch == last:
            study.tell(number, [curve.accuracy[-1], curve.cost])
            finished.append(curve.point)
            history.append((spent, pareto.hypervolume(np.array(finished), task.reference)))
            below_kept += bad
        elif ended:
            study.tell(number, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(number, state=optuna.trial.TrialState.PRUNED)
            stopped += 1
        start(time)
    epochs, volume = zip(*history, strict=True) if history else ((), ())
    return Outcome(
        epochs=tuple(epochs),
        volume=tuple(volume),
        trials=started,
        stopped=stopped,
        wasted=wasted,
        idle_kept=below_kept / below if below else 0.0,
    )


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
        shown = name in ("FIFO, TPE", "Pareto rungs, TPE")
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
