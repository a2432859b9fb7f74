"""What a person sees while a study runs, on a terminal and off it."""

import logging
import sys

import pytest
from running_study import Clock, Running
from terminal import plain, screen_after


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def on_screen(running):
    return [plain(line) for line in screen_after(running.shown()) if plain(line)]


def test_off_a_terminal_each_end_is_one_line(tmp_path, clock):
    running = Running(tmp_path)
    running.trial("0000", 0.7, 1.0, "before", baseline=True)
    with running.progress() as shown:
        running.trial("0001", 0.91234, 1.4, "ESAM beta=0.50")
        clock.now += 65
        for _ in range(2):
            shown.update(now=True)
        running.start("0002", "lost")
        running.end("0002", "failed", "OSError: disk [/data] is full")
    lines = running.shown().splitlines()
    assert len(lines) == 2
    assert "small: 2/4 trials, 1:05 elapsed" in lines[0]
    assert lines[0].endswith("0001 ESAM beta=0.50: val acc 91.2%, FLOPs/SGD 1.40")
    assert lines[1].endswith("0002 lost: failed, OSError: disk [/data] is full")


def test_updates_are_drawn_a_few_times_a_second_at_most(tmp_path, clock):
    running = Running(tmp_path)
    shown = running.progress()
    shown.update()
    running.trial("0000", 0.9, 1.0)
    shown.update()
    assert running.shown() == ""
    clock.now += 5
    shown.update()
    assert "0000" in running.shown()


def test_a_terminal_shows_the_front_so_far_and_what_runs(tmp_path, clock):
    running = Running(tmp_path, terminal=True)
    running.trial("0000", 0.70, 1.0, "SGD", baseline=True)
    running.trial("0001", 0.95, 1.4, "ESAM best")
    running.trial("0002", 0.60, 1.9, "ESAM worse")
    with running.progress():
        clock.now += 5
        running.start("0003", "ESAM now")
        running.epoch("0003", 4, 0.5)
    view, last = running.shown().rsplit("small: ", 1)
    assert last.startswith("3/4 trials, 0:05 elapsed")
    last_view = view.rsplit("small: ", 1)[1]
    for text in ("SGD", "70.0%", "ESAM best", "95.0%", "1.40", "ESAM now", "epoch 4/10", "50.0%"):
        assert text in last_view
    assert "ESAM worse" not in last_view


@pytest.mark.parametrize("label", ["SAM [tuned]", "SAM [/]", "[/bold] SAM", "[red]SAM", "a: b\\"])
@pytest.mark.parametrize("terminal", [False, True], ids=["lines", "terminal"])
def test_a_label_is_shown_as_it_is_written(tmp_path, clock, label, terminal):
    running = Running(tmp_path, terminal=terminal)
    with running.progress():
        clock.now += 5
        running.trial("0000", 0.9, 1.0, label, baseline=True)
        running.start("0001", label)
    assert label in running.shown()


def test_a_view_that_does_not_change_is_not_drawn_again(tmp_path, clock):
    running = Running(tmp_path, terminal=True)
    running.start("0000")
    with running.progress() as shown:
        shown.update(now=True)
        drawn = len(running.shown())
        for _ in range(5):
            shown.update(now=True)
        assert len(running.shown()) == drawn
        running.epoch("0000", 3)
        shown.update(now=True)
        assert "epoch 3/10" in running.shown()[drawn:]


def test_the_view_leaves_one_line_behind(tmp_path, clock):
    """Each line that was drawn is erased again, but the last summary."""
    running = Running(tmp_path, terminal=True, width=80, height=24)
    with running.progress() as shown:
        for number in range(4):
            running.trial(f"{number:04d}", 0.6 + number / 10, 1 + number)
            clock.now += 1
            shown.update()
    assert on_screen(running) == ["small: 4/4 trials, 0:04 elapsed"]


def test_a_warning_appears_above_the_view_and_does_not_tear_it(tmp_path, clock, monkeypatch):
    running = Running(tmp_path, terminal=True, width=80, height=24)
    monkeypatch.setattr(sys, "stderr", running.screen)
    handler = logging.StreamHandler()
    logging.getLogger().addHandler(handler)
    try:
        with running.progress() as shown:
            running.start("0000")
            shown.update(now=True)
            logging.getLogger("esam_tune.study").warning("storage [is] full")
            clock.now += 1
            shown.update()
            lines = on_screen(running)
        assert lines[0] == "storage [is] full"
        assert lines[1] == "small: 0/4 trials, 0:01 elapsed"
        assert sum(line.startswith("small: ") for line in lines) == 1
        assert handler.stream is running.screen
    finally:
        logging.getLogger().removeHandler(handler)


def test_a_terminal_without_a_cursor_gets_lines(tmp_path, clock, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    running = Running(tmp_path, terminal=True)
    with running.progress():
        running.trial("0000", 0.9, 1.0)
    (line,) = running.shown().splitlines()
    assert line.endswith("0000 ESAM: val acc 90.0%, FLOPs/SGD 1.00")
    assert "\x1b[" not in line


def test_off_a_terminal_a_line_now_and_then_says_that_trials_go_on(tmp_path, clock):
    running = Running(tmp_path)
    with running.progress() as shown:
        running.start("0000")
        running.epoch("0000", 4)
        for _ in range(11):
            clock.now += 60
            shown.update()
    lines = running.shown().splitlines()
    assert [line.split("  ")[0][:40] for line in lines] == [
        "small: 0/4 trials, 5:00 elapsed, left: 3",
        "small: 0/4 trials, 10:00 elapsed, left: ",
    ]
    assert all(line.endswith("  running: 0000 epoch 4/10") for line in lines)


def test_a_line_off_a_terminal_tells_what_is_left(tmp_path, clock):
    running = Running(tmp_path)
    with running.progress():
        clock.now += 30
        running.trial("0000", 0.9, 1.5)
    (line,) = running.shown().splitlines()
    assert ", left: 30 epochs at the cost of 45 of SGD, about 1:30  0000 " in line
