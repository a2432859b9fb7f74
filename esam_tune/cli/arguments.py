"""What the verbs' arguments share: the parser, number and address options, JSON output."""

from __future__ import annotations

import argparse
import inspect
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from esam_tune.domains import COUNT, SEED, Domain
from esam_tune.errors import UNWANTED, InputError, choose_from, one_line

if TYPE_CHECKING:
    from rich.console import Console

DONE, FAILED, WRONG_INPUT, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
# By what came of a study.
EXIT_CODES = {
    "done": DONE,
    "failed": FAILED,
    "interrupted": INTERRUPTED,
    "terminated": TERMINATED,
}

# By what a command was stopped.
STOPPED_CODES = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}

_PIPE_WIDTH = 120  # columns, where there is no terminal to ask

Run = Callable[[argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    """Answers a mistake with one line on stderr and exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Print the mistake and exit."""
        self.exit(WRONG_INPUT, f"{self.prog}: error: {one_line(message)}\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Answer an unknown argument with the nearest known one."""
        known, rest = super().parse_known_args(args, namespace)
        if rest:
            options = [option for action in self._actions for option in action.option_strings]
            remedy = choose_from(options, rest[0]) if rest[0].startswith("-") else "remove it"
            self.error(f"{rest[0]}: unknown argument; {remedy}")
        return known, rest


def integer(domain: Domain) -> Callable[[str], int]:
    """Parser of an option that takes a whole number within a domain."""

    def parse(text: str) -> int:
        digits = text.isascii() and text.isdigit() and len(text) < 20
        try:
            return int(domain.check("", int(text) if digits else text))
        except InputError as error:
            raise argparse.ArgumentTypeError(f"{error.problem}; {error.remedy}") from None

    return parse


count, seed = integer(COUNT), integer(SEED)
port = integer(Domain(kind=int, low=1, high=65535))


def bound(text: str) -> tuple[str, float]:
    """Parse ``METRIC=NUMBER``."""
    metric, equals, number = text.partition("=")
    try:
        value = float(number)
    except ValueError:
        value = float("nan")
    if not equals or value != value or value in (float("inf"), float("-inf")):
        raise argparse.ArgumentTypeError(
            f"must be METRIC=NUMBER such as step_flops_ratio=1.4, got {text!r}"
        )
    return metric, value


def shown_path(text: str) -> Path:
    """Parse a path that is printed, and goes into addresses: text that a terminal can show."""
    if UNWANTED.search(text):
        raise argparse.ArgumentTypeError(
            f"must be UTF-8 text without control characters, got {text!r}"
        )
    return Path(text)


def storage(text: str) -> Path:
    """Parse a storage folder, which must outlive a job that runs in a copy of its upload."""
    folder = shown_path(text)
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and not folder.is_absolute():
        raise argparse.ArgumentTypeError(
            f"must be absolute in a Ray job, whose working directory is removed after it, "
            f"got {text!r}; give a folder of the head node or a shared one"
        )
    return folder


def add_verb(verbs: Any, name: str, run: Run, text: str) -> Parser:
    """A verb's own parser, with the option every verb has."""
    made: Parser = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
    made.set_defaults(run=run)
    made.add_argument(
        "--storage",
        type=storage,
        default="runs",
        metavar="DIR",
        help="folder of all studies (default: runs)",
    )
    return made


def add_address(parser: Parser) -> None:
    """Add ``--address``."""
    parser.add_argument("--address", metavar="RAY", help="HOST:PORT or auto: a running Ray cluster")


def add_tracking_uri(parser: Parser) -> None:
    """Add ``--tracking-uri``."""
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="of MLflow (default: $MLFLOW_TRACKING_URI, or mlflow.db in --storage)",
    )


def add_json(parser: Parser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout")


def tracking_uri(options: argparse.Namespace) -> str | None:
    """The chosen MLflow address, or None for the store inside the storage."""
    from esam_tune.tracking.store import asked_uri

    return asked_uri(options.tracking_uri)


def arguments_of(request: Callable[..., object], options: argparse.Namespace) -> dict[str, Any]:
    """What the options say of a request's arguments, which have their names.

    Args:
        request: a function of :mod:`esam_tune.interface.requests`, or one like them.
        options: of the verb.
    """
    names = inspect.signature(request).parameters
    return {name: getattr(options, name) for name in names if hasattr(options, name)}


def output_console() -> Console:
    """Where results go: stdout, with room for the tables where it is no terminal."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    return Console(highlight=False, markup=False, width=width)


def print_json(document: Any) -> None:
    """Print the one JSON document that stdout holds with ``--json``."""
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")
    sys.stdout.flush()
