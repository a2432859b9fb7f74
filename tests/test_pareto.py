"""The front, its volume and the picks, against their definitions and against Optuna."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna._hypervolume import compute_hypervolume

from esam_tune.pareto_front import (
    RULES,
    Direction,
    Floats,
    Mask,
    Rule,
    feasible,
    front,
    hypervolume,
    minimised,
    pick,
)

NAN, INF = float("nan"), float("inf")


@st.composite
def tables(
    draw: st.DrawFn, *, objectives: tuple[int, int] = (2, 4), broken: bool = True
) -> np.ndarray[Any, Any]:
    """Up to ten rows; coarse values make ties and copies common, broken ones come with the rest."""
    columns = draw(st.integers(*objectives))
    coarse = st.integers(0, 4).map(float)
    fine = st.floats(0.0, 4.0).map(lambda value: round(value, 6))
    odd = [st.sampled_from([NAN, INF, -INF, -0.0])] if broken else []
    row = st.tuples(*[st.one_of(coarse, fine, *odd)] * columns)
    return np.array(draw(st.lists(row, max_size=10)), dtype=np.float64).reshape(-1, columns)


def brute_force_front(costs: Floats) -> list[bool]:
    """The definition, row against row."""

    def dominates(a: Floats, b: Floats) -> bool:
        return bool(np.isfinite(a).all() and (a <= b).all() and (a < b).any())

    return [
        bool(np.isfinite(row).all()) and not any(dominates(other, row) for other in costs)
        for row in costs
    ]


# --- directions ------------------------------------------------------------------------------


def test_minimised_negates_only_what_is_maximised() -> None:
    values = np.array([[0.9, 1.5], [NAN, INF]])
    np.testing.assert_array_equal(minimised(values, ["max", "min"]), [[-0.9, 1.5], [NAN, INF]])
    np.testing.assert_array_equal(values[0], [0.9, 1.5], err_msg="the input was changed")


@given(tables(), st.data())
def test_minimised_is_its_own_inverse(values: Floats, data: st.DataObject) -> None:
    one: st.SearchStrategy[Direction] = st.sampled_from(["max", "min"])
    size = values.shape[1]
    directions = data.draw(st.lists(one, min_size=size, max_size=size))
    np.testing.assert_array_equal(minimised(minimised(values, directions), directions), values)


@pytest.mark.parametrize(
    ("values", "directions", "message"),
    [
        ([[1.0, 2.0]], ["max"], r"each of the 2 objectives, got 1: \['max'\]"),
        ([[1.0, 2.0]], ["max", "mini"], "unknown direction 'mini'; did you mean 'min'"),
        ([1.0, 2.0], ["max", "min"], r"values must have shape \(trials, objectives\).*got \(2,\)"),
        ([[]], [], "at least one objective"),
    ],
)
def test_minimised_rejects(values: Any, directions: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        minimised(values, directions)


# --- front -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        pytest.param(np.empty((0, 2)), [], id="no trials"),
        pytest.param([[1, 2]], [True], id="one trial"),
        pytest.param([[1, 2], [2, 1], [2, 2]], [True, True, False], id="dominated by both"),
        pytest.param([[1, 2], [1, 3]], [True, False], id="tie in one objective"),
        pytest.param([[1, 2], [1, 2], [3, 3]], [True, True, False], id="copies are both kept"),
        pytest.param([[0.0, 1], [-0.0, 1]], [True, True], id="signed zeros are equal"),
        pytest.param([[NAN, 0], [1, 1]], [False, True], id="NaN neither stays nor dominates"),
        pytest.param([[0, INF], [1, 1]], [False, True], id="infinite cost"),
        pytest.param([[-INF, 0], [1, 1]], [False, True], id="minus infinity is broken too"),
        pytest.param([[NAN, NAN], [INF, 0]], [False, False], id="nothing finite"),
        pytest.param([[3], [1], [1]], [False, True, True], id="one objective"),
        pytest.param([[1, 2, 3], [1, 2, 4], [0, 9, 9]], [True, False, True], id="three"),
    ],
)
def test_front_of_known_rows(rows: Any, expected: list[bool]) -> None:
    mask = front(rows)
    assert mask.dtype == np.bool_
    assert mask.tolist() == expected


@given(tables(objectives=(1, 4)))
def test_front_is_what_dominance_says(costs: Floats) -> None:
    assert front(costs).tolist() == brute_force_front(costs)


@given(tables(), st.randoms(use_true_random=False))
def test_front_does_not_depend_on_the_order_of_trials(costs: Floats, random: Any) -> None:
    order = np.array(random.sample(range(len(costs)), len(costs)), dtype=np.intp)
    np.testing.assert_array_equal(front(costs[order]), front(costs)[order])


@pytest.mark.parametrize("rows", [3.0, [1.0, 2.0], np.empty((2, 0)), np.empty((1, 2, 3))])
def test_front_needs_a_table(rows: Any) -> None:
    with pytest.raises(ValueError, match="minimised must have shape"):
        front(rows)


# --- hypervolume -----------------------------------------------------------------------------


def test_hypervolume_by_hand() -> None:
    # Two overlapping rectangles under the reference (4, 4): 3 * 1 + 1 * 3 - 1 * 1.
    assert hypervolume([[1, 3], [3, 1]], [4, 4]) == 5.0
    # Two boxes of 2 * 2 * 1 and 1 * 1 * 2 that share 1 * 1 * 1.
    assert hypervolume([[0, 0, 1], [1, 1, 0]], [2, 2, 2]) == 5.0
    assert hypervolume([[3], [1]], [4]) == 3.0


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(np.empty((0, 2)), id="no trials"),
        pytest.param([[4, 0], [0, 5]], id="on and beyond the reference"),
        pytest.param([[NAN, 0], [-INF, 0]], id="nothing finite"),
    ],
)
def test_rows_that_are_not_below_the_reference_add_nothing(rows: Any) -> None:
    assert hypervolume(rows, [4, 4]) == 0.0
    both = np.concatenate([np.asarray(rows, dtype=np.float64), [[1.0, 2.0]]])
    assert hypervolume(both, [4, 4]) == 6.0


@settings(max_examples=200)
@given(tables(objectives=(1, 4), broken=False))
def test_hypervolume_equals_optunas(costs: Floats) -> None:
    reference = np.full(costs.shape[1], 4.0)
    expected = compute_hypervolume(costs, reference)
    assert hypervolume(costs, reference) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(st.integers(1, 4).flatmap(lambda m: st.lists(st.tuples(*[st.integers(0, 3)] * m))))
def test_hypervolume_counts_the_dominated_unit_cells(rows: list[tuple[int, ...]]) -> None:
    objectives = len(rows[0]) if rows else 2
    costs = np.array(rows, dtype=np.float64).reshape(-1, objectives)
    cells = sum(
        any(all(a <= b for a, b in zip(row, cell, strict=True)) for row in rows)
        for cell in product(range(4), repeat=objectives)
    )
    assert hypervolume(costs, np.full(objectives, 4.0)) == cells


@given(tables())
def test_hypervolume_is_that_of_the_front_and_never_falls(costs: Floats) -> None:
    reference = np.full(costs.shape[1], 4.0)
    whole = hypervolume(costs, reference)
    assert hypervolume(costs[front(costs)], reference) == pytest.approx(whole)
    assert hypervolume(costs[:-1], reference) <= whole * (1 + 1e-12)


@pytest.mark.parametrize("reference", [[1.0], [1.0, NAN], [INF, 1.0], 1.0])
def test_hypervolume_needs_a_finite_reference(reference: Any) -> None:
    with pytest.raises(ValueError, match="reference must hold one finite value for each of the 2"):
        hypervolume([[0.0, 0.0]], reference)


# --- constraints -----------------------------------------------------------------------------

COLUMNS = {
    "step_flops_ratio": np.array([1.0, 1.4, 1.5, NAN, INF]),
    "val_accuracy": np.array([0.7, 0.9, 0.95, 0.99, 0.99]),
    "sharpness": np.array([NAN, NAN, -INF, 1.0, 2.0]),
}


@pytest.mark.parametrize(
    ("maximum", "minimum", "expected"),
    [
        pytest.param({}, {}, [1, 1, 1, 1, 1], id="no bounds: a missing metric excludes no trial"),
        pytest.param({"step_flops_ratio": 1.4}, {}, [1, 1, 0, 0, 0], id="at most, bound allowed"),
        pytest.param({}, {"val_accuracy": 0.95}, [0, 0, 1, 1, 1], id="at least, bound allowed"),
        pytest.param({}, {"step_flops_ratio": 1.4}, [0, 1, 1, 0, 0], id="infinity is not enough"),
        pytest.param({"sharpness": 9.0}, {}, [0, 0, 0, 1, 1], id="minus infinity keeps no bound"),
        pytest.param(
            {"step_flops_ratio": 1.4}, {"val_accuracy": 0.9}, [0, 1, 0, 0, 0], id="two metrics"
        ),
        pytest.param(
            {"step_flops_ratio": 1.4}, {"step_flops_ratio": 1.4}, [0, 1, 0, 0, 0], id="one value"
        ),
    ],
)
def test_feasible(
    maximum: dict[str, float], minimum: dict[str, float], expected: list[int]
) -> None:
    mask = feasible(COLUMNS, maximum, minimum)
    assert mask.dtype == np.bool_
    assert mask.tolist() == [bool(keep) for keep in expected]


def test_feasible_without_trials() -> None:
    assert feasible({"val_accuracy": []}, {}, {"val_accuracy": 0.5}).shape == (0,)
    assert feasible({}, {}, {}).shape == (0,)


@pytest.mark.parametrize(
    ("maximum", "minimum", "message"),
    [
        (
            {"step_flop_ratio": 1.4},
            {},
            "unknown metric under maximum 'step_flop_ratio'; did you mean 'step_flops_ratio'",
        ),
        ({}, {"zzz": 1.0}, "minimum 'zzz' .known: step_flops_ratio, val_accuracy, sharpness"),
        ({"sharpness": NAN}, {}, "maximum of sharpness must be a finite number, got nan; leave"),
        ({}, {"sharpness": -INF}, "minimum of sharpness must be a finite number, got -inf"),
        (
            {"sharpness": 1.0},
            {"sharpness": 2.0},
            r"minimum of sharpness must be at most its maximum 1\.0, got 2\.0; .* relax one",
        ),
    ],
)
def test_feasible_rejects(
    maximum: dict[str, float], minimum: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        feasible(COLUMNS, maximum, minimum)


@pytest.mark.parametrize("columns", [{"a": [1.0], "b": [1.0, 2.0]}, {"a": [[1.0]]}, {"a": 1.0}])
def test_feasible_needs_columns_of_one_length(columns: Any) -> None:
    with pytest.raises(ValueError, match="columns must all hold one value for each trial"):
        feasible(columns, {}, {})


# --- picks -----------------------------------------------------------------------------------

# Accuracy (negated) and cost. The front is rows 0, 1, 2 and 3; scaled, their distances to the line
# between the ends grow as 0, 0.8 - 0.2, 0.95 - 0.5 and 0. Row 4 is dominated, row 5 broken.
STUDY = np.array([[-0.70, 1.0], [-0.86, 1.2], [-0.89, 1.5], [-0.90, 2.0], [-0.80, 1.9], [NAN, 0.5]])
ALL = np.ones(len(STUDY), dtype=np.bool_)


def picked(costs: Any, rule: Rule, mask: Mask | None = None) -> int | None:
    table = np.asarray(costs, dtype=np.float64)
    chosen = np.ones(len(table), dtype=np.bool_) if mask is None else mask
    return pick(table, chosen, rule, accuracy=0, cost=1)


@pytest.mark.parametrize(("rule", "row"), [("accuracy", 3), ("cost", 0), ("knee", 1)])
def test_pick_from_a_study(rule: Rule, row: int) -> None:
    assert picked(STUDY, rule) == row
    assert picked(STUDY, rule, front(STUDY)) == row
    swapped = STUDY[:, ::-1]
    assert pick(swapped, ALL, rule, accuracy=1, cost=0) == row


@pytest.mark.parametrize(("rule", "row"), [("accuracy", 2), ("cost", 2), ("knee", 2)])
def test_pick_only_among_the_allowed_rows(rule: Rule, row: int) -> None:
    """Row 4 is allowed but row 2 dominates it; rows 0, 1 and 3 are better and not allowed."""
    assert picked(STUDY, rule, np.array([False, False, True, False, True, True])) == row


@pytest.mark.parametrize("rule", RULES)
def test_pick_of_nothing_is_none(rule: Rule) -> None:
    assert picked(np.empty((0, 2)), rule) is None
    assert picked(STUDY, rule, ~ALL) is None
    assert picked([[NAN, 1.0], [0.5, INF]], rule) is None


@pytest.mark.parametrize("rule", RULES)
def test_pick_of_one_point_and_of_its_copies(rule: Rule) -> None:
    assert picked([[-0.9, 1.5]], rule) == 0
    assert picked([[-0.1, 9.0], [-0.9, 1.5], [-0.9, 1.5]], rule) == 1


@pytest.mark.parametrize(
    ("costs", "row"),
    [
        pytest.param([[-0.7, 1.0], [-0.9, 2.0]], 1, id="two points: the accurate end"),
        pytest.param([[-0.9, 2.0], [-0.7, 1.0]], 0, id="two points, other order"),
        pytest.param([[-0.7, 1.0], [-0.8, 1.5], [-0.9, 2.0]], 2, id="straight: the accurate end"),
        pytest.param(
            [[-0.7, 1.0], [-0.71, 1.9], [-0.9, 2.0]], 2, id="bent outwards: not the bulge"
        ),
        pytest.param(
            [[0.0, 10.0], [1.0, 4.0], [4.0, 1.0], [10.0, 0.0]], 1, id="symmetric: more accurate"
        ),
        pytest.param([[-0.9, 2.0], [-0.7, 1.0], [-0.85, 1.2], [-0.85, 1.2]], 2, id="first copy"),
    ],
)
def test_knee_is_defined_and_settled(costs: Any, row: int) -> None:
    assert picked(costs, "knee") == row


def test_knee_does_not_depend_on_units() -> None:
    scaled = STUDY * [100.0, 1e-6] + [7.0, 3.0]
    assert picked(scaled, "knee") == picked(STUDY, "knee")


def test_ties_of_three_objectives() -> None:
    costs = [
        [-0.9, 2.0, 3.0],
        [-0.9, 1.5, 4.0],
        [-0.9, 1.5, 4.0],
        [-0.5, 1.0, 9.0],
        [-0.6, 1.0, 9.5],
    ]
    everything = np.ones(5, dtype=np.bool_)
    assert pick(costs, everything, "accuracy", accuracy=0, cost=1) == 1
    assert pick(costs, everything, "cost", accuracy=0, cost=1) == 4
    with pytest.raises(ValueError, match="'knee' is defined for 2 objectives, got 3; use 'accura"):
        pick(costs, everything, "knee", accuracy=0, cost=1)


@given(tables(objectives=(2, 2)), st.sampled_from(RULES), st.data())
def test_picks_keep_their_promise(costs: Floats, rule: Rule, data: st.DataObject) -> None:
    size = len(costs)
    allowed = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)), dtype=bool)
    row = picked(costs, rule, allowed)
    candidates = [
        int(index)
        for index, on in zip(
            np.flatnonzero(allowed), brute_force_front(costs[allowed]), strict=True
        )
        if on
    ]
    if row is None:
        assert candidates == []
        return
    assert row in candidates
    if rule == "accuracy":
        assert (*costs[row], row) == min((*costs[index], index) for index in candidates)
    elif rule == "cost":
        assert (*costs[row, ::-1], row) == min((*costs[i, ::-1], i) for i in candidates)
    else:
        ends = costs[candidates].min(axis=0), costs[candidates].max(axis=0)
        sums = ((costs[candidates] - ends[0]) / np.maximum(ends[1] - ends[0], 1e-300)).sum(axis=1)
        assert sums[candidates.index(row)] == pytest.approx(sums.min(), abs=1e-9)


@pytest.mark.parametrize(
    ("mask", "rule", "accuracy", "cost", "message"),
    [
        (ALL, "nee", 0, 1, "unknown pick rule 'nee'; did you mean 'knee'"),
        (ALL[:-1], "cost", 0, 1, r"mask must have shape \(6,\), got \(5,\)"),
        (ALL, "cost", 0, 0, r"two different columns in 0\.\.1, got accuracy=0 and cost=0"),
        (ALL, "cost", 0, 2, r"two different columns in 0\.\.1, got accuracy=0 and cost=2"),
        (ALL, "cost", -1, 0, "got accuracy=-1 and cost=0"),
    ],
)
def test_pick_rejects(mask: Mask, rule: Any, accuracy: int, cost: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pick(STUDY, mask, rule, accuracy=accuracy, cost=cost)
