"""Sharpness along the gradient, against what it is by hand."""

import math

import pytest
import torch
from torch import nn

from esam_tune.optim import gradient_sharpness

torch.set_num_threads(1)


def quadratic(size=7, seed=0):
    """A float64 quadratic, its Hessian A, slope b and a point w."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(size, size, generator=generator, dtype=torch.float64)
    slope, point = torch.randn(2, size, generator=generator, dtype=torch.float64)
    return root @ root.T, slope, point.requires_grad_()


@pytest.mark.parametrize("radius", [0.0, 0.05, 1.0, 30.0])
@pytest.mark.parametrize("seed", range(4))
def test_on_a_quadratic_it_is_the_closed_form(radius, seed):
    hessian, slope, w = quadratic(seed=seed)
    rise = gradient_sharpness([w], [lambda: 0.5 * w @ hessian @ w, lambda: slope @ w], radius)
    g = (hessian @ w + slope).detach()
    # L(w + rho u) - L(w) for u = g / ||g||, to the second and last order.
    u = g / g.norm()
    expected = radius * g.norm() + 0.5 * radius**2 * (u @ hessian @ u)
    assert rise.dtype == torch.float64
    assert rise.item() == pytest.approx(expected.item(), rel=1e-11, abs=1e-11)


def test_the_norm_is_taken_over_all_weights_together():
    first = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    second = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    # A linear loss rises by rho ||g||: 3, 4 and 12 have the norm 13.
    rise = gradient_sharpness(
        [first, second], [lambda: 3 * first[0] + 4 * second[0], lambda: 12 * second[2]], 0.5
    )
    assert rise.item() == pytest.approx(6.5)


def test_where_the_gradient_is_zero_so_is_the_sharpness():
    w = torch.zeros(3, requires_grad=True)
    assert gradient_sharpness([w], [lambda: (w * w).sum()], 1.0).item() == 0.0


def test_frozen_weights_and_those_that_the_loss_does_not_reach_stay():
    w = torch.ones(2, requires_grad=True)
    frozen = torch.ones(2)
    unused = torch.ones(2, requires_grad=True)
    weights = [w, frozen, unused]
    rise = gradient_sharpness(weights, [lambda: (w * frozen).sum()], 0.1)
    assert rise.item() == pytest.approx(0.1 * math.sqrt(2), rel=1e-6)
    assert all(torch.equal(weight, torch.ones(2)) for weight in weights)


def test_weights_gradients_statistics_and_streams_are_as_before():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3)).eval()
    x, y = torch.randn(16, 4), torch.randint(3, (16,))

    def loss():
        return nn.functional.cross_entropy(model(x), y)

    loss().backward()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = [weight.grad.clone() for weight in model.parameters()]
    stream = torch.get_rng_state()
    # Also from within no_grad, where an evaluation may stand.
    with torch.no_grad():
        rise = gradient_sharpness(list(model.parameters()), [loss], 0.05)
    assert rise.item() > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    grads = [weight.grad for weight in model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(grads, gradients, strict=True))
    assert torch.equal(torch.get_rng_state(), stream)


def test_weights_are_put_back_when_the_loss_fails_at_the_other_point():
    w = torch.ones(2, requires_grad=True)
    calls = []

    def loss():
        calls.append(w.detach().clone())
        if len(calls) == 2:
            raise RuntimeError("out of luck")
        return (w * w).sum()

    with pytest.raises(RuntimeError, match="out of luck"):
        gradient_sharpness([w], [loss], 0.5)
    assert not torch.equal(calls[1], torch.ones(2))
    assert torch.equal(w, torch.ones(2))


def test_a_loss_without_a_number_gives_none():
    w = torch.zeros(1, requires_grad=True)
    rise = gradient_sharpness([w], [lambda: (w / w).sum()], 0.5)
    assert not math.isfinite(rise.item())


@pytest.mark.parametrize("radius", [-0.1, math.nan, math.inf])
def test_a_radius_that_is_none_is_refused(radius):
    w = torch.zeros(1, requires_grad=True)
    with pytest.raises(ValueError, match="radius must be a finite number >= 0"):
        gradient_sharpness([w], [lambda: w.sum()], radius)
