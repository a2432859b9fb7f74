"""The ``search`` section of a space file: fixed parameters, ranges and choices."""

from collections.abc import Mapping
from typing import Any

from esam_tune.config import HYPERPARAMETERS, OPTIMIZERS, PARAMETERS
from esam_tune.domains import Domain, Value, check_keys
from esam_tune.errors import InputError
from esam_tune.study.spec import Choice, Dimension, Range


def search_section(section: object) -> tuple[dict[str, Value], dict[str, Dimension]]:
    """Check the section.

    Returns:
        The parameters that are the same in every trial, and those that are searched.

    Raises:
        InputError: naming the field, the bound, the value and the remedy.
    """
    check_keys("search", section, PARAMETERS, ["optimizer"])
    assert isinstance(section, Mapping)
    fixed: dict[str, Value] = {}
    dimensions: dict[str, Dimension] = {}
    for key, entry in section.items():
        if isinstance(entry, Mapping):
            dimensions[key] = _dimension(f"search.{key}", PARAMETERS[key], entry)
        else:
            fixed[key] = PARAMETERS[key].check(f"search.{key}", entry)
    if not dimensions:
        raise InputError(
            "search",
            "needs at least one parameter with a range or choices, got only fixed values",
            "give one, such as `rho: {low: 0.01, high: 1.0, log: true}`",
        )
    choice = dimensions.get("optimizer")
    names = choice.choices if isinstance(choice, Choice) else (fixed["optimizer"],)
    read = {key for name in names for key in OPTIMIZERS[str(name)].defaults}
    for key in section:
        if key in HYPERPARAMETERS and key not in read:
            raise InputError(
                f"search.{key}",
                f"is not read by {', '.join(map(str, names))}",
                "remove it or search an optimizer that reads it",
            )
    return fixed, dimensions


def _dimension(field: str, domain: Domain, entry: Mapping[str, Any]) -> Dimension:
    if "choices" in entry:
        check_keys(field, entry, ["choices"], ["choices"])
        values = entry["choices"]
        if not isinstance(values, list) or not values:
            raise InputError(
                f"{field}.choices", f"must be a list of values, got {values!r}", "write [a, b]"
            )
        checked = tuple(domain.check(f"{field}.choices", value) for value in values)
        if len(set(checked)) < len(checked):
            raise InputError(f"{field}.choices", f"holds a value twice, got {values!r}", "drop it")
        return Choice(choices=checked)
    if domain.kind not in (int, float):
        raise InputError(
            field, f"has no order, so it takes choices, got {dict(entry)!r}", "write choices: [..]"
        )
    check_keys(field, entry, ["low", "high", "log"], ["low", "high"])
    low = float(domain.check(f"{field}.low", entry["low"]))
    high = float(domain.check(f"{field}.high", entry["high"]))
    log = entry.get("log", False)
    if not isinstance(log, bool):
        raise InputError(f"{field}.log", f"must be true or false, got {log!r}", "write log: true")
    if low >= high:
        raise InputError(
            f"{field}.low", f"must be below high = {high:g}, got {low:g}", "swap or widen the range"
        )
    if log and low <= 0:
        raise InputError(
            f"{field}.low", f"must be > 0 on a log scale, got {low:g}", "raise low or drop log"
        )
    return Range(low=low, high=high, log=log, integer=domain.kind is int)
