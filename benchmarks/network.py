"""The communication model on emulated networks: predicted beside measured step times.

    sudo .venv/bin/python benchmarks/network.py [--megabits 25,100] [--milliseconds 0,5]
    sudo .venv/bin/python benchmarks/network.py --task glyphs --workers 1,2 --rows 16 \
        --megabits 100 --milliseconds 0 --rounds 5 --steps 2  # 20 minutes

One process a worker, each in a network namespace of its own, joined by links of known rate and
delay (`emulated_network.py`); the same measurement as `esam-tune scale`, weak scaling with few rows
a worker, so that the links and not this machine's cores are what limits. Prints a Markdown table:

- from the link: no fit at all. The step without all-reduce as measured at that count, plus what the
  model says of a link of the given rate and delay, hiding all that the schedule allows;
- none hidden: the same where no communication hides behind the backward pass. A small network sends
  one message, with nothing to hide; ResNet-18 (`--task glyphs`) sends several;
- left out: the count predicted from a fit to the others.

All as predicted over measured step time, minus 1. Needs Linux, root, iproute2 and the package.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from emulated_network import EmulatedNetwork, missing

from esam_tune.config import trial_settings
from esam_tune.scaling.checks import leave_one_out
from esam_tune.scaling.communication import Model, Network
from esam_tune.scaling.design import Design, design
from esam_tune.scaling.estimates import estimator_for
from esam_tune.scaling.measurement import measure
from esam_tune.scaling.records import Measurement, Plan
from esam_tune.scaling.timings import Timed, Timings
from esam_tune.study.spec import describe_params

_PORT = 29500  # in a namespace of its own, every port is free
_QUIET = ("-W", "ignore::FutureWarning")
_HEAD = """\
| link | fitted | setting | workers | step without all-reduce ms | step ms | from the link | none hidden | left out |
|---|---|---|---|---|---|---|---|---|"""  # noqa: E501 - a row of the table
_TASKS: dict[str, dict[str, Any]] = {
    "digits": {"dataset": "digits", "model": "small_cnn", "label_noise": 0.4},
    "glyphs": {"dataset": "glyphs", "model": "resnet18_cifar", "samples": 1000},
}
_ESAM = {"optimizer": "esam", "beta": 0.5, "gamma": 0.5, "rho": 0.1}


def member(rank: int, workers: int, address: str, plan: Path, result: Path) -> None:
    """What runs in each namespace."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"tcp://{address}:{_PORT}", rank=rank, world_size=workers
    )
    document = json.loads(plan.read_text(encoding="utf-8"))
    found = measure(Plan.from_dict(document), torch.device("cpu"))
    if rank == 0:
        result.write_text(json.dumps(found.to_dict()), encoding="utf-8")
    dist.destroy_process_group()


def measure_on(network: EmulatedNetwork, plan: Plan, workers: int) -> Measurement:
    """Run the members to their end."""
    with tempfile.TemporaryDirectory() as scratch:
        asked, answer = Path(scratch, "plan.json"), Path(scratch, "result.json")
        asked.write_text(json.dumps(plan.to_dict()), encoding="utf-8")
        members = []
        try:
            for rank in range(workers):
                command = [sys.executable, *_QUIET, __file__, "--member", str(rank), str(workers)]
                command += [network.address(0), str(asked), str(answer)]
                environment = {
                    "GLOO_SOCKET_IFNAME": network.interface(rank),
                    # There is no name server in a namespace, and torch would say so.
                    "TORCH_CPP_LOG_LEVEL": "ERROR",
                }
                members.append(network.start(rank, command, environment))
            failed = [process.wait() for process in members]
        finally:
            for process in members:
                process.kill()
        if any(failed):
            raise RuntimeError(f"members ended with {failed}")
        return Measurement.from_dict(json.loads(answer.read_text(encoding="utf-8")))


