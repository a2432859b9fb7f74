"""``scale``: how a setting scales over workers, beside SGD and SAM."""

from __future__ import annotations

import argparse
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esam_tune.cli.arguments import (
    DONE,
    INTERRUPTED,
    TERMINATED,
    add_address,
    add_json,
    add_tracking_uri,
    add_verb,
    count,
    integer,
    print_json,
    tracking_uri,
)
from esam_tune.cli.worker_options import add_worker_resources, worker_shape
from esam_tune.domains import Domain
from esam_tune.worker_scaling import LR_RULES

if TYPE_CHECKING:
    from rich.console import Console

    from esam_tune.scaling.communication import Network

_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_BYTES_PER_SECOND = {"Mbit": 1e6 / 8, "Gbit": 1e9 / 8, "MB": 1e6, "GB": 1e9}
_EXAMPLE = "latency=20us,bandwidth=10Gbit"

# With fewer rounds there is nothing to draw intervals from.
_rounds = integer(Domain(kind=int, low=3))
_predict_to = integer(Domain(kind=int, low=1, high=65536))


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
        type=_network,
        metavar=_EXAMPLE,
        help="predict for this network too: of a message and of one worker's link",
    )
    add_worker_resources(parser)
    add_address(parser)
    add_tracking_uri(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the verb; the exit code."""
    from rich.console import Console

    from esam_tune.config import trial_settings
    from esam_tune.scaling.study import ScaleOptions, default_name, scale
    from esam_tune.study.signals import Stopped, raise_on_signals
    from esam_tune.study.space import check_name
    from esam_tune.yaml_file import read_yaml

    settings = trial_settings(read_yaml(options.settings, "SETTINGS"))
    progress = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    name = options.name or default_name(options.storage, options.mode)
    how = ScaleOptions(
        storage=options.storage,
        name=check_name("--name", name),
        workers=options.workers,
        mode=options.mode,
        lr_rule=options.lr_rule,
        rounds=options.rounds,
        steps=options.steps,
        predict_to=options.predict_to,
        network=options.network,
        accuracy=options.accuracy,
        shape=worker_shape(options),
        tracking_uri=tracking_uri(options),
        address=options.address,
    )
    try:
        with raise_on_signals():
            document = scale(settings, how, progress.print)
    except Stopped as stop:
        progress.print(f"esam-tune: {stop.signal.name} ended the scaling study")
        return TERMINATED if stop.signal is signal.SIGTERM else INTERRUPTED
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


def _network(text: str) -> Network:
    from esam_tune.scaling.communication import Network

    given = dict(part.partition("=")[::2] for part in text.split(","))
    if given.keys() != {"latency", "bandwidth"} or text.count(",") != 1:
        raise argparse.ArgumentTypeError(f"must be like {_EXAMPLE}, got {text!r}")
    latency = _quantity("latency", given["latency"], _SECONDS)
    bandwidth = _quantity("bandwidth", given["bandwidth"], _BYTES_PER_SECOND)
    if bandwidth <= 0:
        raise argparse.ArgumentTypeError(f"bandwidth must be > 0, got {given['bandwidth']!r}")
    return Network(latency=latency, seconds_per_byte=1 / bandwidth)


def _quantity(name: str, text: str, units: dict[str, float]) -> float:
    parts = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([A-Za-z]+)", text)
    if parts is None or parts[2] not in units:
        raise argparse.ArgumentTypeError(
            f"{name} must be a number with one of {', '.join(units)}, got {text!r}"
        )
    return float(parts[1]) * units[parts[2]]


def _print(document: dict[str, Any], console: Console) -> None:
    from esam_tune.scaling.tables import print_study

    print_study(document, console)
