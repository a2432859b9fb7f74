"""The pictures and plots that a study leaves in its folder, also for its run in MLflow."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from esam_tune.pareto_front import Rule
from esam_tune.report.study import Study
from esam_tune.study.folder import StudyFolder
from esam_tune.study.record import StudyRecord

_log = logging.getLogger(__name__)

FRONT = "front.png"
FOLDER = "plots"
INTERACTIVE = "interactive.html"
# With fewer complete search trials there is no more to see than in the front's own picture.
FEWEST_TRIALS = 5
_COLUMNS = 2


def write_plots(
    folder: StudyFolder, record: StudyRecord, rule: Rule, *, all_of_them: bool
) -> list[Path]:
    """Draw the front, and every other plot that the study has enough for.

    Nothing here may cost a study its end: what cannot be drawn is logged as a warning.

    Args:
        folder: of the study, which receives ``front.png`` and ``plots/``.
        record: of the study.
        rule: by which the setting is chosen.
        all_of_them: whether to draw more than the front, which takes seconds.

    Returns:
        What was written: a file, and a folder.
    """
    from esam_tune.study.report_data import study_data

    written: list[Path] = []
    with _warned(f"plots of study {folder.name}"):
        study = study_data(folder, record, rule)
        if study.complete:
            with _warned(FRONT):
                written.append(_draw_front(study, folder.path / FRONT))
        if all_of_them and len(study.searched) >= FEWEST_TRIALS:
            plots = folder.path / FOLDER
            plots.mkdir(exist_ok=True)
            _draw_others(record, study, plots)
            written.append(plots)
    return written


def _draw_front(study: Study, path: Path) -> Path:
    from esam_tune.report.front import front_figure
    from esam_tune.report.style import save_figure

    figure = front_figure(
        study.points(),
        accuracy_metric=study.accuracy,
        cost_metric=study.cost,
        title=f"{study.name}: the trade-off",
        chosen=study.chosen,
    )
    save_figure(figure, path)
    return path


def _draw_others(record: StudyRecord, study: Study, plots: Path) -> None:
    from esam_tune.report.interactive import interactive_page
    from esam_tune.report.panels import grid_figure
    from esam_tune.report.plots import static_plots
    from esam_tune.report.style import save_figure
    from esam_tune.study.optuna_view import figures, importances

    with _warned("importance"):
        study = replace(study, importances=importances(record))
    for plot in static_plots(study):
        with _warned(plot.name):
            save_figure(grid_figure(plot, _COLUMNS), plots / f"{plot.name}.png")
    with _warned(INTERACTIVE):
        others = []
        with _warned("Optuna's plots"):
            others = figures(record)
        page = interactive_page(study, others)
        (plots / INTERACTIVE).write_text(page, encoding="utf-8")


@contextmanager
def _warned(what: str) -> Iterator[None]:
    """Go on without what cannot be drawn."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever a plotting library raises
        _log.warning("%s: not drawn (%s: %s)", what, type(error).__name__, error)
