"""What a page is made of. All text is plain: the page escapes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias


@dataclass(frozen=True, kw_only=True)
class Paragraph:
    """A paragraph.

    Args:
        text: plain.
        kind: ``lead`` for the one sentence to take home, ``note`` for what qualifies it.
    """

    text: str
    kind: Literal["plain", "lead", "note"] = "plain"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a table.

    Args:
        cells: plain text, one for each column.
        kind: how it stands out.
    """

    cells: Sequence[str]
    kind: Literal["plain", "chosen", "faint"] = "plain"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table.

    Args:
        head: names of the columns.
        rows: below it.
        numbers: indices of columns that are set right.
        caption: what it shows; also for those who hear it.
    """

    head: Sequence[str]
    rows: Sequence[Row]
    numbers: Sequence[int] = ()
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture with its caption.

    Args:
        svg: an element as :func:`esam_tune.report.vector.inline_svg` makes it; goes in as it is.
        caption: below it; plain.
        narrow: another form of it for phones, or empty.
        wide: whether a phone scrolls it sideways instead of making it small.
    """

    svg: str
    caption: str = ""
    narrow: str = ""
    wide: bool = False


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Pictures side by side where there is room, with one caption."""

    pictures: Sequence[Picture]
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Code:
    """What is typed or kept in a file, character by character.

    Args:
        text: of one or more lines.
        title: what it is for.
        folded: whether it is shown on demand alone (on paper always).
    """

    text: str
    title: str = ""
    folded: bool = False


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Names with their values."""

    pairs: Sequence[tuple[str, str]]


Block: TypeAlias = Paragraph | Table | Picture | Gallery | Code | Facts


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page under a heading.

    Args:
        key: its address within the page: letters, digits and hyphens.
        title: of the part.
        blocks: from top to bottom.
    """

    key: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page.

    Args:
        title: also of the window.
        subtitle: what kind of page it is.
        sections: from top to bottom.
        footer: last line.
    """

    title: str
    subtitle: str
    sections: Sequence[Section]
    footer: str = field(default="")
