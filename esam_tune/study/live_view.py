"""A running study drawn for a terminal of any size: what is left, the front so far, what runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from rich.cells import cell_len
from rich.console import Group
from rich.table import Table
from rich.text import Text

from esam_tune.study.front_table import SHORT_NAMES, format_mean, format_metric
from esam_tune.study.outlook import Left, Outlook
from esam_tune.study.record import StudyRecord

_GAP = 2  # columns between two of the table
_LEAST_SETTING = 10  # columns of it that are always shown
# Lines beside the rows: two of summary, the table's header, its two headings.
_OTHER_LINES = 5
_LEAST_ROWS = 2


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A line of the table: a setting with its values, or a heading alone."""

    trial: str = ""
    setting: str = ""
    values: tuple[str, ...] = ()
    note: str = ""
    heading: bool = False


class LiveView:
    """Draws a study's state.

    What runs keeps its line until it ends, and what begins takes the first free one, so that lines
    do not move while they are read.

    Args:
        record: of the study, kept up to date by who runs it.
        outlook: on what is left.
    """

    def __init__(self, record: StudyRecord, outlook: Outlook) -> None:
        self._record = record
        self._outlook = outlook
        self._places: list[str | None] = []  # ids of the runs whose line it is

    def draw(self, width: int, height: int) -> Group:
        """The state as it is now, in at most so many columns and lines."""
        self._take_places()
        room = max(2 * _LEAST_ROWS, height - _OTHER_LINES)
        running = [self._running(run_id) for run_id in self._places]
        front = self._front()
        # Either part may have what the other leaves.
        running = _shortened(running, max(room // 2, room - len(front)), last=False)
        front = _shortened(front, room - len(running), last=True)
        rows = [_Row(setting="front so far", heading=True), *front]
        if running:
            rows += [_Row(setting="running", heading=True), *running]
        head = Text(summary(self._record, self._outlook), style="bold")
        lines = [head, Text(in_words(self._outlook.left()))]
        for line in lines:
            line.truncate(width, overflow="ellipsis")
        return Group(*lines, self._table(rows, width))

    def _take_places(self) -> None:
        running = [run.run_id for run in self._record.runs.values() if run.state == "running"]
        kept = [run_id if run_id in running else None for run_id in self._places]
        new = [run_id for run_id in running if run_id not in kept]
        free = [place for place, run_id in enumerate(kept) if run_id is None]
        for run_id, place in zip_longest(new, free[: len(new)]):
            if place is None:
                kept.append(run_id)
            else:
                kept[place] = run_id
        while kept and kept[-1] is None:
            kept.pop()
        self._places = kept

    def _front(self) -> list[_Row]:
        objectives = self._record.spec.objectives
        return [
            _Row(
                trial=trial.trial_id,
                setting=trial.label,
                values=tuple(format_mean(trial, key) for key in objectives),
                note="baseline" if trial.baseline else "",
            )
            for trial in self._record.front()
        ]

    def _running(self, run_id: str | None) -> _Row:
        if run_id is None:
            return _Row()
        spec, run = self._record.spec, self._record.runs[run_id]
        return _Row(
            trial=run.run_id,
            setting=self._record.trials[run.trial_id].label,
            values=tuple(format_metric(key, run.metrics.get(key)) for key in spec.objectives),
            note=f"epoch {run.epochs}/{spec.training.epochs}",
        )

    def _table(self, rows: Sequence[_Row], width: int) -> Table:
        names = [SHORT_NAMES.get(key, key) for key in self._record.spec.objectives]
        head = _Row(trial="trial", setting="setting", values=tuple(names))
        lines = [head, *rows]
        wide = [max(cell_len(row.trial) for row in lines)]
        wide += [
            max(cell_len(row.values[at]) for row in lines if row.values) for at in range(len(names))
        ]
        wide.append(max(cell_len(row.note) for row in lines))
        setting = max(cell_len(row.setting) for row in lines)
        room = max(_LEAST_SETTING, width - sum(wide) - _GAP * (len(names) + 2))
        table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
        table.add_column(head.trial, no_wrap=True, width=wide[0])
        table.add_column(head.setting, no_wrap=True, overflow="ellipsis", width=min(setting, room))
        for name, columns in zip(names, wide[1:-1], strict=True):
            table.add_column(name, justify="right", no_wrap=True, width=columns)
        table.add_column("", no_wrap=True, width=wide[-1])
        for row in rows:
            cells = row.values or ("",) * len(names)
            style = "dim" if row.heading else None
            table.add_row(row.trial, Text(row.setting), *cells, row.note, style=style)
        return table


def summary(record: StudyRecord, outlook: Outlook) -> str:
    """How far a study is, in a line."""
    runs = record.runs.values()
    unit = "trials" if len(record.runs) == len(record.trials) else "runs"
    ended = sum(run.state != "running" for run in runs)
    return (
        f"{record.spec.name}: {ended}/{len(runs) + outlook.to_begin} {unit}, "
        f"{_clock(outlook.elapsed)} elapsed"
    )


def in_words(left: Left) -> str:
    """What is left of a study, in a line; early stopping ends a study before that."""
    if not left.epochs:
        return "nothing left to train"
    words = [f"left: {left.epochs} epochs"]
    if left.cost is not None:
        words[0] += f" at the cost of {left.cost:.0f} of SGD"
    if left.seconds is not None:
        words.append(f"about {_clock(_rounded(left.seconds))}")
    return ", ".join(words)


def _shortened(rows: list[_Row], most: int, *, last: bool) -> list[_Row]:
    """At most so many rows, the first or the last of them, with one that counts the others."""
    if len(rows) <= most:
        return rows
    kept = max(1, most - 1)
    more = _Row(setting=f"... and {len(rows) - kept} more", heading=True)
    return [more, *rows[-kept:]] if last else [*rows[:kept], more]


def _rounded(seconds: float) -> float:
    """To what an estimate is good for, so that it does not change at each look."""
    step = next((s for end, s in ((120, 5), (600, 15), (3600, 60)) if seconds < end), 300)
    return round(seconds / step) * step


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
