"""What a trial costs beside its training: this project, a plain Optuna loop, nested trainers.

    python benchmarks/orchestration.py [--trials 8] [--rounds 3]

All three train the same settings (one epoch of noisy digits, one worker, one thread), one trial at
a time. A trial's period is the time from the end of one trial to the end of the next, so starting
Ray is not in it, and the difference to the plain loop's is orchestration. The rounds interleave the
three. Needs the package installed; prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import ray
import torch
from ray import tune
from rich.console import Console

from esam_tune.study import cluster
from esam_tune.study.preflight import SweepOptions
from esam_tune.study.proposals import Proposals
from esam_tune.study.space import Overrides, load_space
from esam_tune.study.spec import StudySpec
from esam_tune.study.sweep import sweep
from esam_tune.training import train
from esam_tune.trial import RunRequest
from esam_tune.worker_group import run_in_group

SPACE = Path(__file__).parent.parent / "search_spaces" / "digits_noisy.yaml"


def periods(ends: list[float]) -> list[float]:
    """Seconds between successive ends."""
    return [after - before for before, after in itertools.pairwise(ends)]


def plain_loop(spec: StudySpec, folder: Path, trials: int) -> list[float]:
    """Ask, train, tell in this process."""
    proposals = Proposals(folder / "plain.db", spec)
    ends = []
    for index in range(trials):
        proposed = proposals.ask(index, f"{index:04d}")
        assert proposed is not None, "the space holds as many settings"
        number, params = proposed
        values: list[float] = []

        def report(metrics: dict[str, float], _state: object, values: list[float] = values) -> None:
            values[:] = [metrics[key] for key in spec.objectives]

        train(spec.settings(params, {}), report)
        study = optuna.load_study(study_name=spec.name, storage=f"sqlite:///{folder}/plain.db")
        study.tell(number, values)
        ends.append(time.time())
    return periods(ends)


def esam_tune_sweep(spec: StudySpec, folder: Path, trials: int) -> list[float]:
    """This project's sweep, with journal, Optuna's database and MLflow."""
    sweep(
        replace(spec, trials=trials),
        Overrides(name="ours", max_concurrent=1),
        SweepOptions(storage=folder),
        Console(file=io.StringIO()),
    )
    lines = (folder / "ours" / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    return periods([event["time"] for event in events if event["event"] == "trial_end"])


def nested_trainers(spec: StudySpec, folder: Path, trials: int) -> list[float]:
    """A TorchTrainer with one worker inside each Tune trial, the usual way on Ray."""
    settings = spec.settings(dict(spec.fixed), {})
    request = RunRequest(
        settings=settings.to_dict(), run_id="nested", storage=str(folder / "groups")
    )
    ends: list[float] = []

    class Clock(tune.Callback):
        """Notes when each trial ends."""

        def on_trial_complete(
            self, iteration: int, trials: list[Any], trial: Any, **info: Any
        ) -> None:
            ends.append(time.time())

    with cluster.connected(None, distributed=True):
        tune.Tuner(
            tune.with_resources(run_in_group, {"node:__internal_head__": 0.001}),
            param_space={
                **request.to_dict(),
                "run_id": tune.grid_search(list(map(str, range(trials)))),
            },
            tune_config=tune.TuneConfig(max_concurrent_trials=1),
            run_config=tune.RunConfig(
                name="nested", storage_path=str(folder), callbacks=[Clock()], verbose=0
            ),
        ).fit()
    return periods(ends)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=8, help="of the first two, in each round")
    parser.add_argument("--nested-trials", type=int, default=3, help="of the nested trainers")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    spec = Overrides(epochs=1, trials=options.trials).apply(load_space(SPACE))
    spec = replace(spec, baselines=())

    ways: dict[str, tuple[Callable[[StudySpec, Path, int], list[float]], int]] = {
        "plain Optuna loop": (plain_loop, options.trials),
        "esam-tune sweep": (esam_tune_sweep, options.trials),
        "nested TorchTrainers": (nested_trainers, options.nested_trials),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, (way, trials) in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                seconds[name] += way(spec, Path(folder), trials)

    plain = statistics.median(seconds["plain Optuna loop"])
    print(
        f"{platform.machine()}, {cluster.local_cores()} cores, Python {platform.python_version()}, "
        f"torch {torch.__version__}, ray {ray.__version__}, optuna {optuna.__version__}; "
        f"{options.rounds} rounds, seed {spec.seed}, concurrency 1\n"
    )
    print("| way | trials timed | median s/trial | quartiles | orchestration s/trial |")
    print("|---|---|---|---|---|")
    for name, values in seconds.items():
        low, middle, high = statistics.quantiles(values, n=4)
        print(
            f"| {name} | {len(values)} | {middle:.2f} | {low:.2f} to {high:.2f} | "
            f"{middle - plain:.2f} |"
        )


if __name__ == "__main__":
    main()
