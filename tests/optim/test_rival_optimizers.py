"""LookSAM, MSAM and `every` beside their papers' updates, written with plain autograd."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from esam_tune.optim import ESAM, MSAM, BaseStep, LookSAM, step_flops_ratio

torch.set_num_threads(1)


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def batches(count=23):
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(10, 4, generator=generator, dtype=torch.float64),
            torch.randint(3, (10,), generator=generator),
        )
        for _ in range(count)
    ]


def closure_for(model, x, y):
    def closure(rows):
        picked = slice(None) if rows is None else rows
        return F.cross_entropy(model(x[picked]), y[picked], reduction="none")

    return closure


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)


def flat_gradient(model, x, y):
    loss = F.cross_entropy(model(x), y)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


def vector(model):
    return nn.utils.parameters_to_vector(model.parameters()).detach().clone()


def place(model, weights):
    nn.utils.vector_to_parameters(weights.clone(), model.parameters())


def set_gradient(model, flat):
    start = 0
    for p in model.parameters():
        p.grad = flat[start : start + p.numel()].view_as(p).clone()
        start += p.numel()


def assert_close(model, twin):
    for own, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("every", [1, 5])
def test_looksam(every):
    rho, alpha = 0.2, 0.7
    model, twin = mlp(), mlp()
    optimizer, plain = LookSAM(sgd(model), rho=rho, alpha=alpha, every=every), sgd(twin)
    for step, (x, y) in enumerate(batches()):
        optimizer.step(closure_for(model, x, y))
        g, w = flat_gradient(twin, x, y), vector(twin)
        if step % every == 0:
            place(twin, w + rho * g / g.norm())
            sharp = flat_gradient(twin, x, y)
            place(twin, w)
            cosine = (g @ sharp) / (g.norm() * sharp.norm())
            vertical = sharp - sharp.norm() * cosine * g / g.norm()
            set_gradient(twin, sharp)
        else:
            set_gradient(twin, g + alpha * g.norm() / vertical.norm() * vertical)
        plain.step()
    assert_close(model, twin)


def test_msam_with_sgd():
    rho = 0.3
    model, twin = mlp(), mlp()
    optimizer, plain = MSAM(sgd(model), rho=rho), sgd(twin)
    for step, (x, y) in enumerate(batches()):
        w = vector(twin)
        if step > 0:
            v = torch.cat([plain.state[p]["momentum_buffer"].flatten() for p in twin.parameters()])
            place(twin, w - rho * v / v.norm())
        losses = optimizer.step(closure_for(model, x, y))
        torch.testing.assert_close(losses, F.cross_entropy(twin(x), y, reduction="none"))
        g = flat_gradient(twin, x, y)
        place(twin, w)
        set_gradient(twin, g)
        plain.step()
    assert_close(model, twin)


def test_msam_with_adam_uses_the_first_moment():
    model = mlp()
    optimizer = MSAM(torch.optim.AdamW(model.parameters(), lr=0.01), rho=0.3)
    for x, y in batches(3):
        optimizer.step(closure_for(model, x, y))
    before = vector(model)
    v = torch.cat([optimizer.state[p]["exp_avg"].flatten() for p in model.parameters()])
    seen = []

    def closure(rows):
        seen.append(vector(model))
        return closure_for(model, x, y)(rows)

    optimizer.step(closure)
    torch.testing.assert_close(seen[0], before - 0.3 * v / v.norm())


def test_msam_refuses_a_base_optimizer_without_momentum():
    with pytest.raises(ValueError, match="must keep a momentum, but parameter group 0 of SGD"):
        MSAM(torch.optim.SGD(mlp().parameters(), lr=0.1))


@pytest.mark.parametrize("make", [MSAM, LookSAM])
def test_weights_come_back_when_a_closure_raises(make):
    model = mlp()
    optimizer = make(sgd(model), rho=1.0)
    x, y = batches(1)[0]
    optimizer.step(closure_for(model, x, y))
    if make is LookSAM:
        optimizer.steps = 0
    before = vector(model)
    calls = []

    def failing(rows):
        calls.append(1)
        if len(calls) == (2 if make is LookSAM else 1):
            assert not torch.equal(vector(model), before)
            raise RuntimeError("interrupted")
        return closure_for(model, x, y)(rows)

    with pytest.raises(RuntimeError, match="interrupted"):
        optimizer.step(failing)
    assert torch.equal(vector(model), before)


def test_every_third_step_is_esam_and_the_others_are_the_base_step():
    model, twin = mlp(), mlp()
    optimizer = ESAM(sgd(model), every=3, seed=2)
    base = sgd(twin)
    sharp, plain = ESAM(base, seed=2), BaseStep(base)
    for step, (x, y) in enumerate(batches()):
        optimizer.step(closure_for(model, x, y))
        (sharp if step % 3 == 0 else plain).step(closure_for(twin, x, y))
    assert torch.equal(vector(model), vector(twin))


@pytest.mark.parametrize(
    "make",
    [lambda b: LookSAM(b, every=3), MSAM, lambda b: ESAM(b, every=3)],
    ids=["looksam", "msam", "esam"],
)
def test_resumes_bit_for_bit(make):
    model, data = mlp(), batches()
    optimizer = make(sgd(model))
    for x, y in data[:7]:
        optimizer.step(closure_for(model, x, y))
    state = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    twin = mlp()
    resumed = make(sgd(twin))
    twin.load_state_dict(state[0])
    resumed.load_state_dict(state[1])
    for x, y in data[7:]:
        optimizer.step(closure_for(model, x, y))
        resumed.step(closure_for(twin, x, y))
    assert torch.equal(vector(model), vector(twin))


@pytest.mark.parametrize("make", [lambda b: LookSAM(b, every=2), MSAM], ids=["looksam", "msam"])
def test_micro_batches_equal_the_whole_batch(make):
    model, twin = mlp(), mlp()
    optimizer, whole = make(sgd(model)), make(sgd(twin))
    for x, y in batches(6):
        parts = [slice(0, 3), slice(3, 10)]
        optimizer.step([closure_for(model, x[part], y[part]) for part in parts])
        whole.step(closure_for(twin, x, y))
    assert_close(model, twin)


@pytest.mark.parametrize("make", [MSAM, LookSAM])
def test_zero_gradients(make):
    model = mlp()
    before = vector(model)
    optimizer = make(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    for _ in range(3):
        optimizer.step(lambda rows: sum(p.sum() for p in model.parameters()) * torch.zeros(4))
    assert torch.equal(vector(model), before)


def test_costs():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    x, y = torch.randn(8, 16), torch.randint(4, (8,))

    def ratio(make):
        def build(m):
            return make(torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9))

        return step_flops_ratio(build, model, x, y)

    assert ratio(MSAM) == 1.0
    assert ratio(lambda b: LookSAM(b, every=5)) == pytest.approx(1.2)
    assert ratio(lambda b: ESAM(b, beta=1.0, gamma=1.0, every=4)) == pytest.approx(1.25)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda b: LookSAM(b, alpha=-1.0), "alpha must be a finite number >= 0, got -1.0"),
        (lambda b: LookSAM(b, every=0), "every must be >= 1, got 0"),
        (lambda b: ESAM(b, every=0), "every must be >= 1, got 0"),
        (lambda b: MSAM(b, rho=float("nan")), "rho must be .* got nan"),
    ],
)
def test_refuses(make, words):
    with pytest.raises(ValueError, match=words):
        make(sgd(mlp()))
