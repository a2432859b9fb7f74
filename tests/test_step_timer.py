"""The step timer on a clock that only steps advance."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from esam_tune import step_timer
from esam_tune.computation import Computation
from esam_tune.config import TrainingSettings
from esam_tune.step_timer import StepTimer

IMAGES, LABELS = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
OWN_SECONDS, BASE_SECONDS = 3.0, 2.0
PLAIN = Computation(TrainingSettings(epochs=1, batch_size=6, lr=0.1), torch.device("cpu"))


class Machine:
    """Steps of known length, and the order in which they were taken."""

    def __init__(self):
        self.now = 0.0
        self.taken = []

    def pass_(self, name, seconds):
        self.taken.append(name)
        self.now += seconds


@pytest.fixture
def machine(monkeypatch):
    machine = Machine()
    clock = SimpleNamespace(perf_counter=lambda: machine.now)
    monkeypatch.setattr(step_timer, "time", clock)
    return machine


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))


def timer_of(machine, model, seconds=BASE_SECONDS, period=1):
    class Base(torch.optim.SGD):
        def step(self, closure=None):
            machine.pass_("base", seconds() if callable(seconds) else seconds)
            return super().step(closure)

    def build(copied):
        return Base(copied.parameters(), lr=0.1)

    return StepTimer(model, build, lambda copied: copied, PLAIN, period=period)


def take_pairs(machine, timer, count, seconds=OWN_SECONDS, sharp=True):
    for _ in range(count):
        with timer.beside(IMAGES, LABELS, sharp=sharp):
            machine.pass_("own", seconds() if callable(seconds) else seconds)


def test_which_step_of_a_pair_goes_first_alternates(machine):
    take_pairs(machine, timer_of(machine, network()), 4)
    warm_up, *pairs = machine.taken
    assert warm_up == "base"
    assert pairs == ["own", "base", "base", "own"] * 2


def test_the_ratio_is_that_of_the_steps_own_times(machine):
    timer = timer_of(machine, network())
    take_pairs(machine, timer, 5)
    assert timer.ratio() == OWN_SECONDS / BASE_SECONDS
    times = {"sharp": [OWN_SECONDS] * 5, "between": [], "base": [BASE_SECONDS] * 5}
    assert timer.state_dict() == times


def test_dear_and_plain_steps_are_weighed_by_how_often_they_occur(machine):
    timer = timer_of(machine, network(), period=4)
    for sharp, seconds in [(True, 8.0), (False, 2.0), (False, 2.0), (True, 8.0)]:
        take_pairs(machine, timer, 1, seconds=seconds, sharp=sharp)
    assert timer.ratio() == (8.0 / 4 + 2.0 * 3 / 4) / BASE_SECONDS


def test_a_few_disturbed_steps_do_not_move_the_ratio(machine):
    own = iter([300.0, 3.0, 3.0, 3.0, 900.0])
    # The first is the warm-up, whose time does not count.
    base = iter([1000.0, 2.0, 2.0, 700.0, 2.0, 2.0])
    timer = timer_of(machine, network(), seconds=lambda: next(base))
    take_pairs(machine, timer, 5, seconds=lambda: next(own))
    assert timer.ratio() == 1.5


def test_time_aside_is_all_but_the_steps_own_and_is_taken_once(machine):
    timer = timer_of(machine, network())
    take_pairs(machine, timer, 1)
    assert timer.take_aside() == 2 * BASE_SECONDS
    assert timer.take_aside() == 0.0
    take_pairs(machine, timer, 2)
    assert timer.take_aside() == 2 * BASE_SECONDS


def test_the_training_is_left_untouched(machine):
    model = network()
    before = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    take_pairs(machine, timer_of(machine, model), 3)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_the_base_steps_are_real_steps_of_a_copy(machine):
    model = network()
    copies = []

    def keep(copied):
        copies.append(copied)
        return copied

    base = lambda copied: torch.optim.SGD(copied.parameters(), lr=0.1)  # noqa: E731
    timer = StepTimer(model, base, keep, PLAIN)
    take_pairs(machine, timer, 2)
    (copied,) = copies
    assert copied is not model
    assert not torch.equal(copied[0].weight, model[0].weight)


def test_times_survive_a_restart(machine):
    first = timer_of(machine, network())
    take_pairs(machine, first, 3)
    second = timer_of(machine, network())
    second.load_state_dict(first.state_dict())
    assert second.ratio() == first.ratio()
    take_pairs(machine, second, 1, seconds=6.0)
    assert second.state_dict()["sharp"] == [OWN_SECONDS] * 3 + [6.0]
    assert first.state_dict()["sharp"] == [OWN_SECONDS] * 3


def test_an_error_in_a_step_is_not_swallowed(machine):
    timer = timer_of(machine, network())
    with pytest.raises(RuntimeError, match="in the step"), timer.beside(IMAGES, LABELS):
        raise RuntimeError("in the step")


@pytest.mark.parametrize("epochs", [1, 2, 30, 48, 49, 1000])
def test_a_run_of_any_length_times_enough_pairs(epochs):
    drawn = StepTimer.drawn_steps(100, 1, epochs)
    assert drawn <= set(range(100))
    assert len(drawn) * epochs >= 48
    assert (len(drawn) - 1) * epochs < 48


def test_a_short_epoch_is_timed_whole_and_epochs_differ():
    assert StepTimer.drawn_steps(5, 1, 1) == set(range(5))
    draws = [StepTimer.drawn_steps(100, epoch, 24) for epoch in range(1, 25)]
    assert len(set().union(*draws)) > 24
