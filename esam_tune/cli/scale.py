"""``scale``: how a setting scales over workers, beside SGD and SAM."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esam_tune.cli.arguments import (
    DONE,
    STOPPED_CODES,
    add_address,
    add_json,
    add_tracking_uri,
    add_verb,
    arguments_of,
    count,
    integer,
    print_json,
)
from esam_tune.cli.worker_options import add_awaited_workers, add_worker_resources
from esam_tune.domains import ROUNDS, WORKERS_AHEAD
from esam_tune.worker_scaling import LR_RULES

if TYPE_CHECKING:
    from rich.console import Console

_rounds, _predict_to = integer(ROUNDS), integer(WORKERS_AHEAD)


def add_parser(verbs: Any) -> None:
    """Add the verb and its options."""
    parser = add_verb(
        verbs, "scale", run, "measure and predict how a settings file scales over workers"
    )
    parser.add_argument("settings", type=Path, metavar="SETTINGS", help="settings file (YAML)")
    parser.add_argument(
        "--workers", type=_counts, required=True, metavar="1,2,4", help="counts to measure"
    )
    parser.add_argument(
        "--mode",
        choices=["strong", "weak"],
        default="strong",
        help="share one batch out, or give each worker one of its own (default: strong)",
    )
    parser.add_argument(
        "--lr-rule",
        choices=LR_RULES,
        help="how the learning rate follows the batch (default: linear if weak)",
    )
    parser.add_argument("--name", help="of the study (default: the mode and a count)")
    parser.add_argument(
        "--rounds", type=_rounds, default=10, metavar="N", help="measurements (default: 10)"
    )
    parser.add_argument(
        "--steps", type=count, default=20, metavar="N", help="of each, timed (default: 20)"
    )
    parser.add_argument(
        "--accuracy", action="store_true", help="train to the end at every count (validation)"
    )
    parser.add_argument(
        "--predict-to", type=_predict_to, default=1024, metavar="N", help="default: 1024"
    )
    parser.add_argument(
        "--network",
        metavar="latency=20us,bandwidth=10Gbit",
        help="predict for this network too: of a message and of one worker's link",
    )
    add_worker_resources(parser)
    add_awaited_workers(parser)
    add_address(parser)
    add_tracking_uri(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the verb; the exit code."""
    from rich.console import Console

    from esam_tune.interface.scaling_runs import scale_request
    from esam_tune.scaling.study import scale
    from esam_tune.study.signals import Stopped, raise_on_signals

    asked = scale_request(**arguments_of(scale_request, options))
    try:
        with raise_on_signals():
            document = scale(asked.settings, asked.options, asked.console.print)
    except Stopped as stop:
        asked.console.print(f"esam-tune: {stop.signal.name} ended the scaling study")
        return STOPPED_CODES[stop.signal]
    if options.json:
        print_json(document)
    else:
        _print(document, Console(highlight=False, markup=False, soft_wrap=True))
    return DONE


def _counts(text: str) -> list[int]:
    try:
        return [count(part.strip()) for part in text.split(",")]
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, as in 1,2,4") from None


def _print(document: dict[str, Any], console: Console) -> None:
    from esam_tune.scaling.tables import print_study

    print_study(document, console)
