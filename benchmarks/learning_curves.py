"""Learning curves of noisy digits, truly trained: what search_efficiency.py replays.

    python benchmarks/learning_curves.py --processes 2 \
        --out benchmarks/results/learning_curves_digits.parquet

Settings are quasi-random (Sobol) points of search_spaces/digits_rivals.yaml, shared out among its
optimizers in proportion to how many searched parameters each reads, and the space's baselines.
Each is trained for the space's 30 epochs by `esam_tune.training` on one thread; a row holds one
epoch. Runs are kept as they finish in a `.jsonl` beside the output, a second call goes on from
there, and the Parquet file is written when all are in.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import qmc

from esam_tune.config import trial_settings
from esam_tune.domains import Value
from esam_tune.study.space import load_space
from esam_tune.study.spec import StudySpec

SPACE = Path(__file__).parent.parent / "search_spaces" / "digits_rivals.yaml"
METRICS = ("val_accuracy", "val_loss", "train_loss", "step_flops_ratio", "epoch_seconds")
SETTINGS = 256


def quasi_random(spec: StudySpec, count: int) -> list[dict[str, Value]]:
    """Settings that fill each optimizer's own part of the space evenly."""
    keys = {name: list(spec.searched_with(name)) for name in spec.optimizers}
    shares = np.array([len(own) for own in keys.values()])
    counts = np.diff(np.round(np.concatenate([[0], np.cumsum(shares)]) / shares.sum() * count))
    settings = []
    for index, (name, own) in enumerate(keys.items()):
        draws = int(counts[index])
        sobol = qmc.Sobol(len(own), seed=index)
        # Sobol points come in powers of two; the first of a longer sequence are as even.
        points: npt.NDArray[np.float64] = sobol.random(2 ** int(np.ceil(np.log2(draws))))[:draws]
        for point in points.tolist():
            drawn = {key: spec.dimensions[key].at(x) for key, x in zip(own, point, strict=True)}
            settings.append(spec.completed({"optimizer": name, **drawn}))
    return settings


def wanted(spec: StudySpec, count: int) -> Iterator[tuple[str, dict[str, Value]]]:
    """Every run with its name: baselines by their label, settings by their number."""
    for baseline in spec.baselines:
        yield baseline.label, dict(baseline.params)
    # A stride through the list gives every optimizer runs from early on.
    settings = quasi_random(spec, count)
    for start in range(7):
        for number in range(start, count, 7):
            yield f"{number:03d}", settings[number]


def train_one(spec: StudySpec, name: str, params: Mapping[str, Value]) -> dict[str, Any]:
    """A run with its epochs' metrics, fewer than asked for when the loss became infinite."""
    import torch

    from esam_tune.training import DivergedError, train

    torch.set_num_threads(1)
    start = time.perf_counter()
    epochs: list[dict[str, float]] = []

    def report(metrics: dict[str, float], _state: object) -> None:
        epochs.append({key: metrics[key] for key in ("epoch", *METRICS)})

    try:
        train(trial_settings(spec.settings(params, {}).to_dict()), report)
    except DivergedError as error:
        print(f"diverged: {error}")
    print(f"{name} {params} {time.perf_counter() - start:.1f} s", flush=True)
    return {"name": name, "params": params, "epochs": epochs}


def make(out: Path, count: int, *, processes: int, write_now: bool) -> None:
    """Train what is missing, so many runs at a time, and write the Parquet file."""
    spec = load_space(SPACE)
    kept = out.with_suffix(".jsonl")
    lines = kept.read_text(encoding="utf-8").splitlines() if kept.exists() else []
    runs: dict[str, dict[str, Any]] = {run["name"]: run for run in map(json.loads, lines)}
    if write_now:
        write(out, spec, [runs[name] for name, _ in wanted(spec, count) if name in runs])
        return
    missing = [
        (name, params)
        for name, params in wanted(spec, count)
        if name not in runs or runs[name]["params"] != params
    ]
    # Spawned, for torch's threads do not survive a fork.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        trainings = [pool.submit(train_one, spec, *run) for run in missing]
        for training in as_completed(trainings):
            run = training.result()
            runs[run["name"]] = run
            with kept.open("a", encoding="utf-8") as file:
                file.write(json.dumps(run) + "\n")
            print(f"{len(runs)}/{count + len(spec.baselines)}", flush=True)
    write(out, spec, [runs[name] for name, _ in wanted(spec, count)])


def write(out: Path, spec: StudySpec, runs: list[dict[str, Any]]) -> None:
    """One row for each epoch of each run; how they were made is in the file's metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

    labels = {baseline.label for baseline in spec.baselines}
    rows = [
        {
            "run": run["name"],
            "baseline": run["name"] in labels,
            "params": json.dumps(run["params"]),
            **epoch,
            "epoch": int(epoch["epoch"]),
        }
        for run in sorted(runs, key=lambda run: (run["name"] not in labels, run["name"]))
        for epoch in run["epochs"]
    ]
    metadata = {
        "space": json.dumps(spec.to_dict()),
        "made_by": "benchmarks/learning_curves.py",
        "versions": f"python {platform.python_version()}, torch {torch.__version__}",
        "machine": f"{platform.machine()}, CPU, 1 thread",
    }
    table = pa.Table.from_pylist(rows).replace_schema_metadata(metadata)
    pq.write_table(table, out, compression="zstd")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--settings", type=int, default=SETTINGS)
    parser.add_argument("--processes", type=int, default=1, help="of one thread each")
    parser.add_argument("--write-now", action="store_true", help="what there is, training no more")
    args = parser.parse_args()
    make(args.out, args.settings, processes=args.processes, write_now=args.write_now)


if __name__ == "__main__":
    main()
