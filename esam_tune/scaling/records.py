"""What a scaling study plans to time and what it brings back, in plain values that travel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

_SMALL = 4096  # bytes: of a message of this size latency is nearly all

Kind = Literal["step", "local_step", "all_reduce"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One thing to time: a method on a count of workers.

    Args:
        method: key of the method.
        workers: k, the first k ranks take part.
        rows: of each worker's share of a batch.
        settings: settings document of this method at this count.
    """

    method: str
    workers: int
    rows: int
    settings: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole measurement, in plain values that travel to another process.

    Args:
        cells: what is timed; for every method one with ``workers`` = 1 is among them.
        rounds: times that each cell is measured, in another order each time.
        steps: least count of timed steps of a cell in a round.
        seed: fixes the orders and the batches.
    """

    cells: Sequence[Cell]
    rounds: int
    steps: int
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as :meth:`from_dict` reads them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Plan:
        """The plan that ``to_dict`` wrote."""
        return cls(**{**document, "cells": [Cell(**cell) for cell in document["cells"]]})


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The time of one block of steps or all-reduces in one round.

    Args:
        kind: ``step`` all-reduces its gradients, ``local_step`` leaves that out, ``all_reduce``
            is that alone.
        round: from 0.
        workers: that took part.
        seconds: mean of the steps, or median of the all-reduces of all messages; mean over workers.
        method: of a step.
        rows: of each worker in a step.
        message_bytes: of each message of an all-reduce.
    """

    kind: Kind
    round: int
    workers: int
    seconds: float
    method: str = ""
    rows: int = 0
    message_bytes: Sequence[int] = ()


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What one step of a method sends, and when.

    Args:
        message_bytes: size of each bucket of gradients, in the order sent.
        lead_seconds: from when a bucket is ready to when the last one is, in the last backward
            pass of one worker: the time that could hide its all-reduce. The last entry is 0.
    """

    message_bytes: Sequence[int]
    lead_seconds: Sequence[float]


@dataclass(kw_only=True)
class Measurement:
    """What the first rank brings back.

    Args:
        samples: of all rounds.
        traffic: of each method.
        device: name of the device, in words.
        backend: that all-reduces, as torch names it.
    """

    samples: list[Sample] = field(default_factory=list)
    traffic: dict[str, Traffic] = field(default_factory=dict)
    device: str = "cpu"
    backend: str = "gloo"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as :meth:`from_dict` reads them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Measurement:
        """The measurement that ``to_dict`` wrote."""
        return cls(
            **{
                **document,
                "samples": [Sample(**sample) for sample in document["samples"]],
                "traffic": {key: Traffic(**value) for key, value in document["traffic"].items()},
            }
        )


def message_sets(step: Sequence[int]) -> list[tuple[int, ...]]:
    """A step's messages, and single ones of other sizes, to tell latency from bandwidth."""
    total = sum(step)
    sizes = {max(_SMALL, total // share) for share in (1, 4, 16)} | {_SMALL, 16 * _SMALL}
    return [tuple(step), *sorted({(size,) for size in sizes} - {tuple(step)})]
