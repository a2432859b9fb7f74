"""How much of a study is left: epochs, cost, time."""

import pytest
from running_study import Clock, Running


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_time_left_is_unknown_before_the_first_epoch(tmp_path, clock):
    running = Running(tmp_path)
    running.start("0000")
    outlook = running.outlook()
    clock.now += 50
    assert outlook.left().seconds is None


def test_time_left_follows_from_the_epochs_so_far(tmp_path, clock):
    running = Running(tmp_path)  # three trials and a baseline of ten epochs each
    outlook = running.outlook()
    running.start("0000")
    clock.now += 20
    running.epoch("0000", 10)
    assert outlook.left().seconds == pytest.approx(30 * 2.0)
    running.end("0000")
    assert outlook.left().seconds == pytest.approx(30 * 2.0)
    clock.now += 20
    running.start("0001")
    running.epoch("0001", 10)
    assert outlook.left().seconds == pytest.approx(20 * 2.0)


def test_epochs_of_an_earlier_process_do_not_speed_up_the_estimate(tmp_path, clock):
    running = Running(tmp_path)
    running.trial("0000", 0.9, 1.0)
    running.start("0001")
    running.epoch("0001", 4)
    outlook = running.outlook()
    assert outlook.left().seconds is None
    clock.now += 6
    running.epoch("0001", 6)
    assert outlook.left().seconds == pytest.approx((40 - 16) * 3.0)


def test_epochs_that_a_failed_trial_leaves_out_are_not_waited_for(tmp_path, clock):
    running = Running(tmp_path)
    outlook = running.outlook()
    running.start("0000")
    running.epoch("0000", 2)
    running.end("0000", "failed", "because")
    clock.now += 4
    assert outlook.left().seconds == pytest.approx(30 * 2.0)


def test_nothing_is_left_at_the_end(tmp_path, clock):
    running = Running(tmp_path)
    outlook = running.outlook()
    for number in range(4):
        running.trial(f"{number:04d}", 0.9, 1.0)
    clock.now += 80
    assert outlook.left().seconds == 0.0


def test_a_dearer_step_weighs_as_much_more_as_it_takes(tmp_path, clock):
    running = Running(tmp_path)
    outlook = running.outlook()
    running.start("0000")
    running.epoch("0000", 10, cost=1.0, step_time_ratio=1.0)
    running.end("0000")
    running.start("0001")
    running.epoch("0001", 5, cost=2.0, step_time_ratio=3.0)
    clock.now += 25
    left = outlook.left()
    # 25 epochs of SGD's time in 25 seconds; five of the second trial, and two trials at the mean.
    assert left.seconds == pytest.approx(5 * 3.0 + 20 * (10 * 1.0 + 5 * 3.0) / 15)
    assert left.cost == pytest.approx(5 * 2.0 + 20 * (10 * 1.0 + 5 * 2.0) / 15)
    assert left.epochs == 25


def test_cost_is_unknown_before_it_is_measured(tmp_path, clock):
    running = Running(tmp_path)
    running.start("0000")
    left = running.outlook().left()
    assert (left.epochs, left.cost, left.seconds) == (40, None, None)


def test_a_cost_that_is_no_number_counts_as_unknown(tmp_path, clock):
    running = Running(tmp_path)
    outlook = running.outlook()
    running.start("0000")
    running.epoch("0000", 4, cost=None, step_time_ratio=None)
    clock.now += 8
    left = outlook.left()
    assert (left.cost, left.seconds) == (None, pytest.approx(36 * 2.0))
