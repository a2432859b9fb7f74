"""What a scaling study compares, and what it refuses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_study import made_design, settings_document

from esam_tune.config import trial_settings
from esam_tune.errors import InputError
from esam_tune.scaling.design import check_counts, design


def test_strong_shares_one_batch_out_and_keeps_the_learning_rate():
    made = made_design((1, 2, 4), "strong")
    assert [made.batch_size(k) for k in (1, 2, 4)] == [128] * 3
    assert [made.rows(k) for k in (1, 2, 4)] == [128, 64, 32]
    assert made.scaled("chosen", 4).effective.lr == 0.05
    assert made.reachable(128)
    assert not made.reachable(256)


def test_weak_gives_each_worker_the_batch_and_scales_the_learning_rate():
    made = made_design((1, 2, 4), "weak")
    assert [made.batch_size(k) for k in (1, 2, 4)] == [128, 256, 512]
    assert [made.rows(k) for k in (1, 2, 4)] == [128] * 3
    assert made.scaled("chosen", 4).effective.lr == pytest.approx(0.2)
    assert made.scaled("chosen", 4).settings.training.batch_size == 512
    assert made.reachable(1024)


def test_weak_follows_the_rule_for_the_learning_rate():
    chosen = trial_settings(settings_document())
    assert design(chosen, [1, 4], "weak", "sqrt").scaled("sgd", 4).effective.lr == 0.1


def test_a_setting_found_on_two_workers_is_moved_to_one():
    document = {**settings_document(), "origin": {"workers": 2}}
    made = design(trial_settings(document), [1, 2], "weak")
    assert [made.batch_size(k) for k in (1, 2)] == [64, 128]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"optimizer": "sgd"}, {"sam": ("sam", 0.05), "sgd": ("sgd", None)}),
        ({"optimizer": "sam", "rho": 0.2}, {"sgd": ("sgd", None), "sam": ("sam", 0.2)}),
        (
            {"optimizer": "esam", "rho": 0.3},
            {"sgd": ("sgd", None), "sam": ("sam", 0.3), "chosen": ("esam", 0.3)},
        ),
    ],
)
def test_sgd_sam_and_the_setting_each_once_the_setting_last(params, expected):
    made = design(trial_settings(settings_document(**params)), [1, 2], "strong")
    found = {
        key: (one.params["optimizer"], one.params.get("rho")) for key, one in made.methods.items()
    }
    assert found == expected
    assert list(found) == list(expected)
    assert dict(made.methods[made.chosen].params).items() >= params.items()


def test_every_method_is_timed_alone_with_the_rows_of_every_count():
    cells = made_design((1, 2, 4), "strong").cells()
    assert len(cells) == len({(cell.method, cell.workers, cell.rows) for cell in cells})
    assert {(cell.workers, cell.rows) for cell in cells if cell.method == "sgd"} == {
        (1, 128), (1, 64), (1, 32), (2, 64), (4, 32),
    }  # fmt: skip
    weak = made_design((1, 2, 4), "weak").cells()
    assert {(cell.workers, cell.rows) for cell in weak} == {(1, 128), (2, 128), (4, 128)}


def test_other_parameters_of_the_setting_go_to_its_rivals_too():
    params = {"optimizer": "esam", "lr": 0.2, "momentum": 0.5}
    made = design(trial_settings(settings_document(**params)), [1, 2], "strong")
    assert {one.training.lr for one in made.methods.values()} == {0.2}
    assert {one.params["momentum"] for one in made.methods.values()} == {0.5}


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=6))
def test_counts_are_put_in_order_or_refused(counts):
    fits = len(set(counts)) == len(counts) and 1 in counts and len(counts) > 1
    if fits:
        assert check_counts(counts) == tuple(sorted(counts))
    else:
        with pytest.raises(InputError, match="--workers"):
            check_counts(counts)


@pytest.mark.parametrize(
    ("counts", "mode", "words"),
    [
        ((1, 3), "strong", "divide evenly over the 3 workers"),
        ((1, 256), "strong", "divide evenly over the 256 workers"),
        ((1, 2), "medium", "must be strong or weak"),
        ((0, 1), "strong", r"integer in \[1, 1000000\]"),
    ],
)
def test_what_does_not_fit_together_is_refused(counts, mode, words):
    with pytest.raises(InputError, match=words):
        made_design(counts, mode)
