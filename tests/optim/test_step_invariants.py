"""What a step leaves behind, and how it calls the closure."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from esam_tune.optim import ESAM, BaseStep, MaskCycle

torch.set_num_threads(1)


def mlp(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))


def batch(rows, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(rows, 4, generator=generator),
        torch.randint(3, (rows,), generator=generator),
    )


def closure_for(model, x, y):
    def closure(rows):
        picked = slice(None) if rows is None else rows
        return F.cross_entropy(model(x[picked]), y[picked], reduction="none")

    return closure


def sgd(model, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=0.01)


class Watch:
    """Records rows, gradient mode, `requires_grad` and weights at each call of a closure."""

    def __init__(self, model, closure):
        self.model, self.closure = model, closure
        self.rows, self.grad_mode, self.required, self.weights = [], [], [], []

    def __call__(self, rows):
        self.rows.append(rows)
        self.grad_mode.append(torch.is_grad_enabled())
        self.required.append([p.requires_grad for p in self.model.parameters()])
        self.weights.append([p.detach().clone() for p in self.model.parameters()])
        return self.closure(rows)


def moved(weights, others):
    return [not torch.equal(a, b) for a, b in zip(weights, others, strict=True)]


def test_calls_and_masks_of_a_step():
    model = mlp()
    mask = (True, False, False, True, False, True)
    watch = Watch(model, closure_for(model, *batch(8)))
    optimizer = ESAM(sgd(model), gamma=0.25, masks=MaskCycle([mask]))
    losses = optimizer.step(watch)
    assert watch.rows[:2] == [None, None]
    assert watch.rows[2].dtype == torch.long
    assert watch.rows[2].shape == (2,)
    assert watch.grad_mode == [True, False, True]
    assert watch.required == [list(mask), [True] * 6, [True] * 6]
    assert moved(watch.weights[0], watch.weights[1]) == list(mask)
    assert moved(watch.weights[1], watch.weights[2]) == [False] * 6
    assert losses.shape == (8,)
    assert not losses.requires_grad


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("gamma", [0.01, 0.5, 1.0])
def test_tiny_batches(rows, gamma):
    model = mlp()
    watch = Watch(model, closure_for(model, *batch(rows)))
    assert ESAM(sgd(model), gamma=gamma).step(watch).shape == (rows,)
    count = max(1, round(gamma * rows))
    if count == rows:
        assert watch.rows == [None, None]
    else:
        assert len(watch.rows) == 3
        assert len(watch.rows[2]) == count
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("adaptive", [False, True])
def test_weights_are_restored_bit_for_bit(adaptive):
    # Without the base step what remains is the way there and back.
    model = mlp()
    with torch.no_grad():
        model[0].weight[0, 0] = -0.0
    before = copy.deepcopy(model.state_dict())
    base = sgd(model)
    base.step = lambda: None
    optimizer = ESAM(base, rho=3.0, gamma=0.5, adaptive=adaptive)
    for seed in range(20):
        optimizer.step(closure_for(model, *batch(8, seed)))
    for name, weight in model.state_dict().items():
        assert torch.equal(weight.view(torch.int32), before[name].view(torch.int32))


@pytest.mark.parametrize("adaptive", [False, True])
def test_zero_gradient_takes_the_base_step_at_unperturbed_weights(adaptive):
    model, twin = mlp(), mlp()
    optimizer, plain = ESAM(sgd(model), rho=1.0, adaptive=adaptive), sgd(twin)

    def flat(rows):
        count = 8 if rows is None else len(rows)
        return sum(p.sum() for p in model.parameters()) * torch.zeros(count)

    for _ in range(3):
        watch = Watch(model, flat)
        optimizer.step(watch)
        assert not any(moved(watch.weights[0], watch.weights[-1]))
        assert watch.rows[-1].tolist() == [0, 1, 2, 3]
        for p in twin.parameters():
            p.grad = torch.zeros_like(p)
        plain.step()
    for own, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(own, other)


def test_kept_tensors_without_gradient_take_no_part():
    model = mlp()
    unused = nn.Parameter(torch.ones(2))
    base = torch.optim.SGD([unused, *model.parameters()], lr=0.1, weight_decay=0.1)
    optimizer = ESAM(base, gamma=1.0, masks=MaskCycle([(True,) + (False,) * 6]))
    watch = Watch(model, closure_for(model, *batch(4)))
    optimizer.step(watch)
    assert not any(moved(watch.weights[0], watch.weights[1]))
    assert torch.equal(unused, torch.ones(2))
    assert all(moved(watch.weights[1], [p.detach() for p in model.parameters()]))


def test_frozen_parameters_stay_frozen_and_do_not_count():
    model = mlp()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    optimizer = ESAM(sgd(model), masks=MaskCycle([(False, True, True, True)]))
    optimizer.step(closure_for(model, *batch(8)))
    assert [p.requires_grad for p in model.parameters()] == [False, False] + [True] * 4
    assert torch.equal(model[0].weight, before)


def test_parameters_outside_the_optimizer_get_the_last_pass_only():
    model, outside = mlp(), nn.Parameter(torch.ones(()))
    x, y = batch(4)

    def closure(rows):
        return outside * F.cross_entropy(model(x), y, reduction="none")

    ESAM(sgd(model), gamma=1.0, rho=0.0).step(closure)
    expected = F.cross_entropy(mlp()(x), y)
    torch.testing.assert_close(outside.grad, expected)


def test_aliased_and_expanded_gradients():
    a, b = nn.Parameter(torch.ones(3)), nn.Parameter(torch.full((3,), 2.0))
    optimizer = ESAM(torch.optim.SGD([a, b], lr=1.0), rho=6.0**0.5, beta=1.0, gamma=1.0)
    seen = []

    def closure(rows):
        seen.append((a.detach().clone(), b.detach().clone()))
        return (a + b).sum().expand(2)

    optimizer.step(closure)
    torch.testing.assert_close(seen[1], (torch.full((3,), 2.0), torch.full((3,), 3.0)))
    assert torch.equal(a, torch.zeros(3))


@pytest.mark.parametrize("failing_call", [0, 1, 2])
def test_a_raising_closure_leaves_everything_as_it_was(failing_call):
    model = mlp()
    before = copy.deepcopy(model.state_dict())
    optimizer = ESAM(sgd(model), rho=1.0, gamma=0.5, beta=0.5)
    closure = closure_for(model, *batch(8))
    calls = []

    def failing(rows):
        calls.append(rows)
        losses = closure(rows)
        if len(calls) == failing_call + 1:
            raise RuntimeError("interrupted")
        return losses

    with pytest.raises(RuntimeError, match="interrupted"):
        optimizer.step(failing)
    assert all(p.requires_grad for p in model.parameters())
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name])
    optimizer.step(closure)


def test_a_non_finite_clean_gradient_spoils_the_final_gradient_too():
    # Only the table is perturbed, and only in a row that the last pass does not read.
    table, factor = nn.Embedding(4, 2), nn.Parameter(torch.ones(()))
    base = torch.optim.SGD([*table.parameters(), factor], lr=0.0)
    optimizer = ESAM(base, gamma=0.5, masks=MaskCycle([(True, False)]))
    last = []

    def closure(rows):
        picked = torch.arange(4) if rows is None else rows
        last[:] = picked.tolist()
        return factor * table(picked).sum(dim=1) * torch.where(picked == 3, torch.inf, 1.0)

    optimizer.step(closure)
    assert last == [0, 1]
    assert factor.grad.isnan()
    assert table.weight.grad[:2].isnan().all()


@pytest.mark.parametrize("make", [BaseStep, ESAM])
def test_returned_losses_are_a_copy(make):
    weight = nn.Parameter(torch.ones(4))
    optimizer = make(torch.optim.SGD([weight], lr=0.1))
    losses = optimizer.step(lambda rows: weight if rows is None else weight[rows])
    assert torch.equal(losses, torch.ones(4))
    assert not torch.equal(weight, torch.ones(4))


def test_called_under_no_grad():
    model, twin = mlp(), mlp()
    ESAM(sgd(model)).step(closure_for(model, *batch(8)))
    with torch.no_grad():
        ESAM(sgd(twin)).step(closure_for(twin, *batch(8)))
    for own, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(own, other)


@pytest.mark.parametrize("make", [BaseStep, lambda base, **kw: ESAM(base, gamma=0.5, **kw)])
def test_micro_batches_equal_the_whole_batch(make):
    model, twin = mlp().double(), mlp().double()
    optimizer, whole = make(sgd(model)), make(sgd(twin))
    for seed in range(10):
        x, y = batch(11, seed)
        x = x.double()
        parts = [slice(0, 5), slice(5, 6), slice(6, 11)]
        losses = optimizer.step([closure_for(model, x[part], y[part]) for part in parts])
        expected = whole.step(closure_for(twin, x, y))
        torch.testing.assert_close(losses, expected)
    for own, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("make", [BaseStep, ESAM])
def test_clips_the_gradient_of_the_base_step(make):
    model = mlp()
    optimizer = make(torch.optim.SGD(model.parameters(), lr=0.1), max_grad_norm=1e-3)
    optimizer.step(closure_for(model, *batch(8)))
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    torch.testing.assert_close(norm, torch.tensor(1e-3), rtol=1e-3, atol=0.0)
