"""The sampler that knows the cost: its arithmetic, what it makes of trials, what it finds."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from study_events import study_spec

from esam_tune.errors import InputError
from esam_tune.failures import failure_of
from esam_tune.pareto_front import hypervolume
from esam_tune.study.expected_gain import accuracy, expected_gain, front_inside, score
from esam_tune.study.known_cost import KnownCost, Seen, _final, encoded
from esam_tune.study.search_checks import check_search
from esam_tune.study.trial_record import RunRecord, TrialRecord
from esam_tune.study.warm_start import WarmTrial
from esam_tune.training import DivergedError

# As a run's end is recorded.
DIVERGED = str(failure_of(DivergedError("training loss is nan in epoch 2")))
CORNER = np.array([-0.5, 2.0])
SHARE = st.floats(0.0, 0.998)
POINTS = st.lists(st.tuples(SHARE, st.floats(0.5, 3.0)), max_size=6)


def minimised(points):
    return np.array([[-accuracy, cost] for accuracy, cost in points]).reshape(-1, 2)


@given(points=POINTS, reached=SHARE, cost=st.floats(0.5, 3.0))
def test_without_doubt_the_gain_is_the_hypervolume_that_a_point_adds(points, reached, cost):
    held = minimised(points)
    front = front_inside(held, CORNER)
    gain = expected_gain(
        np.atleast_1d(score(reached)), np.zeros(1), np.array([cost]), front, CORNER
    )
    both = np.vstack([held, [[-reached, cost]]])
    added = hypervolume(both, CORNER) - hypervolume(held, CORNER)
    assert gain[0] == pytest.approx(added, abs=1e-9)


def test_in_doubt_the_gain_is_the_mean_over_what_may_come():
    random = np.random.default_rng(0)
    held = minimised([(0.8, 1.2), (0.9, 1.5), (0.95, 1.8)])
    front = front_inside(held, CORNER)
    for mean, deviation, cost in [(2.3, 0.4, 1.3), (3.0, 0.2, 1.7), (1.0, 0.6, 1.0)]:
        gain = expected_gain(
            np.array([mean]), np.array([deviation]), np.array([cost]), front, CORNER
        )
        drawn = -accuracy(mean + deviation * random.standard_normal(4000))
        before = hypervolume(held, CORNER)
        added = [hypervolume(np.vstack([held, [[d, cost]]]), CORNER) - before for d in drawn]
        # Three standard errors of the simulation, and 2 % for the quadrature over kinks.
        bound = 3 * np.std(added) / math.sqrt(len(added)) + 0.02 * np.mean(added)
        assert gain[0] == pytest.approx(np.mean(added), abs=bound)


@given(reached=st.floats(0.0, 0.998))
def test_a_score_is_an_accuracy_on_another_scale(reached):
    assert accuracy(score([reached]))[0] == pytest.approx(reached)
    assert math.isfinite(score([1.0])[0])


def trial(number, params, accuracies, state="complete", *, baseline=False, reason=None):
    run = RunRecord(
        run_id=f"{number:04d}",
        trial_id=f"{number:04d}",
        seed=0,
        state=state,
        reason=reason,
        epochs=len(accuracies),
        accuracies=list(accuracies),
    )
    if accuracies:
        run.metrics = {"val_accuracy": accuracies[-1]}
    return TrialRecord(
        trial_id=run.trial_id,
        label="a trial",
        params=params,
        baseline=baseline,
        optuna_number=None,
        seeds=1,
        runs=[run],
    )


def price(params):
    return {"sgd": 1.0, "sam": 2.0}.get(params["optimizer"]) or 0.8 + params.get("beta", 1.0)


def learned(params):
    """Best at rho = 0.2 and with a large beta: what a search has to find out."""
    return 0.97 - 0.15 * math.log10(params["rho"] / 0.2) ** 2 - 0.1 * (1 - params["beta"]) ** 2


BASELINES = [
    trial(0, {"optimizer": "sgd"}, [0.8], baseline=True),
    trial(1, {"optimizer": "sam", "rho": 0.05}, [0.95], baseline=True),
]


def volume_found(seed, trials=14, *, random=False):
    """Hypervolume over the baselines' box that a search of a known surface holds at its end."""
    spec = study_spec(seed=seed, sampler="known_cost")
    sampler = KnownCost(spec, price)
    for baseline in BASELINES:
        sampler.learn(baseline)
    draws, found = np.random.default_rng(seed), []
    for index in range(trials):
        if random:
            point = {key: d.at(draws.random()) for key, d in spec.ordered.items()}
        else:
            point = sampler.point(index, lambda _: True)
        params = spec.completed(point)
        sampler.learn(trial(index + 2, params, [learned(params)]))
        found.append((learned(params), price(params)))
    return hypervolume(minimised(found), np.array([-0.8, 2.0]))


def test_it_finds_more_than_random_search_in_as_many_trials():
    found = [volume_found(seed) for seed in range(4)]
    by_chance = [volume_found(seed, random=True) for seed in range(4)]
    assert sum(found) > sum(by_chance)
    assert min(found) > min(by_chance)


def begun(**changes):
    """A sampler of a study whose first, spread trials are over."""
    spec = study_spec(sampler="known_cost", **changes)
    sampler = KnownCost(spec, price)
    for baseline in BASELINES:
        sampler.learn(baseline)
    for index in range(5):
        params = spec.completed(sampler.point(index, lambda _: True))
        sampler.learn(trial(index + 2, params, [learned(params)]))
    return spec, sampler


