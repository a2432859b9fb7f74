"""A table for terminals as one for notebooks."""

from __future__ import annotations

import html

from rich.table import Table
from rich.text import Text

_DIM = ' style="opacity:.65"'


def html_table(table: Table, caption: str, note: str = "") -> str:
    """The table's cells as an HTML table, everything in it escaped.

    Args:
        table: whose cells are texts.
        caption: above it, as text.
        note: below it, as text.
    """
    columns = table.columns
    sides = ["right" if column.justify == "right" else "left" for column in columns]
    head = "".join(
        f'<th scope="col" style="text-align:{side}">{_escaped(column.header)}</th>'
        for column, side in zip(columns, sides, strict=True)
    )
    cells = zip(*(column.cells for column in columns), strict=True)
    rows = []
    for row, values in zip(table.rows, cells, strict=True):
        inner = "".join(
            f'<td style="text-align:{side}">{_escaped(value)}</td>'
            for value, side in zip(values, sides, strict=True)
        )
        rows.append(f"<tr{_DIM if row.style == 'dim' else ''}>{inner}</tr>")
    below = f"<p>{html.escape(note)}</p>" if note else ""
    return (
        f'<table><caption style="text-align:left">{html.escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>{below}"
    )


def _escaped(cell: object) -> str:
    return html.escape(cell.plain if isinstance(cell, Text) else str(cell))
