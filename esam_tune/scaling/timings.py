"""The times of all rounds by what they are of, and their medians."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from esam_tune.scaling.records import Kind, Sample


class Timed(NamedTuple):
    """What a time is of; see :class:`Sample`."""

    kind: Kind
    workers: int
    method: str = ""
    rows: int = 0
    message_bytes: tuple[int, ...] = ()


Medians = Mapping[Timed, float]


class Timings:
    """The times of all rounds.

    Args:
        samples: of every round the same things.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        times: dict[Timed, dict[int, float]] = {}
        for sample in samples:
            timed = Timed(
                sample.kind, sample.workers, sample.method, sample.rows, tuple(sample.message_bytes)
            )
            times.setdefault(timed, {})[sample.round] = sample.seconds
        self.keys = sorted(times)
        rounds = sorted({sample.round for sample in samples})
        self._times: NDArray[np.float64] = np.array(
            [[times[key][number] for key in self.keys] for number in rounds]
        )

    @property
    def rounds(self) -> int:
        """Count of rounds."""
        return len(self._times)

    def medians(self, rounds: Sequence[int] | None = None) -> dict[Timed, float]:
        """Median of each time over all rounds, or over the given ones, repetitions counted."""
        chosen = self._times if rounds is None else self._times[np.asarray(rounds)]
        return dict(zip(self.keys, np.median(chosen, axis=0).tolist(), strict=True))
