import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esam_tune.optim import select_rows

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    ("increase", "gamma", "rows"),
    [
        ([0.1, 0.3, 0.2, 0.0], 0.5, [1, 2]),
        ([1.0, 1.0, 1.0, 1.0], 0.5, [0, 1]),  # all equal: the lowest indices
        ([0.0, 1.0, 2.0, 1.0, 1.0], 0.4, [1, 2]),  # a tie at the border
        ([-3.0, -1.0, -2.0], 0.3, [1]),
        ([5.0], 0.01, [0]),  # never fewer than one
        ([1.0, 2.0], 0.5, [1]),
        ([1.0, 2.0, 3.0], 0.5, [1, 2]),  # round(1.5) is 2
        ([1.0, 2.0, 3.0, 4.0, 5.0], 0.5, [3, 4]),  # round(2.5) is 2
        ([2.0, 1.0, 3.0], 1.0, [0, 1, 2]),
        ([NAN, -INF, 0.0, INF], 0.5, [2, 3]),  # NaN last
        ([NAN, 1.0, NAN], 0.7, [0, 1]),
        ([NAN, NAN, NAN], 0.3, [0]),
    ],
)
def test_selects(increase, gamma, rows):
    assert select_rows(torch.tensor(increase), gamma).tolist() == rows


@given(
    st.lists(st.floats(allow_nan=True, width=32), min_size=1, max_size=40),
    st.floats(0.0, 1.0, exclude_min=True),
)
def test_no_row_outside_beats_one_inside(increase, gamma):
    rows = select_rows(torch.tensor(increase), gamma).tolist()
    assert rows == sorted(set(rows))
    assert len(rows) == max(1, round(gamma * len(increase)))

    def rank(row):
        value = increase[row]
        return (-INF if math.isnan(value) else value, -row)

    outside = set(range(len(increase))) - set(rows)
    assert not outside or max(map(rank, outside)) < min(map(rank, rows))


@pytest.mark.parametrize(
    ("increase", "gamma", "error", "words"),
    [
        (torch.zeros(2, 2), 0.5, ValueError, r"shape \(2, 2\)"),
        (torch.zeros(0), 0.5, ValueError, r"shape \(0,\)"),
        (torch.zeros(3, dtype=torch.long), 0.5, TypeError, "floating-point"),
        ([1.0], 0.5, TypeError, "floating-point"),
        (torch.zeros(3), 0.0, ValueError, r"gamma must lie in \(0, 1\], got 0.0"),
        (torch.zeros(3), NAN, ValueError, "gamma .* got nan"),
        (torch.zeros(3), "1", TypeError, "gamma must be a number, got '1'"),
    ],
)
def test_refuses(increase, gamma, error, words):
    with pytest.raises(error, match=words):
        select_rows(increase, gamma)
