"""The ``search`` section of a space file: fixed parameters, ranges, choices and conditions."""

from collections.abc import Iterable, Mapping
from typing import Any

from esam_tune.config import HYPERPARAMETERS, OPTIMIZERS, PARAMETERS
from esam_tune.domains import Domain, Value, check_keys
from esam_tune.errors import InputError
from esam_tune.study.conditions import Condition, in_order
from esam_tune.study.dimensions import Choice, Dimension, Range

_CONDITION = ("when", "default")


def search_section(
    section: object,
) -> tuple[dict[str, Value], dict[str, Dimension], dict[str, Condition]]:
    """Check the section.

    Returns:
        The parameters that are the same in every trial, those that are searched, and of these the
        conditions under which they are.

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
    entries = {key: section[key] for key in dimensions}
    return fixed, dimensions, _conditions(fixed, dimensions, entries)


def _conditions(
    fixed: Mapping[str, Value],
    dimensions: Mapping[str, Dimension],
    entries: Mapping[str, Mapping[str, Any]],
) -> dict[str, Condition]:
    conditions: dict[str, Condition] = {}
    for key, entry in entries.items():
        field = f"search.{key}"
        if "when" not in entry:
            if "default" in entry:
                raise InputError(
                    f"{field}.default",
                    "is the value where the parameter is not searched, and there is no `when`",
                    "remove it, or say when the parameter is searched",
                )
            continue
        if key == "optimizer":
            raise InputError(f"{field}.when", "the optimizer depends on nothing", "remove it")
        default = entry.get("default")
        conditions[key] = Condition(
            when=_when(f"{field}.when", entry["when"]),
            default=None if default is None else PARAMETERS[key].check(f"{field}.default", default),
        )
    try:
        in_order(dimensions, conditions)
    except ValueError as error:
        first = str(error).partition(" ")[0]
        raise InputError(
            f"search.{first}.when",
            f"the conditions go round in a circle: {error}",
            "let one of these be searched always",
        ) from None
    for key, condition in conditions.items():
        for parent, values in condition.when.items():
            field = f"search.{key}.when.{parent}"
            if parent in dimensions:
                _require_values(field, parent, values, dimensions[parent], conditions.get(parent))
            elif fixed.get(parent) not in values:
                known = f"always {fixed[parent]!r}" if parent in fixed else "not in this section"
                raise InputError(
                    field,
                    f"asks for {' or '.join(map(repr, values))}, but {parent} is {known}",
                    f"give {parent} choices, or drop the condition",
                )
    return conditions


def _when(field: str, entry: object) -> dict[str, tuple[Value, ...]]:
    check_keys(field, entry, PARAMETERS, [])
    assert isinstance(entry, Mapping)
    when: dict[str, tuple[Value, ...]] = {}
    for parent, given in entry.items():
        values = given if isinstance(given, list) else [given]
        checked = [PARAMETERS[parent].check(f"{field}.{parent}", value) for value in values]
        when[parent] = tuple(dict.fromkeys(checked))
        if not values:
            raise InputError(f"{field}.{parent}", "must name a value, got []", "write one")
    if not when:
        raise InputError(field, "must name a parameter, got {}", "remove it, or write one")
    return when


def _require_values(
    field: str,
    parent: str,
    values: Iterable[Value],
    dimension: Dimension,
    condition: Condition | None,
) -> None:
    """Require that trials can have the values that a condition asks for."""
    if isinstance(dimension, Range) and not dimension.integer:
        raise InputError(
            field,
            f"must be a parameter with choices or of whole numbers, and {parent} has a range",
            f"give {parent} choices",
        )
    for value in values:
        # Where the parent is not searched itself it has its default, possibly its optimizer's.
        elsewhere = condition is not None and condition.default in (None, value)
        if not dimension.contains(value) and not elsewhere:
            raise InputError(
                field, f"must be a value that {parent} may have, got {value!r}", "name another"
            )


def _dimension(field: str, domain: Domain, entry: Mapping[str, Any]) -> Dimension:
    if "choices" in entry:
        check_keys(field, entry, ["choices", *_CONDITION], ["choices"])
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
    check_keys(field, entry, ["low", "high", "log", *_CONDITION], ["low", "high"])
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
