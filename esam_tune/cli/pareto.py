"""``pareto``: front, constraints and pick of a stored study, or of several together."""

from __future__ import annotations

import argparse
from typing import Any

from esam_tune.cli.arguments import (
    DONE,
    add_json,
    add_verb,
    arguments_of,
    bound,
    output_console,
    print_json,
    shown_path,
)


def add_parser(verbs: Any) -> None:
    """Add the verb and its options."""
    parser = add_verb(
        verbs,
        "pareto",
        run,
        "recompute front, constraints and pick of a stored study, or of several on one front",
    )
    parser.add_argument("studies", nargs="+", metavar="STUDY", help="name of a study")
    for option, text in (("--max", "at most"), ("--min", "at least")):
        parser.add_argument(
            option,
            type=bound,
            action="append",
            default=[],
            metavar="METRIC=VALUE",
            help=f"only trials with {text} this value; repeatable",
        )
    parser.add_argument(
        "--pick", choices=["accuracy", "cost", "knee"], default="knee", help="default: knee"
    )
    parser.add_argument(
        "--export", type=shown_path, metavar="FILE", help="write the pick's settings (*.yaml)"
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the verb; the exit code."""
    from esam_tune.interface.fronts import front_of, front_request

    given = arguments_of(front_request, options)
    bounds = {"max": dict(options.max), "min": dict(options.min)}
    names = given.pop("studies")
    comparison = front_of(front_request(*names, **{**given, **bounds}))
    if options.json:
        print_json(comparison.document())
        return DONE
    console = output_console()
    if comparison.picked is None:
        console.print(comparison.verdict())
        return DONE
    console.print(comparison.table())
    console.print(f"\n* {comparison.verdict()}", soft_wrap=True)
    if options.export is not None:
        console.print(f"settings: {options.export}", soft_wrap=True)
    return DONE
