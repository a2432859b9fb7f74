"""``refine``: spend more seeds on a study's front."""

from __future__ import annotations

import argparse
from typing import Any

from esam_tune.cli.arguments import (
    EXIT_CODES,
    add_address,
    add_json,
    add_tracking_uri,
    add_verb,
    arguments_of,
    count,
    output_console,
    print_json,
)
from esam_tune.cli.worker_options import (
    add_awaited_workers,
    add_max_epoch_seconds,
    add_max_failures,
    add_worker_resources,
)


def add_parser(verbs: Any) -> None:
    """Add the verb and its options."""
    text = "run a study's front and baselines under more seeds, so that the luckiest does not win"
    parser = add_verb(verbs, "refine", run, text)
    parser.set_defaults(parser=parser)
    parser.add_argument("study", metavar="STUDY", help="name of the study")
    parser.add_argument(
        "--seeds",
        type=count,
        required=True,
        metavar="N",
        help="that each setting of the front is to have, those it has included",
    )
    add_worker_resources(parser)
    add_awaited_workers(parser)
    add_max_failures(parser)
    add_max_epoch_seconds(parser)
    add_address(parser)
    add_tracking_uri(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the verb; the exit code."""
    from esam_tune.cli.repetition import repetition
    from esam_tune.interface.requests import refine_request
    from esam_tune.study.closing import print_result
    from esam_tune.study.sweep import refine

    asked = refine_request(**arguments_of(refine_request, options))
    result = refine(asked.folder, asked.seeds, asked.options, asked.console)
    if options.json:
        print_json(result.document)
    else:
        again = repetition(options)
        print_result(result, output_console(), again.command, again.left_out)
    return EXIT_CODES[result.outcome]
