"""Predicted cost of a step beside the counted one."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from esam_tune.optim import (
    ESAM,
    MSAM,
    LookSAM,
    StepWork,
    measure_step_work,
    rule_of_thirds,
    step_cost,
    step_flops_ratio,
)

torch.set_num_threads(1)


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return torch.relu(self.second(torch.relu(self.norm(self.first(x)))) + x)


def residual_net():
    torch.manual_seed(0)
    blocks = [Residual(8) for _ in range(4)]
    return nn.Sequential(nn.Conv2d(1, 8, 3), *blocks, nn.Flatten(), nn.Linear(8 * 36, 10))


def chain():
    torch.manual_seed(0)
    sizes = [20, 40, 30, 30, 20]
    layers = [nn.Sequential(nn.Linear(a, b), nn.Tanh()) for a, b in pairwise(sizes)]
    return nn.Sequential(*layers, nn.Linear(20, 10))


class Words(nn.Module):
    """Takes indices, to which no gradient leads."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.body = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.body(self.embedding(x)).mean(dim=1))


CASES = {
    "residual": (residual_net, lambda: torch.randn(16, 1, 8, 8)),
    "chain": (chain, lambda: torch.randn(16, 20)),
    "words": (Words, lambda: torch.randint(50, (16, 5))),
}
SETTINGS = [
    {"beta": 0.5, "gamma": 0.5},
    {"beta": 0.6, "gamma": 0.5, "selection": "first_order"},
    {"beta": 0.3, "gamma": 0.25, "selection": "first_order", "every": 2},
    {"beta": 1.0, "gamma": 1.0},
    {"beta": 0.8, "gamma": 1.0},
]


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_counting_to_two_percent(name):
    make, inputs = CASES[name]
    model, x, y = make(), inputs(), torch.randint(10, (16,))
    work = measure_step_work(model, x, y)
    for settings in SETTINGS:

        def build(net, settings=settings):
            return ESAM(sgd(net), model=net, **settings)

        counted = step_flops_ratio(build, model, x, y)
        assert step_cost(work, **settings) == pytest.approx(counted, rel=0.02), settings
    for method, build in {
        "msam": lambda net: MSAM(sgd(net)),
        "looksam": lambda net: LookSAM(sgd(net), every=4),
    }.items():
        counted = step_flops_ratio(build, model, x, y)
        assert step_cost(work, method=method, every=4) == pytest.approx(counted, rel=0.001)
    assert all(p.grad is None for p in model.parameters())


def test_a_chain_by_hand():
    # Two layers without bias, 10 -> 20 -> 5, 4 rows: a product of (n, a) and (a, b) has 2nab FLOPs.
    model = nn.Sequential(nn.Linear(10, 20, bias=False), nn.Linear(20, 5, bias=False))
    work = measure_step_work(model, torch.randn(4, 10), torch.randint(5, (4,)))
    first, second = 2 * 4 * 10 * 20, 2 * 4 * 20 * 5
    assert work == StepWork(
        rows=4,
        forward=first + second,
        weight_gradients=(first, second),
        activation_gradients=(second, 0.0),
        scoring=2 * second,
    )
    assert work.backward == first + 2 * second
    # Kept: both 1/4, the first alone 1/4, the second alone 1/4, none 1/4 (then either).
    alone = (first + second, second)
    expected = 0.25 * (first + 2 * second) + 0.25 * sum(alone) + 0.25 * sum(alone) / 2
    assert work.expected_backward(0.5) == pytest.approx(expected)
    assert work.expected_backward(1.0) == work.backward


@pytest.mark.parametrize(
    ("settings", "cost"),
    [
        ({"beta": 0.5, "gamma": 0.5}, 5.0 / 3),
        ({"beta": 0.5, "gamma": 0.5, "selection": "first_order"}, 4.0 / 3),
        ({"beta": 0.5, "gamma": 0.5, "selection": "first_order", "every": 2}, 7.0 / 6),
        ({"beta": 0.5, "gamma": 1.0}, 5.5 / 3),
        ({"method": "sam"}, 2.0),
        ({"method": "asam", "every": 2}, 1.5),
        ({"method": "looksam", "every": 5}, 1.2),
        ({"method": "msam"}, 1.0),
        ({"method": "sgd"}, 1.0),
    ],
)
def test_the_rule_of_thirds(settings, cost):
    assert step_cost(rule_of_thirds(), **settings) == pytest.approx(cost, abs=1e-6)


def test_tells_that_a_limit_cannot_be_met():
    assert step_cost(rule_of_thirds(), beta=0.5, gamma=0.5) > 1.4
    assert step_cost(rule_of_thirds(), beta=0.5, gamma=0.5, selection="first_order") < 1.4


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"beta": 0.0}, r"beta must lie in \(0, 1\]"),
        ({"gamma": 2.0}, r"gamma must lie in \(0, 1\]"),
        ({"every": 0}, "every must be >= 1"),
        ({"method": "adam"}, "method must be one of 'sgd'.*'adam'"),
        ({"selection": "random"}, "selection must be one of .*'random'"),
    ],
)
def test_refuses(settings, words):
    with pytest.raises(ValueError, match=words):
        step_cost(rule_of_thirds(), **settings)


def test_refuses_a_model_without_trainable_weights():
    model = chain().requires_grad_(False)
    with pytest.raises(ValueError, match="requires gradients, got 0"):
        measure_step_work(model, torch.randn(16, 20), torch.randint(10, (16,)))
    with pytest.raises(ValueError, match="one entry for each tensor, got 1 and 2"):
        StepWork(rows=1, forward=1.0, weight_gradients=(1.0,), activation_gradients=(1.0, 1.0))
    with pytest.raises(ValueError, match="weight_gradients must have at least 1 entry, got 0"):
        StepWork(rows=1, forward=1.0, weight_gradients=(), activation_gradients=())
    with pytest.raises(ValueError, match="forward must be > 0"):
        StepWork(rows=1, forward=0.0, weight_gradients=(1.0,), activation_gradients=(1.0,))


def test_a_head_that_does_not_give_the_logits():
    model = chain()
    model.append(nn.Identity())
    model[-1].spare = nn.Linear(3, 3)  # registered last, and never called
    data = torch.randn(16, 20), torch.randint(10, (16,))
    assert measure_step_work(model, *data).scoring == 0.0
    assert measure_step_work(model, *data, head="4").scoring > 0.0
    with pytest.raises(ValueError, match="head must be the layer of model that gives the logits"):
        measure_step_work(model, *data, head="5.spare")
