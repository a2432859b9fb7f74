"""The communication model: its equations, its limits, and the recovery of what made the times."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esam_tune.scaling.communication import (
    AllReduceTime,
    Model,
    Network,
    StepTime,
    expected_largest,
    fit,
    fit_network,
)
from esam_tune.scaling.records import Traffic

MEGA = 1_000_000
# The machine that runs the tests may be busy: a time limit would fail them at random.
unhurried = settings(max_examples=50)
latencies = st.floats(1e-6, 5e-3)
bandwidths = st.floats(1e6, 1e11)
shares = st.floats(0.0, 1.0)
spreads = st.floats(0.0, 0.5)
TRAFFIC = Traffic(message_bytes=(8 * MEGA, 8 * MEGA, 2 * MEGA), lead_seconds=(0.08, 0.03, 0.0))
ONE_BUCKET = Traffic(message_bytes=(4 * MEGA,), lead_seconds=(0.0,))


def network(latency, bandwidth):
    return Network(latency=latency, seconds_per_byte=1 / bandwidth)


def timed_all_reduces(true, counts, sizes=((4096,), (MEGA,), (8 * MEGA, 2 * MEGA))):
    return [
        AllReduceTime(
            workers=k,
            message_bytes=messages,
            seconds=sum(true.all_reduce(size, k) for size in messages),
        )
        for k in counts
        for messages in sizes
    ]


def timed_steps(true, counts, cases):
    return [
        StepTime(
            workers=k, compute=compute, traffic=traffic, seconds=true.step(compute, traffic, k)
        )
        for k in counts
        for compute, traffic in cases
    ]


def test_ring_all_reduce_of_three_workers_by_hand():
    # Four turns, each one latency and a third of the bytes.
    assert network(0.001, 1e6).all_reduce(3e6, 3) == pytest.approx(4 * (0.001 + 1.0))


def test_one_worker_sends_nothing():
    model = Model(network=network(1.0, 1.0), overlap=0.5, spread=0.3)
    assert model.step(0.1, TRAFFIC, 1) == 0.1


def test_exposed_time_by_hand():
    # Two workers at 100 MB/s: 8 MB take 80 ms, 2 MB 20 ms: the one is done when the other is ready.
    traffic = Traffic(message_bytes=(8 * MEGA, 2 * MEGA), lead_seconds=(0.08, 0.0))
    assert network(0.0, 1e8).exposed(traffic, 2) == pytest.approx(0.02)
    late = Traffic(message_bytes=(8 * MEGA, 2 * MEGA), lead_seconds=(0.05, 0.0))
    assert network(0.0, 1e8).exposed(late, 2) == pytest.approx(0.03 + 0.02)


@unhurried
@given(latencies, bandwidths, st.integers(2, 1024))
def test_what_is_exposed_lies_between_the_last_bucket_and_all_of_them(latency, bandwidth, workers):
    link = network(latency, bandwidth)
    exposed = link.exposed(TRAFFIC, workers)
    last = link.all_reduce(TRAFFIC.message_bytes[-1], workers)
    assert last * (1 - 1e-12) <= exposed <= link.serial(TRAFFIC, workers) * (1 + 1e-12)


def test_expected_largest_of_two_and_three_in_closed_form():
    assert expected_largest(2) == pytest.approx(1 / np.sqrt(np.pi), rel=1e-12)
    assert expected_largest(3) == pytest.approx(1.5 / np.sqrt(np.pi), rel=1e-12)


@pytest.mark.parametrize("workers", [16, 1024])
def test_expected_largest_agrees_with_draws(workers):
    draws = np.random.default_rng(0).standard_normal((20_000, workers)).max(axis=1)
    error = draws.std() / np.sqrt(len(draws))
    assert abs(expected_largest(workers) - draws.mean()) < 4 * error


def test_expected_largest_grows_and_starts_at_zero():
    values = [expected_largest(k) for k in range(1, 50)]
    assert values[0] == 0.0
    assert all(after > before for before, after in pairwise(values))


@unhurried
@given(latencies, bandwidths, st.sampled_from([(2,), (2, 4), (2, 3, 8)]))
def test_network_is_recovered_from_exact_times(latency, bandwidth, counts):
    true = network(latency, bandwidth)
    found = fit_network(timed_all_reduces(true, counts))
    assert found.latency == pytest.approx(latency, rel=1e-4)
    assert found.seconds_per_byte == pytest.approx(1 / bandwidth, rel=1e-3)


@unhurried
@given(latencies, st.floats(1e8, 1e9), shares, spreads)
def test_all_four_parameters_are_recovered_from_exact_steps(latency, bandwidth, overlap, spread):
    true = Model(network=network(latency, bandwidth), overlap=overlap, spread=spread)
    steps = timed_steps(true, (2, 4), [(0.2, TRAFFIC), (0.3, TRAFFIC)])
    found = fit(steps, timed_all_reduces(true.network, (2, 4)))
    assert found.network.latency == pytest.approx(latency, rel=1e-4)
    assert found.overlap == pytest.approx(overlap, abs=1e-3)
    assert found.spread == pytest.approx(spread, abs=1e-3)
    # And so a count that was never measured is told.
    assert found.step(0.2, TRAFFIC, 256) == pytest.approx(true.step(0.2, TRAFFIC, 256), rel=1e-2)


@unhurried
@given(latencies, bandwidths, spreads)
def test_one_bucket_leaves_overlap_untold(latency, bandwidth, spread):
    true = Model(network=network(latency, bandwidth), overlap=None, spread=spread)
    found = fit(
        timed_steps(true, (2, 4), [(0.2, ONE_BUCKET)]), timed_all_reduces(true.network, (2, 4))
    )
    assert found.overlap is None
    assert found.spread == pytest.approx(spread, abs=1e-3)


def test_steps_faster_than_one_workers_are_not_explained_by_negative_times():
    link = network(1e-6, 1e10)
    steps = [StepTime(workers=2, compute=0.2, traffic=ONE_BUCKET, seconds=0.15)]
    found = fit(steps, timed_all_reduces(link, (2,)))
    assert found.spread == 0.0
    assert found.network.latency >= 0
    assert found.network.seconds_per_byte >= 0


def test_times_that_do_not_grow_with_the_bytes_give_infinite_bandwidth():
    times = {4096: 1.1e-3, MEGA: 1.0e-3}
    found = fit_network(
        [AllReduceTime(workers=2, message_bytes=(n,), seconds=t) for n, t in times.items()]
    )
    assert found.bandwidth == float("inf")
    assert 5.0e-4 < found.latency < 5.5e-4


def test_one_size_of_message_cannot_tell_latency_from_bandwidth():
    with pytest.raises(ValueError, match="2 sizes"):
        fit_network([AllReduceTime(workers=2, message_bytes=(MEGA,), seconds=0.1)])


def test_a_fit_needs_a_step():
    with pytest.raises(ValueError, match="at least 1 measured step"):
        fit([], timed_all_reduces(network(1e-4, 1e8), (2,)))


@unhurried
@given(latencies, bandwidths, shares, spreads)
def test_a_step_never_gets_shorter_with_more_workers(latency, bandwidth, overlap, spread):
    model = Model(network=network(latency, bandwidth), overlap=overlap, spread=spread)
    times = [model.step(0.1, TRAFFIC, 2**n) for n in range(11)]
    assert all(after >= before * (1 - 1e-12) for before, after in pairwise(times))


@unhurried
@given(shares, spreads, st.sampled_from([2, 64, 1024]))
def test_limits_of_the_network(overlap, spread, workers):
    compute = 0.1
    free = Model(network=network(0.0, 1e30), overlap=overlap, spread=spread)
    alone = compute * (1 + spread * expected_largest(workers))
    assert free.step(compute, TRAFFIC, workers) == pytest.approx(alone)
    # On the slowest of networks nothing but the bytes counts, and hiding does not help.
    slow = Model(network=network(0.0, 1.0), overlap=overlap, spread=spread)
    total = 2 * (workers - 1) / workers * sum(TRAFFIC.message_bytes)
    assert slow.step(compute, TRAFFIC, workers) == pytest.approx(total, rel=1e-3)


@unhurried
@given(latencies, bandwidths, shares, spreads, st.integers(2, 1024), st.floats(1.01, 3.0))
def test_more_compute_for_the_same_bytes_is_more_efficient(
    latency, bandwidth, overlap, spread, workers, more
):
    model = Model(network=network(latency, bandwidth), overlap=overlap, spread=spread)
    sgd = 0.1 / model.step(0.1, TRAFFIC, workers)
    esam = 0.1 * more / model.step(0.1 * more, TRAFFIC, workers)
    assert esam >= sgd * (1 - 1e-12)


def test_a_shorter_last_pass_hides_less_and_can_be_the_less_efficient():
    """The network just keeps up with SGD's backward pass; ESAM's last one is half as long."""
    leads = (0.060, 0.048, 0.036, 0.024, 0.012, 0.0)
    buckets = (8 * MEGA,) * 6
    sgd = Traffic(message_bytes=buckets, lead_seconds=leads)
    esam = Traffic(message_bytes=buckets, lead_seconds=tuple(lead / 2 for lead in leads))
    model = Model(network=network(0.0, 1.2e9), overlap=1.0, spread=0.0)
    assert 0.1 / model.step(0.1, sgd, 8) > 0.15 / model.step(0.15, esam, 8)
    slow = network(0.0, 1.2e7)
    assert 0.1 / model.step(0.1, sgd, 8, slow) < 0.15 / model.step(0.15, esam, 8, slow)
