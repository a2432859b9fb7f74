"""What a search space is made of: ranges of numbers, and choices."""

import math
from dataclasses import dataclass

from esam_tune.domains import Value


@dataclass(frozen=True, kw_only=True)
class Range:
    """A numeric dimension, both ends included."""

    low: float
    high: float
    log: bool = False
    integer: bool = False

    def contains(self, value: object) -> bool:
        """Whether a parameter's value lies in the range."""
        return isinstance(value, int | float) and self.low <= value <= self.high

    def at(self, share: float) -> Value:
        """The value at a share of the range in [0, 1), on its own scale."""
        if self.integer:
            # Each integer has the same part of the range, on either scale.
            count = int(self.high - self.low) + 1
            if not self.log:
                return int(self.low) + min(int(share * count), count - 1)
            value = self.low * ((self.high + 1) / self.low) ** share
            return min(int(value), int(self.high))
        if self.log:
            return min(float(self.low * (self.high / self.low) ** share), self.high)
        return min(self.low + share * (self.high - self.low), self.high)

    def share(self, value: float) -> float:
        """How far up the range a value lies on its own scale: 0 at the low end, 1 at the high."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A dimension of a few values without order."""

    choices: tuple[Value, ...]

    def contains(self, value: object) -> bool:
        """Whether a parameter's value is one of them."""
        return value in self.choices

    def at(self, share: float) -> Value:
        """The choice at a share of the list in [0, 1)."""
        return self.choices[min(int(share * len(self.choices)), len(self.choices) - 1)]


Dimension = Range | Choice
