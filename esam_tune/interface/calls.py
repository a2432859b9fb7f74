"""How a call differs from a command: what mistakes are called, and what an interruption becomes."""

from __future__ import annotations

import functools
import inspect
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from esam_tune.errors import InputError
from esam_tune.study.signals import Stopped, raise_on_signals

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_OPTION = re.compile(r"--([a-z]+(?:-[a-z]+)*)")
# Options that the command line gives no value.
_SWITCHES = {"resume", "accuracy"}


def taking(request: Callable[P, R]) -> Callable[[Callable[[R], T]], Callable[P, T]]:
    """A function of what another function makes of its arguments, with that one's signature.

    Args:
        request: checks the arguments; the command line calls it with a verb's options.

    Returns:
        A decorator: of a function that acts on the request, it makes one that takes the arguments,
        and tells mistakes by their names.
    """

    signature = inspect.signature(request)

    def decorate(act: Callable[[R], T]) -> Callable[P, T]:
        @functools.wraps(act)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            with named_arguments(*signature.parameters):
                return act(request(*args, **kwargs))

        returned = inspect.signature(act).return_annotation
        call.__signature__ = signature.replace(return_annotation=returned)  # type: ignore[attr-defined]
        call.__doc__ = _explained(act, request)
        return call

    return decorate


def _explained(act: Callable[..., object], request: Callable[..., object]) -> str:
    """The docstring of one function with the arguments of another's."""
    said, _, ends = inspect.cleandoc(act.__doc__ or "").partition("\n\nReturns:")
    arguments = inspect.cleandoc(request.__doc__ or "").partition("Args:")[2]
    return f"{said}\n\nArgs:{arguments.partition('Raises:')[0].rstrip()}\n\nReturns:{ends}"


@contextmanager
def named_arguments(*names: str) -> Iterator[None]:
    """Let a mistake be told in the words of a call: ``max_concurrent`` for ``--max-concurrent``.

    Args:
        names: of the call's arguments; other options, such as those of Ray's commands, stay.
    """

    def respelled(text: str) -> str:
        return _OPTION.sub(lambda found: _argument(found, names), text)

    try:
        yield
    except InputError as error:
        raise InputError(*map(respelled, (error.field, error.problem, error.remedy))) from None


def _argument(option: re.Match[str], names: Sequence[str]) -> str:
    name = option[1].replace("-", "_")
    if name not in names:
        return option[0]
    return f"{name}=True" if name in _SWITCHES else name


@contextmanager
def interruptible(what: str) -> Iterator[None]:
    """Let SIGINT and SIGTERM end the block in order, and then mean what they mean to the caller.

    Args:
        what: is interrupted, for the message.

    Raises:
        KeyboardInterrupt: then; a SIGTERM without a handler of the caller's ends the process.
    """
    try:
        with raise_on_signals():
            yield
    except Stopped as stop:
        pass_on(stop.signal, f"{stop.signal.name} ended {what}")


def pass_on(received: signal.Signals, message: str) -> None:
    """Give the caller a signal that was held back while work was saved.

    Raises:
        KeyboardInterrupt: with the message; after the caller's own handler of SIGTERM, where that
            returns.
    """
    if received is signal.SIGTERM:
        signal.raise_signal(received)
    raise KeyboardInterrupt(message)