def rows_of_table(
    laid_out: Design, found: Measurement, megabits: float, milliseconds: float
) -> list[dict[str, Any]]:
    """Measured and predicted step times of every method at every count above one."""
    medians = Timings(found.samples).medians()
    estimator = estimator_for(laid_out, found, [], {})
    fitted = estimator.fit(medians, laid_out.counts)
    link = Network(latency=milliseconds / 1e3, seconds_per_byte=8e-6 / megabits)
    several = len(laid_out.counts) > 2
    checks = {
        c.workers: c for c in (leave_one_out(estimator, laid_out, medians) if several else ())
    }
    table = []
    for (method, settings), workers in itertools.product(
        laid_out.methods.items(), laid_out.counts[1:]
    ):
        rows = int(laid_out.rows(workers))
        measured = medians[Timed("step", workers, method, rows)]
        local = medians[Timed("local_step", workers, method, rows)]
        traffic = found.traffic[method]
        hidden, serial = (
            Model(network=link, overlap=overlap, spread=0.0).step(local, traffic, workers)
            for overlap in (1.0, 0.0)
        )
        table.append(
            {
                "megabits": megabits,
                "milliseconds": milliseconds,
                "fitted_megabits": fitted.network.bandwidth * 8e-6,
                "fitted_milliseconds": fitted.network.latency * 1e3,
                "setting": describe_params(settings.params),
                "workers": workers,
                "local_ms": local * 1e3,
                "step_ms": measured * 1e3,
                "messages": len(traffic.message_bytes),
                "fitted_overlap": fitted.overlap,
                "from_link": hidden / measured - 1,
                "none_hidden": serial / measured - 1,
                "left_out": checks[workers].errors.get(method) if several else None,
            }
        )
    return table


def print_rows(table: Sequence[dict[str, Any]]) -> None:
    for row in table:
        left_out = "-" if row["left_out"] is None else f"{100 * row['left_out']:+.0f} %"
        print(
            f"| {row['megabits']:g} Mbit/s, {row['milliseconds']:g} ms "
            f"| {row['fitted_megabits']:.3g} Mbit/s, {row['fitted_milliseconds']:.2g} ms "
            f"| {row['setting']} | {row['workers']} | {row['local_ms']:.1f} | {row['step_ms']:.1f} "
            f"| {100 * row['from_link']:+.0f} % | {100 * row['none_hidden']:+.0f} % | {left_out} |",
            flush=True,
        )


def numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=numbers, default=[1, 2, 4], metavar="1,2,4")
    parser.add_argument("--megabits", type=numbers, default=[25, 100], metavar="25,100")
    parser.add_argument("--milliseconds", type=numbers, default=[0, 5], metavar="0,5")
    parser.add_argument("--task", choices=_TASKS, default="digits")
    parser.add_argument("--rows", type=int, default=4, help="of each worker")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there too")
    parser.add_argument("--member", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.member:
        rank, workers, address, plan, result = options.member
        member(int(rank), int(workers), address, Path(plan), Path(result))
        return 0
    lacking = missing()
    if lacking:
        print(f"network: {lacking}", file=sys.stderr)
        return 2
    # So that a kill, too, goes through the clean-up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    settings = trial_settings(
        {
            "task": _TASKS[options.task],
            "training": {"epochs": 1, "batch_size": options.rows, "lr": 0.05},
            "params": _ESAM,
        }
    )
    laid_out = design(settings, [int(count) for count in options.workers], "weak")
    plan = Plan(cells=laid_out.cells(), rounds=options.rounds, steps=options.steps)
    largest = laid_out.counts[-1]
    print(
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python "
        f"{platform.python_version()}, torch {torch.__version__}, gloo; "
        f"{settings.task.model} on {options.task}, {options.rows} rows a worker; "
        f"{options.rounds} rounds of {options.steps} steps, seed 0; "
        f"load average at the start {os.getloadavg()[0]:.1f}\n",
        flush=True,
    )
    print(_HEAD)
    table = []
    for megabits, milliseconds in itertools.product(options.megabits, options.milliseconds):
        with EmulatedNetwork(largest, megabits, milliseconds / 1e3) as network:
            found = measure_on(network, plan, largest)
        rows = rows_of_table(laid_out, found, megabits, milliseconds)
        print_rows(rows)
        table += rows
    if options.json:
        options.json.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
