"""A setting on another worker count: what stays, what follows, and what is recorded of it."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esam_tune.config import trial_settings
from esam_tune.errors import InputError
from esam_tune.worker_scaling import (
    WorkerRule,
    check_shares,
    reference_workers,
    scale_settings,
)


def settings_for(batch_size=64, lr=0.05, params=None, **origin):
    return trial_settings(
        {
            "task": {"dataset": "digits", "model": "small_cnn"},
            "training": {"epochs": 1, "batch_size": batch_size, "lr": lr},
            "params": params or {"optimizer": "esam", "rho": 0.2},
            "origin": origin,
        }
    )


def test_by_default_the_global_batch_stays_and_m_shrinks():
    settings = settings_for(study="digits")
    scaled = scale_settings(settings, 4)
    assert replace(scaled.settings, origin=settings.origin) == settings
    assert scaled.settings.origin == {"study": "digits", "workers": 4}
    assert scaled.to_dict() == {
        "batch_rule": "fixed-global",
        "lr_rule": "none",
        "reference": {
            "workers": 1,
            "batch_size": 64,
            "rows_per_worker": 64,
            "lr": 0.05,
            "rho": 0.2,
        },
        "effective": {
            "workers": 4,
            "batch_size": 64,
            "rows_per_worker": 16,
            "lr": 0.05,
            "rho": 0.2,
        },
    }


@pytest.mark.parametrize(("lr_rule", "lr"), [(None, 0.2), ("sqrt", 0.1), ("none", 0.05)])
def test_rows_per_worker_stay_and_the_rate_follows_the_batch(lr_rule, lr):
    scaled = scale_settings(settings_for(), 4, WorkerRule(batch="per-worker", lr=lr_rule))
    assert scaled.settings.training.batch_size == 256
    assert scaled.settings.training.lr == pytest.approx(lr)
    assert scaled.effective.rows_per_worker == scaled.reference.rows_per_worker == 64
    assert scaled.settings.params["rho"] == 0.2


def test_fewer_workers_than_it_was_found_with():
    scaled = scale_settings(settings_for(128, workers=4), 1, WorkerRule(batch="per-worker"))
    assert scaled.settings.training.batch_size == 32
    assert scaled.settings.training.lr == pytest.approx(0.05 / 4)


def test_overrides_among_the_parameters_follow_too():
    params = {"optimizer": "sgd", "lr": 0.1, "batch_size": 32}
    scaled = scale_settings(settings_for(params=params), 2, WorkerRule(batch="per-worker"))
    assert scaled.settings.params == {"optimizer": "sgd", "lr": 0.2, "batch_size": 64}
    # A settings file of the result reads back as the result.
    assert trial_settings(scaled.settings.to_dict()) == scaled.settings
    assert scaled.reference.rho is None
    assert "effective.rho" not in scaled.params()
    assert scaled.params()["reference.batch_size"] == 32


@given(
    rows=st.integers(1, 512),
    found=st.integers(1, 16),
    workers=st.integers(1, 64),
    lr=st.floats(1e-4, 10),
    rule=st.sampled_from(["none", "linear", "sqrt"]),
)
def test_the_way_there_and_back_is_where_it_began(rows, found, workers, lr, rule):
    settings = settings_for(rows * found, lr, workers=found)
    there = scale_settings(settings, workers, WorkerRule(batch="per-worker", lr=rule))
    back = scale_settings(there.settings, found, there.rule)
    assert there.effective.rows_per_worker == rows
    assert back.settings.training.batch_size == rows * found
    assert math.isclose(back.settings.training.lr, lr, rel_tol=1e-12)


def test_where_a_setting_was_found():
    assert reference_workers(settings_for()) == 1
    assert reference_workers(settings_for(workers=3)) == 3
    with pytest.raises(
        InputError, match=r"origin\.workers: must be an integer in \[1, 1000000\], got 'two'"
    ):
        reference_workers(settings_for(workers="two"))


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"batch": "global"}, "--batch-rule: must be one of .*, got 'global'"),
        ({"batch": "per-worker", "lr": "cube"}, "--lr-rule: must be one of .*, got 'cube'"),
        ({"lr": "linear"}, "--lr-rule: must be none where .* stays .*--batch-rule per-worker"),
    ],
)
def test_a_rule_that_makes_no_sense(rule, words):
    with pytest.raises(InputError, match=words):
        WorkerRule(**rule)


def test_a_batch_that_cannot_be_shared():
    with pytest.raises(InputError, match=r"over the 3 workers, got 64; set it to 63 or 66"):
        scale_settings(settings_for(), 3)
    with pytest.raises(InputError, match="3 workers the setting was found with, got 64"):
        scale_settings(settings_for(workers=3), 2, WorkerRule(batch="per-worker"))
    check_shares(12, [1, 2, 3])
    with pytest.raises(InputError, match=r"x: .* 3 workers, got 64; set it to 60 or 66"):
        check_shares(64, [1, 2, 3], "x")
