"""The last lines of a sweep: what came of it and what to do next."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from decimal import ROUND_CEILING, Context
from pathlib import Path

from rich.console import Console

from esam_tune.metrics import COST_METRICS
from esam_tune.study.execution import SweepResult
from esam_tune.study.folder import working_folder
from esam_tune.study.front_table import front_table
from esam_tune.study.record import StudyRecord
from esam_tune.study.results import DEFAULT_RULE
from esam_tune.study.trial_record import TrialRecord
from esam_tune.tracking.store import local_uri

_NAME, _MODULE = "esam-tune", "esam_tune.cli"
# The cost of a step between SGD's, 1, and SAM's, 2.
_BETWEEN = 1.4


def print_result(
    result: SweepResult, console: Console, again: str, left_out: Sequence[str] = ()
) -> None:
    """Print the front beside the baselines, failures, and where everything is.

    Args:
        result: of the study.
        console: on stdout.
        again: the verb and its arguments, as a shell takes them and ``--storage`` aside, that go on
            where an interruption ended it.
        left_out: what a user has to add to that, in words.
    """
    record = result.record
    for trial in record.finished:
        if trial.state == "failed":
            line = f"failed: {trial.trial_id} {trial.label}: {trial.reason}"
            console.print(line, markup=False, emoji=False, soft_wrap=True)
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
    for what, where in _next_steps(result, chosen, again, left_out):
        # Not for codes either, such as the one of a smiling face in a search space's values.
        console.print(f"{what + ':':14}{where}", markup=False, emoji=False, soft_wrap=True)
    if result.outcome == "failed":
        console.print("the study failed: no trial reached its end", style="bold")


def _next_steps(
    result: SweepResult, chosen: TrialRecord | None, again: str, left_out: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """What to do next, and the command or the place for it."""
    record, folder, command = result.record, result.folder, _command()
    storage = "" if folder.by_default else f" --storage {_typed(folder.storage)}"
    if result.outcome in ("interrupted", "terminated"):
        if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
            # The folder that a job runs in goes with it: no command of now works afterwards.
            arguments, where = again.partition(" ")[2], shlex.quote(str(folder.storage))
            yield "go on", f"submit the job again, with the arguments {arguments} --storage {where}"
        else:
            yield "go on", f"{command} {again}{storage}"
        yield from (("  besides", words) for words in left_out)
    if chosen is not None:
        yield "picture", str(_from_here(folder.path / "front.png"))
        yield "settings", str(_from_here(folder.chosen))
        yield "train it", f"{command} train {_typed(folder.chosen)}{storage}"
        bound = _bound_to_try(record, chosen)
        yield "pick another", f"{command} pareto {folder.name} --max {bound}{storage}"
        yield "report", f"{command} report {folder.name}{storage}"
    uri = record.tracking_uri
    if uri.startswith(("http://", "https://")):
        yield "MLflow", uri
    else:
        own = uri == local_uri(folder.storage)
        where = storage if own else f" --tracking-uri {shlex.quote(uri)}"
        yield "MLflow", f"{command} ui{where}"


def _bound_to_try(record: StudyRecord, chosen: TrialRecord) -> str:
    """A bound on the cost that leaves something to pick from.

    Of a step's cost, which is told as a ratio, one between SGD's and SAM's, if anything of the
    front keeps that; else the chosen trial's own, with three digits and no less than it is.
    """
    metric = record.spec.cost_metric
    if metric in COST_METRICS and record.front(maximum={metric: _BETWEEN}):
        return f"{metric}={_BETWEEN}"
    up = Context(prec=3, rounding=ROUND_CEILING)
    value = up.create_decimal(repr(float(chosen.values([metric])[0])))
    return f"{metric}={value.normalize(up):f}"


def _constraints(record: StudyRecord) -> str:
    return " and ".join(f"{c.metric} {c}" for c in record.spec.constraints)


def _command() -> str:
    """How to call this program again: by its name where that is on the path."""
    if shutil.which(_NAME):
        return _NAME
    called = Path(sys.argv[0])
    # A job's script, or a module, is no command that takes a verb.
    if called.name == _NAME:
        return _typed(called.absolute())
    return f"{_typed(Path(sys.executable))} -m {_MODULE}"


def _typed(path: Path) -> str:
    """The path as one would type it into a shell in this folder."""
    return shlex.quote(str(_from_here(path)))


def _from_here(path: Path) -> Path:
    """The path as seen from this folder."""
    here = working_folder()
    return path if here is None or not path.is_relative_to(here) else path.relative_to(here)
