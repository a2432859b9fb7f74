"""Test accuracy against step cost of ESAM and its rivals, many seeds each.

    python benchmarks/accuracy.py --out benchmarks/results/accuracy_digits.jsonl

For each method rho is tuned on the validation split, by the mean over the tuning seeds; the test
split is read only by the final runs, at the tuned rho, with seeds of their own. A seed fixes
initial weights, sample order and masks, and is shared by all methods, so differences are paired.
Task and training are those of a space file, search_spaces/digits_noisy.yaml unless another is
named, with fields set over it; each such choice has a file of runs of its own. Runs are kept in the
file as they finish, and a second call goes on from there. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

from scipy import stats

from esam_tune.config import complete_params, trial_settings
from esam_tune.domains import Value
from esam_tune.study.space import load_space

SPACE = Path(__file__).parent.parent / "search_spaces" / "digits_noisy.yaml"
FIRST_TUNING_SEED = 100
REFERENCE = "SAM"

Run = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method with everything but rho fixed.

    Args:
        params: of the optimizer, rho left out.
        rhos: the grid that rho is tuned on.
    """

    params: Mapping[str, Value]
    rhos: tuple[float, ...] = ()

    def settings(self) -> list[dict[str, Value]]:
        """Complete parameters at each rho."""
        grid = [{"rho": rho} for rho in self.rhos] or [{}]
        return [complete_params("params", {**self.params, **point}) for point in grid]


def esam(beta: float, gamma: float, rhos: tuple[float, ...], **others: Value) -> Method:
    """ESAM at a setting."""
    params = {"optimizer": "esam", "beta": beta, "gamma": gamma, **others}
    return Method(params=params, rhos=rhos)


METHODS: dict[str, Method] = {
    "SGD": Method(params={"optimizer": "sgd"}),
    "SAM": Method(params={"optimizer": "sam"}, rhos=(0.2, 0.35, 0.5, 0.7)),
    "ASAM": Method(params={"optimizer": "asam"}, rhos=(1.0, 2.0, 4.0, 8.0)),
    "MSAM": Method(params={"optimizer": "msam"}, rhos=(1.5, 2.0, 2.5, 3.0)),
    "LookSAM, every 5": Method(params={"optimizer": "looksam"}, rhos=(0.05, 0.1, 0.2, 0.5)),
    "ESAM exact 0.5/0.5": esam(0.5, 0.5, (0.1, 0.15, 0.2, 0.3)),
    "ESAM first order 0.5/0.5": esam(0.5, 0.5, (0.1, 0.15, 0.2, 0.3), selection="first_order"),
    "ESAM first order 0.5/0.5, every 2": esam(
        0.5, 0.5, (0.3, 0.5, 0.7, 1.0), selection="first_order", every=2
    ),
    # The search for SAM's accuracy at a cost of 1.05 or less: few rows, few batches, or both.
    "ESAM first order 0.4/0.3": esam(0.4, 0.3, (0.05, 0.07, 0.1), selection="first_order"),
    "ESAM first order 0.3/0.25": esam(0.3, 0.25, (0.035, 0.05, 0.07), selection="first_order"),
    "ESAM first order 0.4/0.4, every 2": esam(
        0.4, 0.4, (0.35, 0.5, 0.7), selection="first_order", every=2
    ),
    "ESAM first order 0.4/0.3, every 2": esam(
        0.4, 0.3, (0.2, 0.35, 0.5), selection="first_order", every=2
    ),
    "ESAM first order 0.5/0.5, every 7": esam(
        0.5, 0.5, (0.7, 1.0, 1.5), selection="first_order", every=7
    ),
}


def train_once(
    params: dict[str, Value],
    seed: int,
    split_seed: int,
    *,
    final: bool,
    space: Path = SPACE,
    assignments: Sequence[str] = (),
) -> dict[str, float]:
    """The last epoch's metrics of one run, on one thread."""
    import torch

    from esam_tune.training import DivergedError, train

    torch.set_num_threads(1)
    last: dict[str, float] = {}
    spec = load_space(space, assignments)
    settings = {**spec.settings(params, {}).to_dict(), "seed": seed}
    settings["task"]["split_seed"] = split_seed

    def report(metrics: dict[str, float], _state: object) -> None:
        last.update(metrics)

    try:
        train(trial_settings(settings), report, read_test=final)
    except DivergedError:
        return {"val_accuracy": 0.0, "test_accuracy": 0.0}
    return last


class Results:
    """Finished runs in a file of one JSON object a line.

    Args:
        path: of the file.
        split_seed: of all runs in it.
        train: makes one run, as `train_once` does; a module's function, for other processes.
    """

    def __init__(
        self, path: Path, split_seed: int, train: Callable[..., dict[str, float]] = train_once
    ) -> None:
        self._path = path
        self._split_seed = split_seed
        self._train = train
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self._runs = {self._key(run): run for run in map(json.loads, lines)}

    @staticmethod
    def _key(run: Run) -> str:
        return json.dumps([run["params"], run["seed"], run["final"]], sort_keys=True)

    def complete(self, wanted: Iterable[Run], jobs: int) -> list[Run]:
        """The wanted runs, those that are missing trained first."""
        wanted = list(wanted)
        missing = {self._key(run): run for run in wanted if self._key(run) not in self._runs}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with (
            ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool,
            self._path.open("a", encoding="utf-8") as file,
        ):
            waiting = {
                pool.submit(
                    self._train, run["params"], run["seed"], self._split_seed, final=run["final"]
                ): run
                for run in missing.values()
            }
            for future in as_completed(waiting):
                run = {**waiting[future], "metrics": future.result()}
                self._runs[self._key(run)] = run
                file.write(json.dumps(run) + "\n")
                file.flush()
        return [self._runs[self._key(run)] for run in wanted]


