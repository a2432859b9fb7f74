"""``spaces``: list and check search space files."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from esam_tune.cli.arguments import DONE, WRONG_INPUT, add_json, print_json
from esam_tune.errors import InputError, escaped, one_line

_LINE_LENGTH = 4000


def add_parser(verbs: Any) -> None:
    """Add the verb and its options."""
    text = "list and check search space files"
    parser = verbs.add_parser("spaces", help=text, description=text, allow_abbrev=False)
    parser.set_defaults(run=run)
    parser.add_argument(
        "paths",
        nargs="*",
        type=Path,
        default=[Path("search_spaces")],
        metavar="PATH",
        help="files, or folders of *.yaml files (default: search_spaces)",
    )
    parser.add_argument(
        "--schema", action="store_true", help="print the JSON schema of space files, for editors"
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the verb; the exit code, which says whether every file is right."""
    from esam_tune.study.space_schema import space_schema

    if options.schema:
        print_json(space_schema())
        return DONE
    rows = [_row(path) for path in _files(options.paths)]
    if options.json:
        print_json(rows)
    else:
        _print_table([row for row in rows if row["error"] is None])
    wrong = [row for row in rows if row["error"] is not None]
    for row in wrong:
        line = one_line(f"{row['path']}: {row['error']}", _LINE_LENGTH)
        print(f"esam-tune: error: {line}", file=sys.stderr)  # noqa: T201
    return WRONG_INPUT if wrong else DONE


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        # Of one whose name is too long, say, the reader of files tells what is wrong.
        if not os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises
            yield path
            continue
        found = sorted(path.glob("*.yaml"))
        if not found:
            raise InputError("PATH", f"no *.yaml file in {str(path)!r}", "name another folder")
        yield from found


def _row(path: Path) -> dict[str, Any]:
    from esam_tune.study.space import load_space

    try:
        spec = load_space(path)
    except InputError as error:
        return {"path": str(path), "error": str(error)}
    return {
        "path": str(path),
        "error": None,
        "name": spec.name,
        "dataset": spec.task.dataset,
        "model": spec.task.model,
        "searched": list(spec.dimensions),
        "trials": spec.trials,
        "baselines": len(spec.baselines),
        "epochs": spec.training.epochs,
    }


def _print_table(rows: list[dict[str, Any]]) -> None:
    """Print columns of their own width: a path that is cut would be of no use."""
    cells = [("space", "data set", "model", "trials", "epochs", "searched")]
    cells += [
        (
            escaped(row["path"]),
            row["dataset"],
            row["model"],
            f"{row['trials']} + {row['baselines']}",
            str(row["epochs"]),
            ", ".join(row["searched"]),
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(padded).rstrip())  # noqa: T201
