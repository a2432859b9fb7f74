"""Why a run failed, in one line, and whether another attempt would end the same."""

from __future__ import annotations

import re
import socket

from esam_tune.errors import InputError

_MORE_MEMORY = "out of memory: use a smaller batch_size, precision bf16, or more workers a trial"
_REMEDY = _MORE_MEMORY.partition(": ")[2]
# What Ray says, in the midst of advice on its settings, of a process that it killed for the others
# on the node.
_KILLED_FOR_MEMORY = "running low on memory"
# The kernel's killer leaves no words: Ray names it as one cause among others.
_PERHAPS_KILLED_FOR_MEMORY = "OOM killer"
# Wrong input, a wrong call, a loss that is no number: the same from the same checkpoint. Whatever
# else there is may pass: a storage or a network that was gone, a device that failed, a worker that
# fails because another one did.
_REPEATED = (
    InputError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    TypeError,
    ValueError,
)
_REPEATED_BY_NAME = ("DivergedError",)
# How the reason of a run that diverged begins: with the error of the training, by its name since
# torch need not be imported here, behind the wrappers that early journals name with it; or, where
# the training went on to its end or to a rung, with the objective that lacks a number. The metrics
# do not tell: the training fails before it reports the epoch that it broke in, and a process may be
# lost after an epoch whose loss was infinite for a moment.
_DIVERGED = re.compile(r"(?:[\w.]+: )*(?:\w+\.)*DivergedError: |\w+ is not finite\b")


class RunFailure(RuntimeError):  # noqa: N818 - what it says is not an error of this program
    """The end of an attempt at a run.

    Args:
        reason: the whole of it, in one line.
        final: whether another attempt would end the same, so that none is made.
    """

    def __init__(self, reason: str, *, final: bool) -> None:
        super().__init__(reason)
        self.final = final

    def __reduce__(self) -> tuple[object, ...]:
        """Survive the trip from a worker process."""
        return _run_failure, (str(self), self.final)


def _run_failure(reason: str, final: bool) -> RunFailure:
    return RunFailure(reason, final=final)


def failure_of(error: BaseException, who: str = "") -> RunFailure:
    """The failure that an exception makes of an attempt.

    Args:
        error: that ended it.
        who: of the run's workers met it, to be said beside the node's name.
    """
    where = f"node {socket.gethostname()}"
    place = f"{who} on {where}" if who else where
    return RunFailure(f"{describe(error)} ({place})", final=would_repeat(error))


def would_repeat(error: BaseException) -> bool:
    """Whether another attempt from the same checkpoint would meet the same error."""
    # By name: torch need not be imported here.
    named = type(error).__name__ in _REPEATED_BY_NAME
    return named or isinstance(error, _REPEATED) or _out_of_memory(error)


def tells_divergence(reason: str) -> bool:
    """Whether the reason of a failed run is a value that was no number."""
    return _DIVERGED.match(reason) is not None


def describe(error: BaseException) -> str:
    """One line that says why a run failed, without the tracebacks that wrappers put into it."""
    cause = _innermost(error)
    text = str(cause)
    said = _gist(text)
    if not isinstance(cause, RunFailure) and said == _last_line(text):
        said = f"{type(cause).__name__}: {said or 'no message'}"
    return _with_remedy(said, text, out_of_memory=_out_of_memory(cause))


def described(text: str, longest: int | None = None) -> str:
    """What a traceback says at its end, that of a run's failure without its name; "" for none.

    Args:
        text: of the traceback.
        longest: characters of it that are given; a remedy is added behind them.
    """
    said = _gist(text)[:longest]
    return _with_remedy(said, text, out_of_memory=_tells_of_memory(text))


def _gist(text: str) -> str:
    # A group's other workers end of the loss of this one, and say so behind it.
    for line in text.splitlines():
        before, found, _ = line.partition(_KILLED_FOR_MEMORY)
        if found:
            return (before + found).strip()
    name, _, reason = _last_line(text).partition(": ")
    return reason if name.endswith(RunFailure.__name__) else _last_line(text)


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "").strip()


def _with_remedy(said: str, text: str, *, out_of_memory: bool) -> str:
    # A worker's reason comes by here again, in its group's error.
    if _REMEDY in said:
        return said
    if out_of_memory:
        return f"{said}; {_MORE_MEMORY}"
    if _PERHAPS_KILLED_FOR_MEMORY in text:
        return f"{said}; if memory ran out: {_REMEDY}"
    return said


def _innermost(error: BaseException) -> BaseException:
    """What the wrappers of Python, Ray's tasks and Ray Train's controller hold."""
    while True:
        known = (getattr(error, name, None) for name in ("cause", "controller_failure"))
        inner = next((e for e in (error.__cause__, *known) if isinstance(e, BaseException)), None)
        if inner is None:
            return error
        error = inner


def _out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: a GPU's, a node's as Ray guards it, or what the system gives."""
    # By name: torch and Ray each have a class of it, and neither need be imported here.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or _tells_of_memory(str(error))
    )


def _tells_of_memory(text: str) -> bool:
    return any(
        words in text for words in ("MemoryError", "can't allocate memory", _KILLED_FOR_MEMORY)
    )
