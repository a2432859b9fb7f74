"""A short soak: what sixty trials through the whole stack must not let grow."""

import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from many_trials import MOST_GROWTH, STARTING
from soak import Soak, soak

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.slow]

TRIALS = 60


@pytest.fixture(scope="module")
def study() -> Soak:
    # Ray's sockets want a shorter path than pytest's folders have.
    with tempfile.TemporaryDirectory(prefix="m") as folder:
        return soak(Path(folder), trials=TRIALS, sampler="random", every=15)


def test_all_trials_end_and_arrive_and_nothing_is_left_behind(study: Soak) -> None:
    assert study.states == {"complete": TRIALS + 1}
    assert not study.unsent
    assert (study.left_processes, study.left_files) == (0, 0)


def test_no_trial_leaves_memory_taken_files_open_or_processes_running(study: Soak) -> None:
    settled = [point.program for point in study.points[STARTING:]]
    assert len(settled) >= 2
    first, last = settled[0], settled[-1]
    trials = study.points[-1].trials - study.points[STARTING].trials
    assert trials >= 15
    assert last.memory < MOST_GROWTH * first.memory
    # Megabytes; a thousand trials add a thirtieth of it each.
    assert last.memory - first.memory < trials
    assert last.open_files - first.open_files < trials / 3
    assert last.threads - first.threads < trials / 3
    assert last.processes <= first.processes
    assert last.all_open_files - first.all_open_files < trials / 3


def test_each_trial_adds_as_much_to_the_disk_as_the_one_before(study: Soak) -> None:
    begin, middle, end = (study.points[row] for row in (1, len(study.points) // 2, -1))
    early = (middle.journal - begin.journal) / (middle.trials - begin.trials)
    late = (end.journal - middle.journal) / (end.trials - middle.trials)
    assert late == pytest.approx(early, rel=0.1)
    files = (end.storage_files - begin.storage_files) / (end.trials - begin.trials)
    assert files < 4
