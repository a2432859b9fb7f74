"""A network as a user describes it: ``latency=20us,bandwidth=10Gbit``."""

from __future__ import annotations

import re

from esam_tune.errors import InputError
from esam_tune.scaling.communication import Network

EXAMPLE = "latency=20us,bandwidth=10Gbit"

_OPTION = "--network"
_REMEDY = f"write it like {EXAMPLE}"
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_BYTES_PER_SECOND = {"Mbit": 1e6 / 8, "Gbit": 1e9 / 8, "MB": 1e6, "GB": 1e9}


def described_network(text: object) -> Network:
    """The network of a text.

    Args:
        text: latency of a message and bandwidth of one worker's link, each with its unit.

    Raises:
        InputError: naming ``--network``.
    """
    parts = str(text).split(",") if isinstance(text, str) else []
    given = dict(part.partition("=")[::2] for part in parts)
    if given.keys() != {"latency", "bandwidth"} or len(parts) != 2:
        raise InputError(_OPTION, f"must name latency and bandwidth, got {text!r}", _REMEDY)
    latency = _quantity("latency", given["latency"], _SECONDS)
    bandwidth = _quantity("bandwidth", given["bandwidth"], _BYTES_PER_SECOND)
    if bandwidth <= 0:
        raise InputError(_OPTION, f"bandwidth must be > 0, got {given['bandwidth']!r}", _REMEDY)
    return Network(latency=latency, seconds_per_byte=1 / bandwidth)


def _quantity(name: str, text: str, units: dict[str, float]) -> float:
    parts = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([A-Za-z]+)", text)
    if parts is None or parts[2] not in units:
        problem = f"{name} must be a number with one of {', '.join(units)}, got {text!r}"
        raise InputError(_OPTION, problem, _REMEDY)
    return float(parts[1]) * units[parts[2]]
