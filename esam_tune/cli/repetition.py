"""A verb's command written out again, so that an interrupted study can be gone on with."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import dataclass
from typing import Any

from esam_tune.study.preflight import workers_text
from esam_tune.tracking.store import without_credentials

# Options whose value may hold a password, and how else that gets to a command.
_ADDRESSES = {
    "--tracking-uri": "set MLFLOW_TRACKING_URI to it",
    "--optuna-storage": "add it, or give the password as the database's own client takes it",
}


@dataclass(frozen=True, kw_only=True)
class Repetition:
    """A command for a shell.

    Args:
        command: the verb with its arguments, ``--storage`` aside.
        left_out: options that would show a password, and what to do about each, in words.
    """

    command: str
    left_out: tuple[str, ...]


def repetition(options: argparse.Namespace, **changes: Any) -> Repetition:
    """The command that a verb was called with.

    It is written anew from what was understood, whoever called: arguments that say what holds
    anyway are not in it, nor is one that a later one took the place of.

    Args:
        options: of the verb, whose ``parser`` is among them.
        changes: argument -> what it is to be instead.
    """
    parser: argparse.ArgumentParser = options.parser
    given = {**vars(options), **changes}
    words, left_out = [parser.prog.rpartition(" ")[2]], []
    for action in parser._actions:
        value = given.get(action.dest, action.default)
        if action.dest == "storage" or value == action.default:
            continue
        if not action.option_strings:
            # In front of the options, and not to be taken for one of them.
            words.insert(1, f"./{value}" if str(value).startswith("-") else str(value))
            continue
        option = action.option_strings[0]
        if option in _ADDRESSES and without_credentials(value) != value:
            left_out.append(
                f"{option} is left out for what may be a password: {_ADDRESSES[option]}"
            )
        elif action.nargs == 0:
            words.append(option)
        else:
            for one in value if isinstance(value, list) else [value]:
                text = _as_typed(one)
                words += [f"{option}={text}"] if text.startswith("-") else [option, text]
    return Repetition(command=shlex.join(words), left_out=tuple(left_out))


def _as_typed(value: Any) -> str:
    if isinstance(value, tuple):
        return workers_text(*value)
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
