"""Errors that the command line answers with one line: wrong input, and a run that failed."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Input that cannot be used: names the field, the bound, the value and the remedy.

    The command line prints the message alone and exits with code 2.

    Args:
        field: dotted name of what is wrong, such as ``search.beta.low`` or ``--trials``.
        problem: the bound that is violated and the value that was received.
        remedy: what to do about it.
    """

    def __init__(self, field: str, problem: str, remedy: str) -> None:
        # One line, whatever the user's text holds.
        super().__init__(" ".join(f"{field}: {problem}; {remedy}".split()))
        self.field = field
        self.problem = problem
        self.remedy = remedy

    def __reduce__(self) -> tuple[type["InputError"], tuple[str, str, str]]:
        """Survive the trip from a worker process (the message alone would not rebuild it)."""
        return InputError, (self.field, self.problem, self.remedy)


class RunFailedError(RuntimeError):
    """A run that was rightly asked for did not reach its end; exit code 1."""


def choose_from(known: Iterable[str], received: object) -> str:
    """Remedy for an unknown name: the nearest known one, or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(str(received), names, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return "choose from " + ", ".join(names)
