"""Feasible trials, the Pareto front, its hypervolume, and the setting to pick from it.

Pure functions on arrays. Directions are turned into minimisation once, by :func:`minimised`; every
other function takes rows (one per trial) of objectives to minimise. A row that holds a NaN or an
infinity is a trial without a result: it is never feasible, never on the front and never picked.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

Direction: TypeAlias = Literal["max", "min"]
Rule: TypeAlias = Literal["accuracy", "cost", "knee"]
Floats: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]

RULES: tuple[Rule, ...] = get_args(Rule)

# Scaled gains closer than this are one gain: on a straight front, rounding must not choose.
_KNEE_TOLERANCE = 1e-12


def minimised(values: ArrayLike, directions: Sequence[Direction]) -> Floats:
    """Objectives with each maximised column negated, so that less is better everywhere.

    Args:
        values: Shape (n, m): n trials, m objectives, each in its metric's own unit.
        directions: One of ``"max"`` or ``"min"`` for each of the m columns.

    Returns:
        A new array of shape (n, m). Applying the function twice gives ``values`` back.

    Raises:
        ValueError: ``values`` is not a table, or the directions do not match its columns.
    """
    table = _table("values", values)
    if len(directions) != table.shape[1]:
        raise ValueError(
            f"directions must name one direction for each of the {table.shape[1]} objectives, "
            f"got {len(directions)}: {list(directions)}"
        )
    for direction in directions:
        _known("direction", direction, get_args(Direction))
    return table * np.where([direction == "max" for direction in directions], -1.0, 1.0)


def front(minimised: ArrayLike) -> Mask:
    """Which rows no other row dominates.

    A row dominates another if it is at most as large in every objective and smaller in one. Rows
    that are equal do not dominate each other, so every copy of a front point is on the front.

    Args:
        minimised: Shape (n, m), less is better.

    Returns:
        Shape (n,). False for every row with a NaN or an infinity.

    Raises:
        ValueError: ``minimised`` is not a table.
    """
    costs = _table("minimised", minimised)
    on_front = np.zeros(len(costs), dtype=np.bool_)
    rest = np.flatnonzero(np.isfinite(costs).all(axis=1))
    # In lexicographic order a row can only be dominated by one that stands before it, so the first
    # row left is on the front, and one pass per front point (not per pair of rows) is enough.
    rest = rest[np.lexsort(costs[rest].T[::-1])]
    while rest.size:
        rows, first = costs[rest], costs[rest[0]]
        on_front[rest[(rows == first).all(axis=1)]] = True
        rest = rest[(rows < first).any(axis=1)]
    return on_front


def hypervolume(minimised: ArrayLike, reference: ArrayLike) -> float:
    """Volume of the objective space that the rows dominate, up to a reference point.

    Exact for any number of objectives: a sweep for two; beyond, slices along the last objective
    (Knowles 2002; While et al. 2005, "Heuristics for optimizing the calculation of hypervolume for
    multi-objective optimization algorithms"). The time grows as n**(m - 1), which suits the two or
    three objectives of a study.

    Args:
        minimised: Shape (n, m), less is better.
        reference: Shape (m,), finite: the worst value of each objective that still counts. Rows
            that are not below it in every objective add nothing.

    Returns:
        The volume in the product of the objectives' units; 0.0 if no row is below ``reference``.

    Raises:
        ValueError: The shapes do not match, or ``reference`` is not finite.
    """
    costs = _table("minimised", minimised)
    corner = np.asarray(reference, dtype=np.float64)
    if corner.shape != (costs.shape[1],) or not np.isfinite(corner).all():
        raise ValueError(
            f"reference must hold one finite value for each of the {costs.shape[1]} objectives, "
            f"got {np.array2string(corner)}"
        )
    inside = np.isfinite(costs).all(axis=1) & (costs < corner).all(axis=1)
    return _volume(costs[inside], corner)


def _volume(costs: Floats, reference: Floats) -> float:
    """The hypervolume of finite rows that are all below the reference."""
    costs = np.unique(costs[front(costs)], axis=0)
    if len(costs) == 0:
        return 0.0
    if costs.shape[1] == 1:
        return float(reference[0] - costs[0, 0])
    if costs.shape[1] == 2:
        # Along a front sorted by the first objective the second one falls, so each point adds one
        # rectangle: to the reference on the right, to its left neighbour's height above.
        widths = reference[0] - costs[:, 0]
        heights = np.append(reference[1], costs[:-1, 1]) - costs[:, 1]
        return float(widths @ heights)
    costs = costs[np.argsort(costs[:, -1], kind="stable")]
    depths = np.append(costs[1:, -1], reference[-1]) - costs[:, -1]
    return sum(
        float(depth) * _volume(costs[: i + 1, :-1], reference[:-1])
        for i, depth in enumerate(depths)
        if depth > 0
    )


def feasible(
    columns: Mapping[str, ArrayLike], maximum: Mapping[str, float], minimum: Mapping[str, float]
) -> Mask:
    """Which trials keep every bound.

    Args:
        columns: Metric name to its values, shape (n,), one per trial, in the metric's own unit and
            direction; NaN where a trial did not report the metric.
        maximum: Metric name to its largest allowed value, itself allowed (``<=``).
        minimum: Metric name to its smallest allowed value, itself allowed (``>=``).

    Returns:
        Shape (n,). False where a bounded metric is NaN or infinite: what was not measured cannot
        be said to keep a bound.

    Raises:
        ValueError: A bound names an unknown metric, is not finite, or contradicts another one; or
            the columns differ in length.
    """
    table = {name: np.asarray(column, dtype=np.float64) for name, column in columns.items()}
    shapes = {name: column.shape for name, column in table.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
        raise ValueError(f"columns must all hold one value for each trial, got shapes {shapes}")
    for field, bounds in (("maximum", maximum), ("minimum", minimum)):
        for name, bound in bounds.items():
            _known(f"metric under {field}", name, table)
            if not np.isfinite(bound):
                raise ValueError(
                    f"{field} of {name} must be a finite number, got {bound}; "
                    "leave the bound out to allow every value"
                )
    for name in maximum.keys() & minimum.keys():
        if minimum[name] > maximum[name]:
            raise ValueError(
                f"minimum of {name} must be at most its maximum {maximum[name]}, "
                f"got {minimum[name]}; no trial can keep both, so relax one of them"
            )
    mask = np.ones(next(iter(shapes.values()), (0,)), dtype=np.bool_)
    for name in maximum.keys() | minimum.keys():
        mask &= np.isfinite(table[name])
    for name, bound in maximum.items():
        mask &= table[name] <= bound
    for name, bound in minimum.items():
        mask &= table[name] >= bound
    return mask


def pick(
    minimised: ArrayLike, mask: ArrayLike, rule: Rule, *, accuracy: int, cost: int
) -> int | None:
    """The row to carry on with: one point of the front of the rows in ``mask``.

    - ``"accuracy"``: the best accuracy; among equals the least cost.
    - ``"cost"``: the least cost; among equals the best accuracy.
    - ``"knee"``: accuracy and cost are scaled to [0, 1] over the front; the point that lies
      furthest from the straight line between the front's two ends, on the side of the ideal
      corner (Das 1999, "On characterizing the knee of the Pareto curve based on normal-boundary
      intersection"). Where no point lies on that side (one or two points, a straight or an
      outward-bent front) the ends are at distance 0 and win. Among equals the best accuracy.

    What is still equal goes to the first row.

    Args:
        minimised: Shape (n, m), less is better (a maximised accuracy is negated).
        mask: Shape (n,): the rows that may be picked, for instance the feasible ones. Rows that
            others in ``mask`` dominate are left out here, so the front itself works as well.
        rule: One of ``RULES``.
        accuracy: Column of the accuracy.
        cost: Column of the cost.

    Returns:
        Index of the row in ``minimised``, or None if ``mask`` holds no row with a result.

    Raises:
        ValueError: Unknown rule; columns out of range or equal; shapes that do not match;
            ``"knee"`` with other than two objectives.
    """
    costs = _table("minimised", minimised)
    allowed = np.asarray(mask, dtype=np.bool_)
    columns = costs.shape[1]
    _known("pick rule", rule, RULES)
    if allowed.shape != (len(costs),):
        raise ValueError(f"mask must have shape ({len(costs)},), got {allowed.shape}")
    if accuracy == cost or not (0 <= accuracy < columns and 0 <= cost < columns):
        raise ValueError(
            f"accuracy and cost must be two different columns in 0..{columns - 1}, "
            f"got accuracy={accuracy} and cost={cost}"
        )
    if rule == "knee" and columns != 2:
        raise ValueError(
            f"pick rule 'knee' is defined for 2 objectives, got {columns}; "
            "use 'accuracy' or 'cost', or keep only two objectives"
        )
    rows = np.flatnonzero(allowed)
    rows = rows[front(costs[rows])]
    if rows.size == 0:
        return None
    errors, prices = costs[rows, accuracy], costs[rows, cost]
    # lexsort's last key is the first to decide; rows ascend, so the sort's stability settles ties.
    if rule == "cost":
        order = np.lexsort((errors, prices))
    elif rule == "accuracy":
        order = np.lexsort((prices, errors))
    else:
        # The ends are (0, 1) and (1, 0): 1 - x - y is sqrt(2) times the signed distance.
        gain = 1.0 - _unit_scaled(errors) - _unit_scaled(prices)
        order = np.lexsort((prices, errors, gain < gain.max() - _KNEE_TOLERANCE))
    return int(rows[order[0]])


def _unit_scaled(values: Floats) -> Floats:
    span = np.ptp(values)
    return (values - values.min()) / span if span > 0 else np.zeros_like(values)


def _table(field: str, values: ArrayLike) -> Floats:
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] == 0:
        raise ValueError(
            f"{field} must have shape (trials, objectives) with at least one objective, "
            f"got {table.shape}; an empty study is np.empty((0, objectives))"
        )
    return table


def _known(field: str, name: str, names: Iterable[str]) -> None:
    known = list(names)
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"unknown {field} {name!r}{hint} (known: {', '.join(known) or 'none'})")
