"""Rungs: who goes on, what a replay must give again, and that no bad learner hides in its cost."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from optuna.study._multi_objective import _fast_non_domination_rank
from study_events import WrittenStudy, study_spec

from esam_tune import journal
from esam_tune.pareto_front import front
from esam_tune.study.rungs import Objectives, Rungs, layers, rung_epochs
from esam_tune.study.study_rungs import StudyRungs

ACCURACY_AND_COST = Objectives(static=(False, True))

# A few levels only, so that ties and duplicates are common.
LEVELS = st.integers(0, 5).map(float)


def tables(columns=2, rows=12):
    shape = st.integers(1, rows).map(lambda n: (n, columns))
    return shape.flatmap(lambda shape: hnp.arrays(np.float64, shape, elements=LEVELS))


@st.composite
def objectives(draw):
    static = draw(st.sampled_from([(False,), (False, True), (False, False), (True, False, True)]))
    margins = [draw(st.sampled_from([0.0, 1.0, 2.5])) for _ in range(2)]
    return Objectives(static=static, margin=max(margins), contender_margin=min(margins))


def with_tables():
    return objectives().flatmap(lambda o: st.tuples(st.just(o), tables(len(o.static))))


def dominates(first, second):
    return bool((first <= second).all() and (first < second).any())


@pytest.mark.parametrize(
    ("grace", "eta", "last", "epochs"),
    [
        (1, 3.0, 30, (1, 3, 9, 27)),
        (10, 3.0, 30, (10,)),
        (10, 3.0, 31, (10, 30)),
        (30, 3.0, 30, ()),
        (2, 1.2, 6, (2, 3, 4, 5)),
        (1, 2.0, 2, (1,)),
    ],
)
def test_rungs_stand_at_powers_of_eta_below_the_last_epoch(grace, eta, last, epochs):
    assert rung_epochs(grace, eta, last) == epochs


@given(with_tables())
def test_whoever_beats_another_is_in_a_lower_layer_and_every_layer_but_the_first_is_beaten(case):
    objectives, costs = case
    beats = objectives.beats(costs, costs, np.arange(len(costs)) % 3 > 0)
    found = layers(beats)
    assert (found >= 0).all()
    assert (found[np.nonzero(beats)[0]] < found[np.nonzero(beats)[1]]).all()
    for row in np.flatnonzero(found):
        assert (beats[:, row] & (found == found[row] - 1)).any()


@given(with_tables())
def test_whoever_dominates_another_is_beaten_by_no_more_than_it(case):
    objectives, costs = case
    beats = objectives.beats(costs, costs, np.arange(len(costs)) % 3 > 0)
    for first in range(len(costs)):
        for second in range(len(costs)):
            if dominates(costs[first], costs[second]):
                assert beats[first, second]
                assert set(np.flatnonzero(beats[:, first])) <= set(np.flatnonzero(beats[:, second]))


@given(tables(2))
def test_without_a_margin_the_first_layer_is_the_pareto_front(costs):
    found = layers(
        Objectives(static=(False, True), margin=0.0).beats(
            costs, costs, np.arange(len(costs)) % 3 > 0
        )
    )
    assert ((found == 0) == front(costs)).all()


@given(tables(2))
def test_layers_are_those_of_optuna(costs):
    found = layers(
        Objectives(static=(False, False)).beats(costs, costs, np.arange(len(costs)) % 3 > 0)
    )
    assert (found == _fast_non_domination_rank(costs)).all()


# One layer, by accuracy; the second and third are close neighbours.
LAYER = np.array(
    [[-0.9, math.log(2.0)], [-0.8, math.log(1.5)], [-0.79, math.log(1.49)], [-0.5, 0.0]]
)


def test_crowding_is_the_gap_between_neighbours_and_only_the_most_accurate_is_infinitely_far():
    found = ACCURACY_AND_COST.crowding(LAYER)
    assert found[0] == math.inf
    # Accuracies span 0.4, costs a factor of 2. An end counts the gap on its one side twice.
    assert found[1:] == pytest.approx(
        [
            (0.9 - 0.79) / 0.4 + math.log2(2.0 / 1.49),
            (0.8 - 0.5) / 0.4 + math.log2(1.5 / 1.0),
            2 * (0.79 - 0.5) / 0.4 + 2 * math.log2(1.49 / 1.0),
        ]
    )
    both_learned = Objectives(static=(False, False)).crowding(LAYER)
    assert np.isinf(both_learned).tolist() == [True, False, False, True]


@pytest.mark.parametrize("row", range(4))
def test_equal_trials_are_not_apart_at_all(row):
    found = ACCURACY_AND_COST.crowding(np.vstack([LAYER, LAYER[row]]))
    assert (found == 0.0).tolist() == [index in (row, 4) for index in range(5)]
    assert ACCURACY_AND_COST.crowding(LAYER[[row] * 3]).tolist() == [0.0] * 3


@given(with_tables(), st.data())
def test_crowding_depends_neither_on_order_nor_on_units(case, data):
    objectives, costs = case
    found = objectives.crowding(costs)
    order = data.draw(st.permutations(range(len(costs))))
    assert (objectives.crowding(costs[order]) == found[order]).all()
    # Powers of two and whole numbers, so that no digit is lost.
    units = [data.draw(st.sampled_from([0.25, 1.0, 8.0])) for _ in objectives.static]
    zeros = [data.draw(st.sampled_from([-4.0, 0.0, 16.0])) for _ in objectives.static]
    assert (objectives.crowding(costs * units + zeros) == found).all()
    assert (found >= 0).all()


@pytest.mark.parametrize(
    ("last", "goes_on"),
    [((-0.8, math.log(1.5)), False), ((-0.65, math.log(1.2)), True)],
    ids=["beside another", "apart"],
)
def test_within_a_layer_whoever_is_apart_goes_on(last, goes_on):
    """Three of four go on; nobody beats anybody, so nothing but the crowding tells them apart."""
    rungs = Rungs([1], 1.5, ACCURACY_AND_COST)
    for number, costs in enumerate(LAYER[[0, 2, 3]].tolist()):
        rungs.report(str(number), 1, costs)
    assert rungs.report("last", 1, last) == goes_on
    assert rungs.stopped("last") == (None if goes_on else "stopped after epoch 1: rank 4 of 4")


def ended(rungs, reports, epoch=1):
    """Ids of the trials that go on, of values reported one after another."""
    for number, costs in enumerate(reports):
        rungs.report(str(number), epoch, costs)
    return [number for number in range(len(reports)) if rungs.stopped(str(number)) is None]


@given(with_tables(), st.sampled_from([1.5, 2.0, 3.0, 4.0]), st.integers(0, 2), st.data())
def test_who_dominates_one_that_goes_on_would_go_on_in_its_place(case, eta, gain, data):
    objectives, costs = case
    rungs = Rungs([1], eta, objectives)
    ended(rungs, costs[:-1].tolist())
    other = Rungs([1], eta, objectives)
    ended(other, costs[:-1].tolist())
    better = costs[-1].copy()
    better[data.draw(st.integers(0, len(better) - 1))] -= gain
    if rungs.report("last", 1, costs[-1].tolist()):
        assert other.report("last", 1, better.tolist())


@given(with_tables(), st.sampled_from([1.5, 2.0, 3.0]))
def test_reports_told_twice_decide_once(case, eta):
    objectives, costs = case
    reports = [(str(i), epoch, row) for epoch in (1, 2) for i, row in enumerate(costs.tolist())]
    first, second = (Rungs([1, 2], eta, objectives) for _ in range(2))
    answers = [first.report(*report) for report in reports]
    half = len(reports) // 2
    for report in reports[:half]:
        second.report(*report)
    for report in reports[:half]:
        assert second.report(*report) == (second.stopped(report[0]) is None)
    assert [second.report(*report) for report in reports[half:]] == answers[half:]
    assert [first.stopped(str(i)) for i in range(len(costs))] == [
        second.stopped(str(i)) for i in range(len(costs))
    ]


@given(st.permutations(range(9)))
def test_asha_lets_the_best_third_go_on_whatever_the_order(order):
    rungs = Rungs([1], 3.0, Objectives(static=(False,)))
    for rank in order:
        rungs.report(str(rank), 1, [float(rank)])
    goes_on = {rank for rank in range(9) if rungs.stopped(str(rank)) is None}
    # The best of all is never stopped, and the last to come only if it is not among the best.
    assert 0 in goes_on
    assert (order[-1] in goes_on) == (order[-1] < 3)
    assert order[0] in goes_on


def test_a_trial_is_ranked_at_each_rung_once_and_when_it_skipped_one():
    rungs = Rungs([2, 4], 2.0, Objectives(static=(False,)))
    assert rungs.report("a", 1, [9.0])
    assert rungs.report("a", 2, [0.1])
    assert rungs.report("a", 3, [9.0])
    assert not rungs.report("b", 4, [0.5])
    assert rungs.stopped("b") == "stopped after epoch 2: rank 2 of 2"
    assert rungs.report("c", 5, [0.05])
    assert rungs.report("a", 4, [0.04])
    assert not rungs.report("b", 5, [0.0])


def test_what_is_not_finite_is_stopped_and_nobody_is_compared_with_it():
    rungs = Rungs([1], 3.0, ACCURACY_AND_COST)
    assert not rungs.report("nan", 1, [math.nan, 0.0])
    assert rungs.stopped("nan") == "stopped after epoch 1: an objective is not finite"
    assert rungs.report("first", 1, [0.5, 0.0])
    assert rungs.report("baseline", 1, [math.nan, 0.0], exempt=True)
    assert rungs.stopped("baseline") is None


def test_baselines_go_on_take_no_place_and_shape_the_ranking():
    with_baseline, alone = (Rungs([1], 2.0, ACCURACY_AND_COST) for _ in range(2))
    assert with_baseline.report("SGD", 1, [-0.7, 0.0], exempt=True)
    for rungs in (with_baseline, alone):
        # The first contender goes on even behind a baseline: that takes no place.
        assert rungs.report("a", 1, [-0.6, 0.3])
    # Cheaper than the only other contender by more than the margin, so not beaten by it; but no
    # better than the baseline, and less accurate: one of the two goes on, and that is "a".
    assert not with_baseline.report("b", 1, [-0.5, 0.15])
    assert with_baseline.stopped("b") == "stopped after epoch 1: rank 2 of 2"
    # A baseline that everyone beats is let through.
    assert with_baseline.report("bad", 1, [-0.1, 1.0], exempt=True)


def learners(margin, seed, *, baseline=True, trials=150):
    """How many go on, of trials the cheaper half of which never learns."""
    rng = np.random.default_rng(seed)
    margin = math.log1p(margin)
    objectives = Objectives(
        static=(False, True), margin=margin, contender_margin=0.0 if baseline else margin
    )
    rungs = Rungs(rung_epochs(1, 3.0, 27), 3.0, objectives)
    accuracies = {epoch: 0.5 + 0.03 * epoch for epoch in (1, 3, 9)}
    for epoch, accuracy in accuracies.items() if baseline else ():
        rungs.report("SGD", epoch, [-accuracy, math.log(1.0)], exempt=True)
    kept = {"bad": 0, "good": 0}
    for number in range(trials):
        kind = "bad" if number % 2 else "good"
        cost = rng.uniform(0.92, 1.1) if kind == "bad" else rng.uniform(1.0, 2.0)
        goes_on = True
        for epoch, accuracy in accuracies.items():
            level = 0.1 if kind == "bad" else accuracy + 0.1
            goes_on = rungs.report(
                str(number), epoch, [-level - rng.normal(scale=0.02), math.log(cost)]
            )
        kept[kind] += goes_on
    return kept


def test_being_cheapest_does_not_let_bad_learners_live():
    plain = [learners(0.0, seed) for seed in range(5)]
    ours = [learners(0.1, seed) for seed in range(5)]
    assert sum(kept["bad"] for kept in ours) == 0, ours
    assert all(kept["good"] >= 2 for kept in ours)
    # Domination alone lets those through that are cheapest so far, and their neighbours.
    assert all(kept["bad"] for kept in plain), plain


def test_a_bad_learner_that_is_cheapest_by_far_breaks_a_constraint_and_goes_on(tmp_path):
    """An accuracy below the bound at a rung says nothing of the end, so no constraint stops it."""
    study = WrittenStudy(
        tmp_path / "journal.jsonl",
        study_spec(
            training={"epochs": 9, "batch_size": 64, "lr": 0.05},
            early_stopping={"kind": "pareto", "grace_epochs": 1, "eta": 3},
            constraints={"val_accuracy": ">= 0.9"},
            trials=9,
        ),
    )
    trials = [study.start({"optimizer": "sgd"}, baseline=True), *(study.start() for _ in range(9))]
    *others, slow, cheap = trials
    for epoch in range(1, 10):
        for trial_id, cost in zip(others, np.linspace(1.0, 2.0, len(others)), strict=True):
            study.epoch(trial_id, epoch, val_accuracy=0.92 + cost / 50, step_flops_ratio=cost)
        # One as cheap as nothing else that learns late, and one cheaper still that never does.
        study.epoch(slow, epoch, val_accuracy=0.1 + 0.09 * epoch, step_flops_ratio=0.89)
        study.epoch(cheap, epoch, val_accuracy=0.1, step_flops_ratio=0.8)
    rungs = StudyRungs.rebuilt(study.record(), (event for event, _ in journal.read(study.path)))
    for trial_id in (slow, cheap):
        assert rungs.stopped(trial_id) is None
        study.end(trial_id)
    assert [trial.trial_id for trial in study.record().front()] == [slow]


def test_without_baselines_others_of_about_the_price_bound_the_bad_learners():
    plain = [learners(0.0, seed, baseline=False) for seed in range(5)]
    ours = [learners(0.1, seed, baseline=False) for seed in range(5)]
    assert 2 * sum(kept["bad"] for kept in ours) <= sum(kept["bad"] for kept in plain)
    assert sum(kept["good"] for kept in ours) >= sum(kept["good"] for kept in plain)
