"""Checks of what a user passes in: each error names the argument, its bound and the value."""

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch


def checked_radius(name: str, value: object) -> float:
    """A perturbation radius: finite and at least 0.

    Raises:
        TypeError: when `value` is not a real number.
        ValueError: when it is negative, infinite or NaN.
    """
    radius = _real(name, value)
    if not (math.isfinite(radius) and radius >= 0.0):
        raise ValueError(f"{name} must be a finite number >= 0, got {value!r}")
    return radius


def checked_group_radii(rho: object, groups: Sequence[Mapping[str, Any]]) -> float:
    """`rho`, once each parameter group's own ``"rho"`` has been checked too."""
    for position, group in enumerate(groups):
        if "rho" in group:
            checked_radius(f"rho of parameter group {position}", group["rho"])
    return checked_radius("rho", rho)


def checked_share(name: str, value: object) -> float:
    """A share in (0, 1].

    Raises:
        TypeError: when `value` is not a real number.
        ValueError: when it lies outside (0, 1] or is NaN.
    """
    share = _real(name, value)
    if not 0.0 < share <= 1.0:
        raise ValueError(f"{name} must lie in (0, 1], got {value!r}")
    return share


def checked_positive(name: str, value: object) -> float:
    """A finite number above 0.

    Raises:
        TypeError: when `value` is not a real number.
        ValueError: when it is not positive, infinite or NaN.
    """
    number = _real(name, value)
    if not (math.isfinite(number) and number > 0.0):
        raise ValueError(f"{name} must be a finite number > 0, got {value!r}")
    return number


def checked_count(name: str, value: object, *, at_least: int = 1) -> int:
    """An integer of `at_least` or more.

    Raises:
        TypeError: when `value` is not an integer.
        ValueError: when it is below `at_least`.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {value!r} ({type(value).__name__})")
    if value < at_least:
        raise ValueError(f"{name} must be >= {at_least}, got {value}")
    return value


def checked_flag(name: str, value: object) -> bool:
    """A truth value.

    Raises:
        TypeError: when `value` is not a bool (a string such as "false" would count as true).
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r} ({type(value).__name__})")
    return value


def checked_choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    """One of `choices`.

    Raises:
        ValueError: when `value` is none of them.
    """
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


def checked_losses(losses: object, *, expected: int | None, call: str) -> torch.Tensor:
    """The per-sample losses that a closure returned.

    Args:
        losses: what the closure returned.
        expected: the number of rows it was asked for; None when only the closure knows it.
        call: the call as it is named in an error, for instance ``closure(None)``.

    Raises:
        TypeError: when `losses` is not a floating-point tensor.
        ValueError: when it is not of shape (expected,), or holds no row.
    """
    if not isinstance(losses, torch.Tensor):
        raise TypeError(
            f"{call} must return a tensor of per-sample losses, got {type(losses).__name__}"
        )
    if losses.dim() != 1:
        raise ValueError(
            f"{call} must return per-sample losses of shape (n,), got shape {tuple(losses.shape)}; "
            "use reduction='none' and reduce all but the first dimension"
        )
    if not losses.is_floating_point():
        raise TypeError(f"{call} must return floating-point losses, got dtype {losses.dtype}")
    if losses.numel() == 0:
        raise ValueError(f"{call} must return at least 1 loss, got 0")
    if expected is not None and losses.numel() != expected:
        raise ValueError(
            f"{call} must return {expected} losses, one for each row it was given, "
            f"got {losses.numel()}"
        )
    return losses


def _real(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r} ({type(value).__name__})")
    return float(value)
