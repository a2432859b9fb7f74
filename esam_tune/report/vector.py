"""Pictures inside a page: SVG that takes the page's colours, light or dark, and its letters."""

from __future__ import annotations

import io
import re
from html import escape
from typing import TYPE_CHECKING

from esam_tune.report import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A picture's colours as the page's variables; the page's style sheet has both palettes.
_VARIABLES = {
    style.INK: "ink",
    style.MUTED: "muted",
    style.DOT: "dot",
    style.GRID: "grid",
    style.STRIP: "strip",
    style.PAPER: "paper",
    style.BLUE: "blue",
    style.VERMILION: "vermilion",
    style.RUST: "rust",
    style.GREEN: "green",
    style.PURPLE: "purple",
    style.ORANGE: "orange",
    style.SKY: "sky",
    "#000000": "ink",
}
_COLOUR = re.compile(r"(?<=[:\s])#[0-9a-f]{6}(?=[;\"\s])")
# The font, and what matplotlib would have instead of it.
_LETTERS = re.compile(r"'DejaVu Sans'[^;\"]*")
_ID = re.compile(r"(\bid=\"|\bhref=\"#|url\(#)([^\"\)]+)")


def inline_svg(figure: Figure, *, name: str, description: str) -> str:
    """The figure as an ``svg`` element for a page, safe to put there as it is.

    Text stays text, which readers can search, copy and hear; what users typed in it is escaped.

    Args:
        figure: white where nothing is drawn; the page shows through there.
        name: of the picture, unique in the page: letters, digits and hyphens.
        description: for those who cannot see it.
    """
    import matplotlib as mpl

    text = io.StringIO()
    with mpl.rc_context(style.TEXT | {"svg.fonttype": "none"}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    # From the element itself: a page takes no XML declaration.
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, count=1, flags=re.DOTALL)
    svg = _outside_text(svg, name)
    width, height = _size(svg)
    opening = (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(description)}" '
        f'style="aspect-ratio: {width:g} / {height:g}" xmlns="http://www.w3.org/2000/svg" '
        'xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return opening + svg[svg.index(">") + 1 :].strip()


def _outside_text(svg: str, name: str) -> str:
    """Colours, letters and ids of the page in every tag; what stands between tags stays."""

    def tag(match: re.Match[str]) -> str:
        found = _COLOUR.sub(_variable, match[0])
        # In a page of several pictures each has names of its own.
        found = _ID.sub(rf"\g<1>{name}-\g<2>", found)
        return _LETTERS.sub("var(--sans)", found)

    return re.sub(r"<[a-zA-Z][^<>]*>", tag, svg)


def _variable(match: re.Match[str]) -> str:
    known = {colour.lower(): variable for colour, variable in _VARIABLES.items()}
    variable = known.get(match[0])
    return match[0] if variable is None else f"var(--{variable})"


def _size(svg: str) -> tuple[float, float]:
    """Width and height in points, from the view box."""
    found = re.search(r'viewBox="0 0 ([0-9.]+) ([0-9.]+)"', svg)
    assert found is not None, "matplotlib writes a view box"
    return float(found[1]), float(found[2])
