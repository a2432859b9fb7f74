"""What a value of a file or of the command line may be: its type and bounds, spelled once."""

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from esam_tune.errors import UNWANTED, InputError, choose_from

Value = float | int | str | bool


@dataclass(frozen=True, kw_only=True)
class Domain:
    """The values one parameter may take."""

    kind: type[float] | type[int] | type[bool] | type[str]
    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False
    choices: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The bound as a reader of an error message wants it."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.kind is bool:
            return "true or false"
        if self.kind is str:
            return "a text that is not empty"
        what = "an integer" if self.kind is int else "a number"
        if math.isinf(self.low) and math.isinf(self.high):
            return what
        if math.isinf(self.high):
            return f"{what} {'>' if self.low_open else '>='} {self.low:.10g}"
        left, right = "(" if self.low_open else "[", ")" if self.high_open else "]"
        return f"{what} in {left}{self.low:.10g}, {self.high:.10g}{right}"

    def check(self, name: str, value: object) -> Value:
        """Return ``value`` in this domain's type.

        Raises:
            InputError: when it has another type or lies out of bounds.
        """
        if self.choices:
            if not isinstance(value, str) or value not in self.choices:
                raise InputError(
                    name, f"must be {self}, got {value!r}", choose_from(self.choices, value)
                )
            return value
        if self.kind is bool:
            if not isinstance(value, bool):
                raise InputError(name, f"must be {self}, got {value!r}", "write true or false")
            return value
        if self.kind is str and isinstance(value, str) and value.strip():
            if UNWANTED.search(value):
                raise InputError(
                    name, f"must hold no control characters, got {value!r}", "retype it"
                )
            return value
        numeric = self.kind is not str and not isinstance(value, bool)
        if numeric and isinstance(value, int | float):
            number = _as_float(value)
            fits = self.kind is float or number.is_integer()
            if fits and self._contains(number):
                return int(value) if self.kind is int else number
        raise InputError(name, f"must be {self}, got {value!r}", f"set it to {self}")

    def _contains(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return above and below


def _as_float(value: float) -> float:
    """The number as a float; an integer too large for one is infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


POSITIVE = Domain(kind=float, low=0.0, low_open=True)
NOT_NEGATIVE = Domain(kind=float, low=0.0)
SHARE = Domain(kind=float, low=0.0, high=1.0, low_open=True)
# Beyond any trials, epochs, rows or workers there will be, and small enough to calculate with.
COUNT = Domain(kind=int, low=1, high=1_000_000)
SEED = Domain(kind=int, low=0, high=2**31 - 1)
# With fewer rounds of a measurement there is nothing to draw intervals from.
ROUNDS = Domain(kind=int, low=3)
WORKERS_AHEAD = Domain(kind=int, low=1, high=65536)
RESTARTS = Domain(kind=int, low=0, high=1_000_000)


def check_keys(name: str, received: object, known: Iterable[str], required: Iterable[str]) -> None:
    """Require a mapping with no unknown and no missing key.

    Raises:
        InputError: naming the first offending key and the nearest known one.
    """
    prefix = f"{name}." if name else ""
    known = tuple(known)
    if not isinstance(received, Mapping):
        raise InputError(
            name or "file", f"must be a mapping, got {received!r}", "write `key: value` lines"
        )
    for key in received:
        if key not in known:
            raise InputError(f"{prefix}{key}", "unknown key", choose_from(known, key))
    for key in required:
        if key not in received:
            raise InputError(f"{prefix}{key}", "required but missing", f"add `{key}: ...`")


def check_places(document: object, sections: Mapping[str, Iterable[str]]) -> None:
    """Require that no key of a document stands in another section than its own.

    Keys that no section has, and whatever else may be wrong, are left to the sections' own checks.

    Args:
        document: with its sections.
        sections: the keys of each by its name; those of the document itself by the empty name.

    Raises:
        InputError: naming the first such key and where it belongs.
    """
    if not isinstance(document, Mapping):
        return
    known = {name: tuple(keys) for name, keys in sections.items()}
    for name, keys in known.items():
        received = document.get(name) if name else document
        for key in received if isinstance(received, Mapping) else ():
            places = [place for place, others in known.items() if key in others]
            if name in places or not places:
                continue
            # It may as well be a slip of the pen in the right section.
            near = difflib.get_close_matches(str(key), keys, n=1)
            meant = [repr(_dotted(name, other)) for other in near]
            meant += [
                repr(_dotted(place, key)) if place else f"{key!r} outside of {name}"
                for place in places
            ]
            raise InputError(
                _dotted(name, key), "unknown key", f"did you mean {' or '.join(meant)}?"
            )


def _dotted(section: str, key: str) -> str:
    return f"{section}.{key}" if section else key
