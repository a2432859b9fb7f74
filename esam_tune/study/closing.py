"""The last lines of a sweep: what came of it and what to do next."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from rich.console import Console

from esam_tune.study.execution import SweepResult
from esam_tune.study.front_table import front_table
from esam_tune.study.record import StudyRecord
from esam_tune.study.results import DEFAULT_RULE
from esam_tune.tracking.store import local_uri


def print_result(result: SweepResult, console: Console, again: str) -> None:
    """Print the front beside the baselines, failures, and where everything is.

    Args:
        result: of the study.
        console: on stdout.
        again: the verb and arguments, storage aside, that go on where an interruption ended it.
    """
    record, folder = result.record, result.folder
    command = _command()
    default = folder.storage == Path("runs").absolute()
    storage = "" if default else f" --storage {_from_here(folder.storage)}"
    for trial in record.finished:
        if trial.state == "failed":
            line = f"failed: {trial.trial_id} {trial.label}: {trial.reason}"
            console.print(line, markup=False, soft_wrap=True)
    chosen = record.pick(DEFAULT_RULE)
    if chosen is not None:
        kept = f" under {_constraints(record)}" if record.spec.constraints else ""
        console.print(
            f"\nPareto front{kept}, and below it the baselines that are not on it", style="bold"
        )
        console.print(front_table(record, baselines=True, chosen=chosen))
        console.print(
            f"\n* chosen by {DEFAULT_RULE}: trial {chosen.trial_id}, {chosen.label}", markup=False
        )
        if tied := record.tied_with(chosen):
            others = ", ".join(trial.trial_id for trial in tied)
            console.print(f"  tied with it in accuracy, by the seeds both ran: {others}")
    elif record.complete and record.spec.constraints:
        console.print(f"no complete trial keeps {_constraints(record)}", markup=False)
    lines = []
    if result.outcome in ("interrupted", "terminated"):
        lines.append(("go on", f"{command} {again}{storage}"))
    if chosen is not None:
        lines += [
            ("picture", str(_from_here(folder.path / "front.png"))),
            ("settings", str(_from_here(folder.chosen))),
            ("train it", f"{command} train {_from_here(folder.chosen)}{storage}"),
            (
                "pick another",
                f"{command} pareto {folder.name} --max {record.spec.cost_metric}=1.4{storage}",
            ),
            ("report", f"{command} report {folder.name}{storage}"),
        ]
    uri = record.tracking_uri
    if uri.startswith(("http://", "https://")):
        lines.append(("MLflow", uri))
    else:
        own = uri == local_uri(folder.storage)
        lines.append(("MLflow", f"{command} ui{storage if own else f' --tracking-uri {uri}'}"))
    for what, where in lines:
        console.print(f"{what + ':':14}{where}", markup=False, soft_wrap=True)
    if result.outcome == "failed":
        console.print("the study failed: no trial reached its end", style="bold")


def _constraints(record: StudyRecord) -> str:
    return " and ".join(f"{c.metric} {c}" for c in record.spec.constraints)


def _command() -> str:
    """How to call this program again: by its name where that is on the path."""
    return (
        "esam-tune" if shutil.which("esam-tune") else str(_from_here(Path(sys.argv[0]).absolute()))
    )


def _from_here(path: Path) -> Path:
    """The path as one would type it in this folder."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
