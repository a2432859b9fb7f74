"""How a study's settings scale over workers, as sections of the study's page."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esam_tune.errors import escaped
from esam_tune.report.blocks import Block, Paragraph, Picture, Row, Section, Table
from esam_tune.report.vector import inline_svg
from esam_tune.scaling.plots import measured_figure, predicted_figure
from esam_tune.scaling.study import FOLDER

_log = logging.getLogger(__name__)


def scaling_sections(storage: Path, study: str) -> list[Section]:
    """A section for each scaling study, in the storage, of a setting that a study chose.

    One that cannot be read is left out with a warning: the page is about the study itself.

    Args:
        storage: root of all studies.
        study: its name.
    """
    sections: list[Section] = []
    for path in sorted((storage / FOLDER).glob("*/result.json")):
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if document["settings"]["origin"].get("study") == study:
                sections.append(_section(document, len(sections)))
        except (OSError, ValueError, KeyError, TypeError, LookupError) as error:
            _log.warning("scaling study %s: left out (%r)", path.parent.name, error)
    return sections


def _section(document: Mapping[str, Any], number: int) -> Section:
    key = f"scaling-{number}"
    figures = {"measured": measured_figure(document)}
    for network in document["methods"][0]["predictions"]:
        figures[f"predicted-{network}"] = predicted_figure(document, network)
    count = max(document["workers"])
    blocks: list[Block] = [Paragraph(text=escaped(text)) for text in document["findings"]]
    blocks += [
        Picture(
            svg=inline_svg(
                figure,
                name=f"{key}-{name}",
                description=f"Speed-up, efficiency and throughput over workers, {name}",
            ),
            wide=True,
        )
        for name, figure in figures.items()
    ]
    blocks.append(_points(document))
    machine = document["machine"]
    note = (
        f"Scaling study {document['study']}: {document['rounds']} rounds of {document['steps']} "
        f"steps on up to {count} workers, {machine['device']} ({machine['processor']}, "
        f"{machine['cores']} cores), intervals {document['intervals']}."
    )
    blocks.append(Paragraph(text=escaped(note), kind="note"))
    title = f"{document['mode'].capitalize()} scaling over workers"
    return Section(key=key, title=title, blocks=blocks)


def _points(document: Mapping[str, Any]) -> Table:
    rows = [
        Row(
            cells=[
                escaped(method["label"]),
                str(point["workers"]),
                _estimate(point["images_per_second"], ",.0f"),
                _estimate(point["speed_up"], ".2f"),
                _estimate(point["efficiency"], ".0%"),
            ]
        )
        for method in document["methods"]
        for point in method["points"]
    ]
    head = ["setting", "workers", "images/s", "speed-up", "efficiency"]
    caption = "Measured, with 95 % intervals."
    return Table(head=head, rows=rows, numbers=range(1, 5), caption=caption)


def _estimate(estimate: Mapping[str, Any], form: str) -> str:
    """A value with its interval behind it; the value alone where both ends are it."""
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    if value is None:
        return ""
    if low is None or high is None or low == high:
        return f"{value:{form}}"
    return f"{value:{form}} ({low:{form}} to {high:{form}})"