def test_settings_tried_at_the_same_time_are_apart():
    spec, sampler = begun()
    first = sampler.point(5, lambda _: True)
    # The same question, asked as if nobody had taken the answer, has the same answer.
    assert sampler.point(5, lambda _: True) == first
    sampler.start("0007", spec.completed(first))
    second = sampler.point(5, lambda _: True)
    rows = np.array([encoded(spec, first), encoded(spec, second)])
    assert np.abs(rows[0] - rows[1]).max() > 0.02


def test_only_what_is_worth_a_trial_is_proposed():
    _, sampler = begun()
    assert sampler.point(5, lambda params: params["beta"] < 0.5)["beta"] < 0.5
    assert sampler.point(5, lambda _: False) == {}
    assert sampler.point(0, lambda _: False) == {}


@pytest.mark.parametrize("accuracies", [[], [0.3]], ids=["at once", "after an epoch"])
def test_a_diverged_neighbourhood_is_left_alone(accuracies):
    spec, sampler = begun()
    wanted = sampler.point(5, lambda _: True)
    params = spec.completed(wanted)
    sampler.learn(trial(9, params, accuracies, "failed", reason=DIVERGED))
    other = sampler.point(5, lambda _: True)
    rows = np.array([encoded(spec, wanted), encoded(spec, other)])
    assert np.abs(rows[0] - rows[1]).max() > 0.02


def test_a_setting_that_diverges_under_a_later_seed_is_left_alone_too():
    spec, sampler = begun()
    wanted = sampler.point(5, lambda _: True)
    learned_of = trial(9, spec.completed(wanted), [0.95])
    again = {"run_id": "0009-s1", "seed": 1, "state": "failed", "reason": DIVERGED}
    learned_of.runs.append(replace(learned_of.runs[0], **again))
    sampler.learn(learned_of)
    other = sampler.point(5, lambda _: True)
    rows = np.array([encoded(spec, wanted), encoded(spec, other)])
    assert np.abs(rows[0] - rows[1]).max() > 0.02


def test_a_trial_lost_with_its_machine_says_nothing():
    spec, sampler = begun()
    wanted = sampler.point(5, lambda _: True)
    sampler.start("0009", spec.completed(wanted))
    lost = trial(9, spec.completed(wanted), [0.3], "failed", reason="the trial's process was lost")
    # Of an epoch that a later one would have made good, as an infinite loss may be.
    lost.runs[0].metrics["val_loss"] = None
    sampler.learn(lost)
    assert sampler.point(5, lambda _: True) == wanted


def test_an_earlier_studys_results_count():
    spec, sampler = begun()
    wanted = sampler.point(5, lambda _: True)
    told = {"val_accuracy": 0.6, "step_flops_ratio": 1.2}
    warm = WarmTrial(trial_id="0003", params=spec.completed(wanted), state="complete", metrics=told)
    sampler.learn_warm("other/0003", warm)
    assert sampler.point(5, lambda _: True) != wanted


def test_a_stopped_trial_counts_with_what_others_gained_after_that_epoch():
    ended = [
        Seen(point={}, cost=1.0, accuracies=[0.5, a, b], ended=True) for a, b in [(0.6, 0.7)] * 2
    ]
    ended.append(Seen(point={}, cost=1.0, accuracies=[0.5, 0.6, 0.8], ended=True))
    stopped = Seen(point={}, cost=1.0, accuracies=[0.5, 0.55], ended=False)
    gains = [float(score(e.accuracies[2]) - score(e.accuracies[1])) for e in ended]
    expected = float(score(0.55)) + np.mean(gains), np.var(gains, ddof=1)
    assert _final(stopped, [*ended, stopped]) == pytest.approx(expected)
    assert _final(stopped, [*ended[:2], stopped]) is None
    assert _final(Seen(point={}, cost=1.0, accuracies=[], ended=False), ended) is None
    assert _final(ended[2], ended) == (float(score(0.8)), 0.0)


@pytest.mark.parametrize(
    ("constraints", "expected"),
    [
        ({}, (-0.8, 2.0)),
        ({"val_accuracy": ">= 0.9", "step_flops_ratio": "<= 1.4"}, (-0.9, 1.4)),
        ({"val_accuracy": ">= 0.7", "step_flops_ratio": "<= 3"}, (-0.8, 2.0)),
    ],
)
def test_what_counts_is_better_than_the_cheapest_and_cheaper_than_the_dearest_baseline(
    constraints, expected
):
    sampler = KnownCost(study_spec(sampler="known_cost", constraints=constraints), price)
    ended = [
        Seen(point={}, cost=1.0, accuracies=[0.8], ended=True, baseline=True),
        Seen(point={}, cost=1.0, accuracies=[0.7], ended=True),
        Seen(point={}, cost=1.0, accuracies=[0.95], ended=True, baseline=True),
    ]
    points = minimised([(0.8, 1.0), (0.7, 2.5), (0.95, 2.0)])
    assert tuple(sampler._corner(ended, points)) == expected


def test_without_baselines_that_span_costs_all_trials_say_what_counts():
    sampler = KnownCost(study_spec(sampler="known_cost"), price)
    ended = [
        Seen(point={}, cost=1.0, accuracies=[a], ended=True, baseline=a == 0.8) for a in (0.8, 0.7)
    ]
    assert tuple(sampler._corner(ended, minimised([(0.8, 1.0), (0.7, 2.5)]))) == (-0.7, 2.5)


@pytest.mark.parametrize(
    "objectives",
    [
        {"val_accuracy": "max", "step_time_ratio": "min"},
        {"val_accuracy": "max", "step_flops_ratio": "min", "val_loss": "min"},
    ],
)
def test_other_objectives_are_refused(objectives):
    spec = study_spec(sampler="known_cost", objectives=objectives)
    with pytest.raises(InputError, match="known_cost needs the objectives val_accuracy: max"):
        check_search(spec)
    check_search(study_spec(sampler="known_cost"))
