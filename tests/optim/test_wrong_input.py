import math

import pytest
import torch
from torch import nn

from esam_tune.optim import ESAM, BaseStep

torch.set_num_threads(1)


def base(parameters=None):
    return torch.optim.SGD(parameters or [nn.Parameter(torch.ones(3))], lr=0.1)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"rho": -0.1}, ValueError, "rho must be a finite number >= 0, got -0.1"),
        ({"rho": math.nan}, ValueError, "rho .* got nan"),
        ({"rho": math.inf}, ValueError, "rho .* got inf"),
        ({"rho": "0.1"}, TypeError, "rho must be a number, got '0.1'"),
        ({"rho": None}, TypeError, "rho must be a number, got None"),
        ({"beta": 0.0}, ValueError, r"beta must lie in \(0, 1\], got 0.0"),
        ({"beta": 1.01}, ValueError, r"beta .* got 1.01"),
        ({"beta": True}, TypeError, "beta must be a number, got True"),
        ({"gamma": -1}, ValueError, r"gamma must lie in \(0, 1\], got -1"),
        ({"gamma": math.nan}, ValueError, "gamma .* got nan"),
        ({"adaptive": 1}, TypeError, "adaptive must be True or False, got 1"),
        (
            {"selection": "best"},
            ValueError,
            "selection must be one of 'exact', 'first_order', got 'best'",
        ),
        ({"seed": -1}, ValueError, "seed must be >= 0, got -1"),
        ({"seed": 0.5}, TypeError, "seed must be an integer, got 0.5"),
        ({"model": "resnet"}, TypeError, "model must be a torch.nn.Module, got str"),
        ({"scaler": 2.0}, TypeError, "scaler must be a torch.amp.GradScaler, got float"),
        ({"max_grad_norm": 0.0}, ValueError, "max_grad_norm must be a finite number > 0, got 0.0"),
    ],
)
def test_settings(settings, error, words):
    with pytest.raises(error, match=words):
        ESAM(base(), **settings)


def test_rho_of_a_group():
    groups = [{"params": [nn.Parameter(torch.ones(1))], "rho": -1.0}]
    with pytest.raises(ValueError, match=r"rho of parameter group 0 .* got -1.0"):
        ESAM(base(groups))


@pytest.mark.parametrize("kind", [ESAM, BaseStep])
def test_base_optimizer(kind):
    with pytest.raises(
        TypeError, match=r"base_optimizer must be a torch.optim.Optimizer, got list"
    ):
        kind([nn.Parameter(torch.ones(1))])
    with pytest.raises(TypeError, match=r"plain torch.optim.Optimizer, got another ESAM"):
        kind(ESAM(base()))
    with pytest.raises(TypeError, match="base_optimizer must step without a closure, got LBFGS"):
        kind(torch.optim.LBFGS([nn.Parameter(torch.ones(1))]))
    with pytest.raises(ValueError, match="base_optimizer must hold at least 1 parameter, got 0"):
        kind(torch.optim.SGD([{"params": []}], lr=0.1))
    frozen = nn.Parameter(torch.ones(1), requires_grad=False)
    with pytest.raises(ValueError, match="requires gradients, got 0"):
        kind(base([frozen])).step(lambda rows: frozen.expand(2))


@pytest.mark.parametrize("kind", [ESAM, BaseStep])
@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda w: w.sum(), ValueError, r"closure\(None\) .* shape \(n,\), got shape \(\)"),
        (lambda w: w.expand(4, 3), ValueError, r"got shape \(4, 3\)"),
        (lambda w: w[:0], ValueError, "at least 1 loss, got 0"),
        (lambda w: [1.0, 2.0], TypeError, "tensor of per-sample losses, got list"),
        (lambda w: torch.ones(3, dtype=torch.long), TypeError, "floating-point losses"),
        (lambda w: w.detach(), TypeError, "losses that require gradients"),
    ],
)
def test_losses(kind, make, error, words):
    weight = nn.Parameter(torch.ones(3))
    with pytest.raises(error, match=words):
        kind(base([weight])).step(lambda rows: make(weight if rows is None else weight[rows]))


def test_losses_of_the_wrong_length():
    weight = nn.Parameter(torch.ones(6))
    with pytest.raises(ValueError, match=r"closure\(rows\) with 3 rows must return 3 .* got 6"):
        ESAM(base([weight])).step(lambda rows: weight * 2)
    calls = []

    def changing(rows):
        calls.append(rows)
        return weight[: 7 - len(calls)]

    with pytest.raises(ValueError, match=r"closure\(None\) must return 6 losses.* got 5"):
        ESAM(base([weight])).step(changing)
    assert torch.equal(weight, torch.ones(6))


@pytest.mark.parametrize(
    ("closure", "error"), [(None, TypeError), ([], ValueError), ([1], TypeError)]
)
def test_closures(closure, error):
    with pytest.raises(error, match="closure must"):
        BaseStep(base()).step(closure)


def test_sparse_gradients():
    table = nn.Embedding(4, 1, sparse=True)
    optimizer = ESAM(torch.optim.SGD(table.parameters(), lr=0.1), beta=1.0)
    with pytest.raises(ValueError, match=r"gradients must be dense.* sparse=False"):
        optimizer.step(lambda rows: table(torch.arange(4) if rows is None else rows).squeeze(1))
