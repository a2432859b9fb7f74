"""What a worker times, on a group of one worker in this process."""

import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from made_study import made_design, settings_document

from esam_tune.scaling.buckets import BucketClock
from esam_tune.scaling.measurement import _order, measure
from esam_tune.scaling.records import Cell, Plan, message_sets
from esam_tune.training import DivergedError

pytestmark = pytest.mark.filterwarnings("ignore:.broadcast_buffers. is deprecated")

CPU = torch.device("cpu")
PARAMETERS = 56_554  # of the small CNN


@contextmanager
def group_of_one():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()
        torch.set_num_threads(threads)


def cell(method="sgd", rows=8, lr=0.05, **params):
    document = settings_document(**{"optimizer": "sgd", **params})
    document["training"]["lr"] = lr
    return Cell(method=method, workers=1, rows=rows, settings=document)


def test_every_round_times_every_cell_and_every_method_has_its_traffic():
    plan = Plan(cells=[cell(), cell(rows=4), cell("chosen", optimizer="esam")], rounds=3, steps=2)
    with group_of_one():
        found = measure(plan, CPU)
    assert [(s.round, s.method, s.rows) for s in found.samples] == [
        (number, job.method, job.rows) for number in range(3) for job in _order(plan, number)
    ]
    assert {sample.kind for sample in found.samples} == {"step"}
    assert all(sample.seconds > 0 for sample in found.samples)
    assert found.traffic.keys() == {"sgd", "chosen"}
    for traffic in found.traffic.values():
        # ESAM all-reduces in its last pass only: exactly SGD's bytes.
        assert sum(traffic.message_bytes) == 4 * PARAMETERS
        assert traffic.lead_seconds[-1] == 0
    assert (found.device, found.backend) == ("cpu", "gloo")


def test_a_step_is_timed_over_whole_periods(monkeypatch):
    taken = []
    from esam_tune.optim import ESAM

    step = ESAM.step
    monkeypatch.setattr(ESAM, "step", lambda self, closure: taken.append(1) or step(self, closure))
    plan = Plan(cells=[cell("chosen", optimizer="esam", every=3)], rounds=1, steps=4)
    with group_of_one():
        measure(plan, CPU)
    # For the traffic 2 and 7 periods; then 2 to warm up, and 4 made up to 6.
    assert len(taken) == (2 + 7 * 3) + 2 + 6


def test_a_loss_that_is_not_finite_ends_the_measurement():
    plan = Plan(cells=[cell(lr=1e30)], rounds=1, steps=4)
    with group_of_one(), pytest.raises(DivergedError, match="sgd"):
        measure(plan, CPU)


def test_orders_differ_by_round_and_are_the_same_on_every_worker():
    made = made_design((1, 2, 4), "strong")
    plan = Plan(cells=made.cells(), rounds=5, steps=1, seed=3)
    orders = [_order(plan, number) for number in range(5)]
    again = [_order(Plan.from_dict(plan.to_dict()), number) for number in range(5)]
    assert orders == again
    assert len({str(order) for order in orders}) == 5
    for order in orders:
        assert sorted(job for job in order if isinstance(job, int)) == [2, 4]
        assert sum(isinstance(job, Cell) for job in order) == len(plan.cells)
    assert _order(replace(plan, seed=4), 0) != orders[0]


@pytest.mark.parametrize("sizes", [(226_216,), (8_000_000, 2_000_000), (4096,), (16,)])
def test_message_sizes_tell_latency_from_bandwidth(sizes):
    sets = message_sets(sizes)
    assert sets[0] == sizes
    assert len(set(sets)) == len(sets)
    assert len({sum(messages) for messages in sets}) >= 2


def test_buckets_lead_the_last_one_by_the_time_between():
    clock = BucketClock(CPU)
    for pause in (0.5, 0.02, 0.02, 0.02):
        clock.start_step()
        clock.note(100)
        time.sleep(pause)
        clock.note(50)
    traffic = clock.traffic(1)
    assert list(traffic.message_bytes) == [100, 50]
    first, last = traffic.lead_seconds
    assert last == 0
    assert first >= 0.02
