"""What a study leaves behind for people: the front as a table and a picture, the settings file."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from esam_tune import metrics as keys
from esam_tune.domains import Domain
from esam_tune.errors import InputError, choose_from
from esam_tune.metrics import METRICS
from esam_tune.pareto_front import Rule
from esam_tune.study.folder import StudyFolder
from esam_tune.study.plot_files import write_plots
from esam_tune.study.record import StudyRecord
from esam_tune.study.trial_record import TrialRecord
from esam_tune.yaml_file import write_yaml

DEFAULT_RULE: Rule = "knee"
_BOUND = Domain(kind=float)


def check_bounds(maximum: Mapping[str, float], minimum: Mapping[str, float]) -> None:
    """Check constraints that are asked for beside a study's own.

    Args:
        maximum: metric -> upper bound, in the metric's unit.
        minimum: metric -> lower bound, likewise.

    Raises:
        InputError: for an unknown metric, one of the test split, a bound that is no finite number,
            or two that exclude each other.
    """
    known = [key for key in METRICS if key not in (keys.TEST_ACCURACY, keys.TEST_LOSS)]
    for option, bounds in (("--max", maximum), ("--min", minimum)):
        for key, value in bounds.items():
            if key not in known:
                raise InputError(option, f"unknown metric {key!r}", choose_from(known, key))
            _BOUND.check(f"{option} {key}", value)
    for key in maximum.keys() & minimum.keys():
        if minimum[key] > maximum[key]:
            raise InputError(
                "--min",
                f"{key} must be at most its --max {maximum[key]:g}, got {minimum[key]:g}",
                "swap the two",
            )


def summarise(
    folder: StudyFolder,
    record: StudyRecord,
    *,
    rule: Rule = DEFAULT_RULE,
    maximum: Mapping[str, float] = MappingProxyType({}),
    minimum: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, Any]:
    """The JSON document of a study, with the front under constraints and the rule's pick.

    Raises:
        InputError: for a constraint that :func:`check_bounds` refuses.
    """
    check_bounds(maximum, minimum)
    tracked = folder.tracked()
    return record.document(
        storage=folder.storage,
        run_ids=tracked.run_ids,
        parent_run_id=tracked.parent_run_id,
        front=record.front(maximum, minimum),
        chosen=record.pick(rule, maximum, minimum),
    )


def write_results(
    folder: StudyFolder, record: StudyRecord, *, all_plots: bool = True
) -> list[Path]:
    """Write the front's table and picture, the plots and the chosen settings; the paths written.

    Args:
        folder: of the study.
        record: of the study.
        all_plots: whether to draw more than the front, which takes seconds.
    """
    written = [folder.path / "front.csv"]
    written[0].write_text(front_csv(record), encoding="utf-8")
    written += write_plots(folder, record, DEFAULT_RULE, all_of_them=all_plots)
    chosen = record.pick(DEFAULT_RULE)
    if chosen is None:
        # Of an earlier process, before more seeds took the last setting off the front.
        folder.chosen.unlink(missing_ok=True)
    else:
        export_settings(record, chosen, folder.chosen)
        written.append(folder.chosen)
    return written


def export_settings(record: StudyRecord, trial: TrialRecord, path: Path) -> None:
    """Write a trial's settings file.

    Raises:
        OSError: when the file cannot be written.
    """
    settings = record.chosen_document(trial)["settings"]
    comment = f"{trial.label}: trial {trial.trial_id} of study {record.spec.name}"
    write_yaml(path, settings, comment)


def trial_row(record: StudyRecord, trial: TrialRecord, *, on_front: bool) -> dict[str, Any]:
    """A trial as one flat row of a table.

    Args:
        record: of the study.
        trial: of it.
        on_front: whether it is on the front that the table is about.

    Returns:
        What it is, its parameters, its last metrics (means over the seeds), and each objective's
        standard error as ``METRIC_stderr``, None for a trial of one seed.
    """
    metrics = trial.metrics
    return {
        "trial_id": trial.trial_id,
        "label": trial.label,
        "state": trial.state,
        "baseline": trial.baseline,
        "on_front": on_front,
        "seeds": len(trial.complete_runs),
        **trial.params,
        **{key: metrics[key] for key in METRICS if key in metrics},
        **{f"{key}_stderr": trial.stderr(key) for key in record.spec.objectives},
    }


def front_csv(record: StudyRecord) -> str:
    """Every complete trial with its parameters and last metrics, front members marked."""
    front = {trial.trial_id for trial in record.front()}
    rows = [trial_row(record, trial, on_front=trial.trial_id in front) for trial in record.complete]
    params = sorted({key for trial in record.complete for key in trial.params})
    metrics = [key for key in METRICS if any(key in row for row in rows)]
    errors = [f"{key}_stderr" for key in record.spec.objectives]
    head = ["trial_id", "label", "baseline", "on_front", "seeds"]
    text = io.StringIO()
    columns = [*head, *params, *metrics, *errors]
    # Every row is of a complete trial: its state would say nothing.
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
