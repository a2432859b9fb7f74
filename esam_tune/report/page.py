"""A page as one HTML file that needs nothing else: no network, no script."""

from __future__ import annotations

from html import escape
from importlib.resources import files

from esam_tune.report.blocks import (
    Block,
    Code,
    Facts,
    Gallery,
    Page,
    Paragraph,
    Picture,
    Row,
    Section,
    Table,
)

# Whatever a mistake might let into the page: nothing runs, and nothing is fetched.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'"


def render(page: Page) -> str:
    """The page as HTML; all of its text is escaped, and pictures go in as they are."""
    sheet = files("esam_tune.report").joinpath("page.css").read_text(encoding="utf-8")
    links = "".join(
        f'<li><a href="#{escape(section.key)}">{escape(section.title)}</a></li>'
        for section in page.sections
    )
    body = "\n".join(map(_section, page.sections))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="esam-tune report">
<link rel="icon" href="data:,">
<title>{escape(page.title)}</title>
<style>
{sheet}</style>
</head>
<body>
<header>
<p class="kind">{escape(page.subtitle)}</p>
<h1>{escape(page.title)}</h1>
<nav aria-label="Contents"><ol>{links}</ol></nav>
</header>
<main>
{body}
</main>
<footer><p>{escape(page.footer)}</p></footer>
</body>
</html>
"""


def _section(section: Section) -> str:
    key = escape(section.key)
    blocks = "\n".join(map(_block, section.blocks))
    return (
        f'<section id="{key}" aria-labelledby="{key}-title">\n'
        f'<h2 id="{key}-title">{escape(section.title)}</h2>\n{blocks}\n</section>'
    )


def _block(block: Block) -> str:
    match block:
        case Paragraph():
            return f'<p class="{block.kind}">{_prose(block.text)}</p>'
        case Table():
            return _table(block)
        case Picture():
            return _picture(block)
        case Gallery():
            shown = "".join(f"<div>{_drawing(picture)}</div>" for picture in block.pictures)
            kind = "single" if len(block.pictures) == 1 else "gallery"
            return f'<figure class="{kind}"><div>{shown}</div>{_caption(block.caption)}</figure>'
        case Code():
            return _code(block)
        case Facts():
            pairs = "".join(
                f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
                for name, value in block.pairs
            )
            return f"<dl>{pairs}</dl>"


def _table(table: Table) -> str:
    head = "".join(
        f'<th scope="col"{_right(n, table)}>{escape(name)}</th>'
        for n, name in enumerate(table.head)
    )
    rows = "\n".join(_row(row, table) for row in table.rows)
    # A table that is wider than a phone is scrolled by itself, by keyboard too.
    return (
        f'<figure class="table"><div class="scroll" tabindex="0" role="region" '
        f'aria-label="{escape(table.caption or "table")}">\n'
        f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>"
        f"{_caption(table.caption)}</figure>"
    )


def _row(row: Row, table: Table) -> str:
    cells = "".join(
        f"<td{_right(n, table)}>{escape(cell)}</td>" for n, cell in enumerate(row.cells)
    )
    return f'<tr class="{row.kind}">{cells}</tr>'


def _right(column: int, table: Table) -> str:
    return ' class="number"' if column in table.numbers else ""


def _picture(picture: Picture) -> str:
    kind = ' class="wide"' if picture.wide else ""
    return f"<figure{kind}>{_drawing(picture)}{_caption(picture.caption)}</figure>"


def _drawing(picture: Picture) -> str:
    if not picture.narrow:
        return f'<div class="drawing">{picture.svg}</div>'
    return (
        f'<div class="drawing on-desk">{picture.svg}</div>'
        f'<div class="drawing on-phone">{picture.narrow}</div>'
    )


def _caption(text: str) -> str:
    return f"<figcaption>{_prose(text)}</figcaption>" if text else ""


def _prose(text: str) -> str:
    """Text of sentences, in which no line begins with a per cent sign."""
    return escape(text).replace(" %", "\N{NO-BREAK SPACE}%")


def _code(code: Code) -> str:
    text = f"<pre><code>{escape(code.text)}</code></pre>"
    title = escape(code.title)
    if code.folded:
        return f"<details><summary>{title}</summary>{text}</details>"
    return (f'<p class="command">{title}</p>' if title else "") + text
