"""The stored learning curves, and that searches can still be replayed on them."""

import math
import statistics
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from search_replay import Method, pareto_rungs, replay
from stored_curves import CURVES, Pool, load

from esam_tune.study.space import load_space
from esam_tune.study.spec import Baseline

BUDGET = 120


@pytest.fixture(scope="module")
def task():
    return load(CURVES)


def test_the_stored_curves_are_whole_trainings_of_the_space_and_its_baselines(task):
    assert len(task.settings) >= 200
    assert len(task.baselines) == 4
    for curve in (*task.settings, *task.baselines.values()):
        assert len(curve.accuracy) == task.spec.training.epochs == 30
        assert all(0 <= accuracy <= 1 for accuracy in curve.accuracy)
        assert 0.9 < curve.cost < 2.5
    for curve in task.settings:
        assert curve.params == task.spec.completed(curve.params)
    assert len({tuple(sorted(curve.params.items())) for curve in task.settings}) == 256
    # Of ten classes; some settings learn nothing, which a search has to find out.
    assert statistics.median(curve.accuracy[-1] for curve in task.settings) > 0.7


def test_the_stored_space_is_the_one_that_is_shipped(task):
    shipped = load_space(REPOSITORY / "search_spaces" / "digits_rivals.yaml")
    for part in ("task", "training", "fixed", "dimensions", "objectives", "baselines"):
        assert getattr(task.spec, part) == getattr(shipped, part)
    assert Baseline(label="SGD", params=dict(task.baselines["SGD"].params)) in shipped.baselines


def test_optimizers_are_left_out_of_space_pool_and_baselines(task):
    rest = load(CURVES, without=["msam"])
    assert "msam" in {curve.params["optimizer"] for curve in task.settings}
    assert "msam" not in {curve.params["optimizer"] for curve in rest.settings}
    assert "msam" not in rest.spec.dimensions["optimizer"].choices
    assert len(rest.settings) >= 200
    assert rest.reference == task.reference


def test_the_nearest_setting_is_run_and_none_twice(task):
    pool = Pool(task)
    taken = [pool.take(task.settings[7].params) for _ in range(len(task.settings) + 1)]
    assert taken[0] == task.settings[7]
    assert taken[-1] is None
    assert {curve.name for curve in taken[:-1]} == {curve.name for curve in task.settings}
    kinds = [curve.params["optimizer"] for curve in taken[:-1]]
    own = kinds.count(kinds[0])
    assert set(kinds[:own]) == {kinds[0]}


@pytest.mark.parametrize(
    "method",
    [
        Method(sampler="random"),
        Method(sampler="tpe", rungs=pareto_rungs(10, 3.0)),
        Method(sampler="known_cost"),
    ],
    ids=["random", "rungs", "known cost"],
)
def test_a_short_replay_spends_its_budget_and_holds_ever_more(task, method):
    found = replay(task, method, seed=1, budget=BUDGET, workers=4)
    assert list(found.epochs) == sorted(found.epochs)
    assert 0 < found.epochs[-1] <= BUDGET
    assert list(found.volume) == sorted(found.volume)
    assert found.at(BUDGET) == found.volume[-1] >= 0
    assert found.reaches(found.volume[-1]) <= BUDGET
    assert found.reaches(math.inf) == math.inf
    assert 0 <= found.wasted <= BUDGET
    if method.rungs is None:
        # Four at a time, thirty epochs each; who has ended makes room for another.
        assert (found.trials, found.stopped, len(found.epochs)) == (8, 0, 4)
    else:
        assert found.trials > 8
        assert 0 < found.stopped < found.trials


def test_a_replay_depends_on_nothing_but_its_seed(task):
    method = Method(sampler="tpe", rungs=pareto_rungs(10, 3.0))
    first, again, other = (replay(task, method, seed, BUDGET, workers=4) for seed in (1, 1, 2))
    assert first == again != other
