"""How every picture of this project looks, and how it becomes a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from esam_tune import metrics as keys

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Style: TypeAlias = dict[str, Any]

DPI = 100  # files hold twice the pixels
TIMES = "\N{MULTIPLICATION SIGN}"
AXIS_NAMES = {
    keys.VAL_ACCURACY: "validation accuracy",
    keys.STEP_FLOPS_RATIO: "step cost over the base optimizer (counted FLOPs)",
    keys.STEP_TIME_RATIO: "step cost over the base optimizer (measured time)",
}
# Okabe and Ito 2008, "Color universal design": told apart under every common colour blindness.
# Shape, fill, dashes and position carry the same distinctions, so pictures also work in grey.
BLUE, VERMILION, RUST = "#0072B2", "#D55E00", "#A34700"
GREEN, PURPLE, ORANGE, SKY = "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
INK, MUTED, DOT, GRID, STRIP = "#1F2328", "#59636E", "#A3ABB4", "#E7EAED", "#F6F7F9"
PAPER = "#FFFFFF"
TEXT: Style = {"font.family": "DejaVu Sans", "text.color": INK, "text.usetex": False}
TEXT |= {"font.size": 10, "svg.fonttype": "path", "svg.hashsalt": "esam-tune"}
SEARCHED: Style = {"ls": "", "marker": "o", "ms": 6.5, "mfc": DOT, "mec": "white", "mew": 0.8}
PRUNED: Style = SEARCHED | {"ms": 5, "mfc": "white", "mec": DOT}
ON_FRONT: Style = SEARCHED | {"ms": 9.5, "mfc": BLUE, "mew": 1.2}
FRONT_LINE: Style = {"ls": "-", "lw": 1.8, "color": BLUE}
BASELINE: Style = SEARCHED | {"ms": 8, "mfc": "white", "mec": VERMILION, "mew": 1.8}
RING: Style = SEARCHED | {"ms": 17, "mfc": "none", "mec": INK, "mew": 1.8, "zorder": 7}


def axis_name(metric: str) -> str:
    """A metric as the name of an axis."""
    return AXIS_NAMES.get(metric, metric.replace("_", " "))


def value_text(metric: str, value: float) -> str:
    """A value on a metric's axis: accuracies in per cent, costs as multiples."""
    if metric == keys.VAL_ACCURACY:
        return f"{100 * value:.4g} %"
    text = f"{value:.4g}"
    # A throughput of 12500 is no 1.25e+04.
    text = f"{value:.0f}" if "e+" in text else text
    return f"{text}{TIMES if metric in keys.COST_METRICS else ''}"


def point_text(metric: str, value: float) -> str:
    """A value beside its point: as on the axis, but with as many places for every point."""
    if metric == keys.VAL_ACCURACY:
        return f"{100 * value:.1f} %"
    return f"{value:.2f}{TIMES}" if metric in keys.COST_METRICS else value_text(metric, value)


def plain_axes(axes: Axes) -> None:
    """A grid instead of ticks and frame, with the bottom line alone."""
    axes.tick_params(length=0, pad=6, labelcolor=MUTED, labelsize=9.5)
    axes.tick_params(which="minor", length=0, labelbottom=False, labelleft=False)
    axes.grid(color=GRID, linewidth=0.9)
    axes.set_axisbelow(True)
    axes.spines[:].set(visible=False, color=DOT)
    axes.spines["bottom"].set_visible(True)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write the figure, at twice its size in pixels, in the format that the path's suffix names.

    Missing folders are made. The same figure gives the same bytes: no date is written.

    Raises:
        ValueError: The suffix is not ``.png``, ``.svg`` or ``.pdf``.
    """
    import matplotlib as mpl

    path = Path(path)
    undated: dict[str, Style] = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    if path.suffix not in undated:
        raise ValueError(f"path must end in {', '.join(undated)}, got {str(path)!r}; rename it")
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(TEXT):
        figure.savefig(path, dpi=2 * DPI, metadata=undated[path.suffix])