class Tunable(Protocol):
    """What is tuned: a method as a list of parameters, one for each rho."""

    def settings(self) -> list[dict[str, Value]]:
        """Complete parameters at each rho."""
        ...


def tuned(
    methods: Mapping[str, Tunable], results: Results, seeds: int, jobs: int
) -> dict[str, dict[str, Value]]:
    """Each method's parameters at the rho with the best mean validation accuracy."""
    candidates = [
        {"params": params, "seed": seed, "final": False}
        for method in methods.values()
        if len(method.settings()) > 1
        for params in method.settings()
        for seed in range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + seeds)
    ]
    scores: dict[str, list[float]] = {}
    for run in results.complete(candidates, jobs):
        scores.setdefault(json.dumps(run["params"]), []).append(run["metrics"]["val_accuracy"])

    def score(params: dict[str, Value]) -> float:
        return statistics.mean(scores.get(json.dumps(params), [0.0]))

    return {name: max(method.settings(), key=score) for name, method in methods.items()}


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half width of the 95 % interval of the mean, by Student's t."""
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values), float(half)


def final_runs(
    settings: Mapping[str, dict[str, Value]], results: Results, seeds: int, jobs: int
) -> dict[str, list[Run]]:
    """The final runs of each method at its tuned parameters, seed by seed."""
    finals = results.complete(
        (
            {"params": params, "seed": seed, "final": True}
            for params in settings.values()
            for seed in range(seeds)
        ),
        jobs,
    )
    return {
        name: [run for run in finals if run["params"] == params]
        for name, params in settings.items()
    }


def print_table(
    by_method: Mapping[str, list[Run]], reference: list[Run], options: argparse.Namespace
) -> None:
    """Print each method's test accuracy and cost, paired with the reference's runs."""
    import torch

    print(
        f"{platform.machine()}, {options.jobs} processes of one thread, Python "
        f"{platform.python_version()}, torch {torch.__version__}; "
        f"{options.tuning_seeds} tuning seeds from {FIRST_TUNING_SEED}, "
        f"final seeds 0 to {options.seeds - 1}, split seed {options.split_seed}; "
        "95 % intervals by Student's t\n"
    )
    print(
        "| method | rho | test accuracy, % | less SAM's, paired, % | counted cost | timed cost |\n"
        "|---|---|---|---|---|---|"
    )
    base = [100 * run["metrics"]["test_accuracy"] for run in reference]
    for name, runs in by_method.items():
        accuracy = [100 * run["metrics"]["test_accuracy"] for run in runs]
        difference = [a - b for a, b in zip(accuracy, base, strict=True)]
        flops = statistics.mean(r["metrics"].get("step_flops_ratio", math.nan) for r in runs)
        timed = statistics.median(r["metrics"].get("step_time_ratio", math.nan) for r in runs)
        mean, half = interval(accuracy)
        gap, gap_half = interval(difference)
        paired = "" if runs is reference else f"{gap:+.2f} ± {gap_half:.2f}"
        rho = runs[0]["params"].get("rho", "")
        print(
            f"| {name} | {rho} | {mean:.2f} ± {half:.2f} | {paired} | {flops:.2f} | {timed:.2f} |"
        )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a benchmark of this kind."""
    parser.add_argument("--out", type=Path, required=True, help="file of the runs")
    parser.add_argument("--seeds", type=int, default=8, help="final runs of each method")
    parser.add_argument("--tuning-seeds", type=int, default=3, help="runs of each method and rho")
    parser.add_argument("--jobs", type=int, default=2, help="processes, one thread each")
    parser.add_argument("--split-seed", type=int, default=0, help="one file each")


def grid_of_method(text: str) -> tuple[str, tuple[float, ...]]:
    """A method's name and the radii to tune over, from ``METHOD=RHO,...``."""
    name, _, rhos = text.rpartition("=")
    return name, tuple(map(float, rhos.split(",")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument(
        "--rhos",
        action="append",
        type=grid_of_method,
        default=[],
        metavar="METHOD=RHO,...",
        help="instead of the method's own grid; a single one is taken untuned",
    )
    parser.add_argument("--space", type=Path, default=SPACE, help="file of the task and training")
    parser.add_argument("--set", nargs="*", default=[], help="its fields, section.key=VALUE each")
    options = parser.parse_args()
    methods = {name: METHODS[name] for name in {REFERENCE: None, **dict.fromkeys(options.methods)}}
    methods |= {name: replace(methods[name], rhos=rhos) for name, rhos in options.rhos}
    train = partial(train_once, space=options.space, assignments=options.set)
    results = Results(options.out, options.split_seed, train)
    settings = tuned(methods, results, options.tuning_seeds, options.jobs)
    by_method = final_runs(settings, results, options.seeds, options.jobs)
    print_table(by_method, by_method[REFERENCE], options)


if __name__ == "__main__":
    main()
