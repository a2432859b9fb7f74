"""Errors that the command line answers with one line: wrong input, and a run that failed."""

import difflib
import re
from collections.abc import Iterable

# What no text holds that is meant to be read: terminals act on control characters, what is between
# bidirectional overrides reads in another order than it stands, and UTF-8 has no lone surrogates.
UNWANTED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)
_FIELD_LENGTH = 200
_TEXT_LENGTH = 1000


def escaped(text: str) -> str:
    """Text as a terminal may show it: what is not meant to be read is spelled out.

    A name from elsewhere could otherwise colour a terminal, retitle it, or write over what stands
    above.
    """
    return UNWANTED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(text: str, most: int = _TEXT_LENGTH) -> str:
    """Text on one line of a message, escaped, and its middle left out where it is longer."""
    line = escaped(" ".join(text.split()))
    if len(line) <= most:
        return line
    end = most // 4
    return f"{line[: most - end]} [...] {line[-end:]}"


class InputError(ValueError):
    """Input that cannot be used: names the field, the bound, the value and the remedy.

    The command line prints the message alone and exits with code 2.

    Args:
        field: dotted name of what is wrong, such as ``search.beta.low`` or ``--trials``.
        problem: the bound that is violated and the value that was received.
        remedy: what to do about it.
    """

    def __init__(self, field: str, problem: str, remedy: str) -> None:
        # One line of a length to read, whatever the user's text holds.
        shown = one_line(field, _FIELD_LENGTH), one_line(problem), one_line(remedy)
        super().__init__("{}: {}; {}".format(*shown))
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
