"""The command line: one thin module per verb.

Only what parsing needs is imported at the top; each verb imports the rest when it runs, so that
``--help`` and mistakes answer at once.
"""

from __future__ import annotations

import atexit
import gc
import io
import logging
import os
import select
import sys
from collections.abc import Sequence
from typing import TextIO

from esam_tune import __version__
from esam_tune.cli import pareto, refine, report, scale, spaces, sweep, sync, train, ui
from esam_tune.cli.arguments import DONE, FAILED, INTERRUPTED, STOPPED_CODES, WRONG_INPUT, Parser
from esam_tune.errors import InputError, RunFailedError, one_line
from esam_tune.study.process_end import process_of_a_command
from esam_tune.study.signals import Stopped

_log = logging.getLogger(__name__)


def build_parser() -> Parser:
    """The parser of all verbs."""
    parser = Parser(
        prog="esam-tune",
        description="Which ESAM settings give SAM's accuracy at the least cost?",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"esam-tune {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in (spaces, sweep, refine, pareto, report, sync, train, scale, ui):
        verb.add_parser(verbs)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; the exit code."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    # Or the interpreter's end goes through all of torch's objects, several times: half a command's
    # life where it is a short one.
    atexit.register(gc.freeze)
    try:
        options = build_parser().parse_args(arguments)
    except SystemExit as exit_:
        return int(exit_.code or 0)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file's name need not be UTF-8, nor a terminal speak it.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with process_of_a_command():
            code = int(options.run(options))
        # A full disk behind a redirection is noticed here, not while the interpreter ends.
        sys.stdout.flush()
    except InputError as error:
        _say(f"error: {error}")
        return WRONG_INPUT
    except RunFailedError as error:
        _say(one_line(str(error)))
        return FAILED
    except Stopped as stop:
        _say(f"{stop.signal.name} ended it before anything had begun that could be kept")
        return STOPPED_CODES[stop.signal]
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            # The reader has seen enough; the interpreter must not complain while it closes stdout.
            _discard(sys.stdout)
            return DONE
        # Whatever the user could have got wrong was refused with the argument's name: here a disk
        # is full, or a file or a connection is gone.
        _log.debug("refused by the system", exc_info=True)
        _say(f"stopped by the system: {one_line(str(error))}; see to it and repeat the command")
        try:
            sys.stdout.flush()
        except OSError:
            _discard(sys.stdout)
        return FAILED
    return code


def _say(message: str) -> None:
    print(f"esam-tune: {message}", file=sys.stderr)  # noqa: T201


def _reader_is_gone() -> bool:
    """Whether nobody reads what goes to stdout any more."""
    watched = select.poll()
    watched.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & select.POLLERR for _, event in watched.poll(0))


def _discard(stream: TextIO) -> None:
    """Let what a stream still holds, and could not get rid of, go nowhere."""
    if stream is sys.__stdout__:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
