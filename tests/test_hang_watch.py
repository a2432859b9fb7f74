"""Who has said nothing for too long, on a clock of the test's own."""

from esam_tune.study.hang_watch import HangWatch


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def watched(limit=30.0):
    clock = Clock()
    return clock, HangWatch(limit, clock)


def passes(clock, watch, seconds, step=1.0):
    """Look once a step; what the last look says."""
    said = []
    for _ in range(round(seconds / step)):
        clock.now += step
        said = watch.look()
    return said


def test_a_run_has_hung_when_it_is_silent_for_longer_than_the_limit():
    clock, watch = watched()
    watch.heard("a")
    assert passes(clock, watch, 30) == []
    assert passes(clock, watch, 1) == ["a"]
    watch.ended("a")
    assert passes(clock, watch, 100) == []


def test_a_report_begins_the_count_anew_and_others_are_counted_apart():
    clock, watch = watched()
    watch.heard("a")
    watch.heard("b")
    passes(clock, watch, 20)
    watch.heard("a")
    assert passes(clock, watch, 20) == ["b"]
    watch.heard("b")
    assert passes(clock, watch, 11) == ["a"]


def test_time_in_which_the_driver_itself_was_held_up_does_not_count():
    clock, watch = watched()
    watch.heard("a")
    passes(clock, watch, 5)
    # Stopped for a day, or waiting for a full disk: reports of that time are still to be read.
    assert passes(clock, watch, 86_400, step=86_400) == []
    assert passes(clock, watch, 15) == []
    assert passes(clock, watch, 1) == ["a"]


def test_a_run_that_is_not_known_can_end():
    clock, watch = watched()
    watch.ended("a")
    assert passes(clock, watch, 60) == []
