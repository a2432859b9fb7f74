"""The command line: one thin module per verb.

Only what parsing needs is imported at the top; each verb imports the rest when it runs, so that
``--help`` and mistakes answer at once.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from esam_tune import __version__
from esam_tune.cli import pareto, refine, scale, spaces, sweep, sync, train, ui
from esam_tune.cli.arguments import DONE, FAILED, INTERRUPTED, WRONG_INPUT, Parser
from esam_tune.errors import InputError, RunFailedError


def build_parser() -> Parser:
    """The parser of all verbs."""
    parser = Parser(
        prog="esam-tune",
        description="Which ESAM settings give SAM's accuracy at the least cost?",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"esam-tune {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in (spaces, sweep, refine, pareto, sync, train, scale, ui):
        verb.add_parser(verbs)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; the exit code."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    try:
        options = build_parser().parse_args(arguments)
    except SystemExit as exit_:
        return int(exit_.code or 0)
    try:
        return int(options.run(options))
    except InputError as error:
        print(f"esam-tune: error: {error}", file=sys.stderr)  # noqa: T201
        return WRONG_INPUT
    except RunFailedError as error:
        print(f"esam-tune: {error}", file=sys.stderr)  # noqa: T201
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has seen enough; the interpreter must not complain while it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
