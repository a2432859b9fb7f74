"""The report of a study as one file, with what is known of how its settings scale."""

from __future__ import annotations

import time
import uuid
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import esam_tune
from esam_tune.errors import InputError
from esam_tune.report.page import render
from esam_tune.report.study import Study, Trial
from esam_tune.report.study_page import study_page
from esam_tune.scaling.section import scaling_sections
from esam_tune.study.feasibility import PredictedCost
from esam_tune.study.folder import StudyFolder
from esam_tune.study.optuna_view import importances
from esam_tune.study.record import StudyRecord
from esam_tune.study.report_data import study_data
from esam_tune.study.results import DEFAULT_RULE

NAME = "report.html"


def write_report(folder: StudyFolder, out: Path | None = None) -> Path:
    """Write the report of a study, which may be running, as one HTML file.

    Args:
        folder: of the study.
        out: folder that receives ``report.html``, made when missing; None for the study's own.

    Returns:
        The file's path.

    Raises:
        InputError: when there is no such study, or the folder cannot be written.
    """
    record = folder.record()
    study = study_data(folder, record, DEFAULT_RULE)
    study = replace(study, importances=importances(record), trials=_predicted(record, study))
    now = time.strftime("%Y-%m-%d %H:%M %Z")
    made = f"Made by esam-tune {esam_tune.__version__} on {now} from the study's journal."
    page = render(study_page(study, scaling_sections(folder.storage, folder.name), made))
    path = (folder.path if out is None else out) / NAME
    scratch = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Readers see the old page or the new one.
        scratch.write_text(page, encoding="utf-8")
        scratch.replace(path)
    except OSError as error:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise InputError(
            "--out",
            f"cannot write {str(path)!r} ({error.strerror})",
            "choose a folder you can write to",
        ) from None
    return path


def _predicted(record: StudyRecord, study: Study) -> tuple[Trial, ...]:
    """The trials, those that the cost table shows with their predicted cost."""
    cost = PredictedCost(record.spec, record.workers_per_trial)
    shown = {trial.trial_id for trial in (*study.front, *study.off_front)}
    return tuple(
        replace(trial, predicted_cost=cost(trial.params)) if trial.trial_id in shown else trial
        for trial in study.trials
    )
