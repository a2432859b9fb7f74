"""Loss scaling and autocast."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from esam_tune.optim import ESAM, MSAM, BaseStep, LookSAM

torch.set_num_threads(1)

METHODS = {
    "base": BaseStep,
    "esam": lambda base, **kw: ESAM(base, rho=0.2, gamma=0.5, **kw),
    "first order": lambda base, **kw: ESAM(base, rho=0.2, selection="first_order", **kw),
    "looksam": lambda base, **kw: LookSAM(base, every=2, **kw),
    "msam": MSAM,
}


@pytest.fixture(params=METHODS.values(), ids=METHODS)
def method(request):
    return request.param


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def batch(seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(8, 4, generator=generator)
    return x, torch.randint(3, (8,), generator=generator)


def closure_for(model, x, y, *, autocast=None):
    def closure(rows):
        picked = slice(None) if rows is None else rows
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast is not None):
            return F.cross_entropy(model(x[picked]), y[picked], reduction="none")

    return closure


@pytest.mark.parametrize("clip", [None, 0.1])
def test_the_scale_cancels(method, clip):
    model, twin = mlp(), mlp()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=4)
    scaled = method(sgd(model), model=model, scaler=scaler, max_grad_norm=clip)
    plain = method(sgd(twin), model=twin, max_grad_norm=clip)
    for seed in range(8):
        scaled.step(closure_for(model, *batch(seed)))
        plain.step(closure_for(twin, *batch(seed)))
    # Scaling by powers of two is exact, and so is the whole run.
    for own, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)
    assert scaler.get_scale() == 4096.0  # updated once a step: grown at the 4th and the 8th


@pytest.mark.parametrize(
    ("name", "poisoned"),
    [
        ("base", 0),
        ("msam", 0),
        ("esam", 0),
        ("esam", 2),
        ("first order", 0),
        ("first order", 1),
        ("looksam", 0),
        ("looksam", 1),
    ],
)
@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_inf_or_nan_in_a_pass_skips_the_step(name, poisoned, value):
    model, method = mlp(), METHODS[name]
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = method(sgd(model), model=model, scaler=scaler)
    for seed in range(2):
        optimizer.step(closure_for(model, *batch(seed)))
    before = copy.deepcopy((model.state_dict(), optimizer.base_optimizer.state_dict()))
    closure = closure_for(model, *batch(9))
    calls = []

    def failing(rows):
        calls.append(rows)
        losses = closure(rows)
        return losses * value if len(calls) == poisoned + 1 else losses

    optimizer.step(failing)
    assert len(calls) > poisoned
    assert scaler.get_scale() == 512.0
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[0][name])
    momenta = optimizer.base_optimizer.state_dict()["state"]
    for key, state in before[1]["state"].items():
        assert torch.equal(momenta[key]["momentum_buffer"], state["momentum_buffer"])
    optimizer.step(closure)
    optimizer.step(closure)
    assert all(p.isfinite().all() for p in model.parameters())
    assert not torch.equal(model[0].weight, before[0]["0.weight"])


def test_infinite_losses_of_the_selection_pass_only_concern_the_choice_of_rows():
    model = mlp()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = ESAM(sgd(model), gamma=0.5, scaler=scaler)
    closure, calls = closure_for(model, *batch(0)), []

    def failing(rows):
        calls.append(rows)
        return closure(rows) * (torch.inf if len(calls) == 2 else 1.0)

    optimizer.step(failing)
    assert scaler.get_scale() == 1024.0
    assert all(p.isfinite().all() for p in model.parameters())


def test_the_perturbation_does_not_depend_on_the_scale_when_scaled_squares_overflow():
    weight = nn.Parameter(torch.tensor([3e18, 0.0]))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    optimizer = ESAM(
        torch.optim.SGD([weight], lr=0.0), beta=1.0, gamma=1.0, rho=1e18, scaler=scaler
    )
    seen = []

    def closure(rows):
        seen.append(weight.detach().clone())
        return (weight * torch.tensor([1e10, 0.0])).sum().expand(2)

    optimizer.step(closure)
    torch.testing.assert_close(seen[1], torch.tensor([4e18, 0.0]))


def test_a_disabled_scaler_changes_nothing():
    model, twin = mlp(), mlp()
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    ESAM(sgd(model), scaler=scaler).step(closure_for(model, *batch(0)))
    ESAM(sgd(twin)).step(closure_for(twin, *batch(0)))
    for own, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(own, other)


def test_the_scaler_is_part_of_the_state():
    model = mlp()
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=1)
    optimizer = ESAM(sgd(model), scaler=scaler)
    optimizer.step(closure_for(model, *batch(0)))
    other = torch.amp.GradScaler("cpu")
    ESAM(sgd(mlp()), scaler=other).load_state_dict(optimizer.state_dict())
    assert other.get_scale() == 128.0


def test_bf16_autocast_inside_the_closure_and_around_the_step_are_the_same(method):
    # Around the step, autocast would keep the half-precision weights of one pass for the next.
    model, twin = mlp(), mlp()
    inside, around = method(sgd(model), model=model), method(sgd(twin), model=twin)
    for seed in range(4):
        inside.step(closure_for(model, *batch(seed), autocast=True))
        with torch.autocast("cpu", torch.bfloat16):
            around.step(
                lambda rows, seed=seed: F.cross_entropy(
                    twin(batch(seed)[0][slice(None) if rows is None else rows]).float(),
                    batch(seed)[1][slice(None) if rows is None else rows],
                    reduction="none",
                )
            )
    for own, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=2e-2, atol=2e-2)
        assert own.dtype == torch.float32


def test_autocast_around_the_step_sees_the_new_weights_afterwards(method):
    model = mlp()
    optimizer = method(sgd(model), model=model)
    x, y = batch(0)

    def closure(rows):
        picked = slice(None) if rows is None else rows
        return F.cross_entropy(model(x[picked]).float(), y[picked], reduction="none")

    with torch.autocast("cpu", torch.bfloat16):
        optimizer.step(closure)
        after = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(x), after)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_trains_on_a_gpu(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4)).cuda()
    scaler = torch.amp.GradScaler("cuda") if dtype == torch.float16 else None
    optimizer = ESAM(sgd(model), model=model, scaler=scaler, selection="first_order")
    x = torch.randn(256, 16, device="cuda")
    y = x[:, :4].argmax(dim=1)

    def closure(rows):
        picked = slice(None) if rows is None else rows
        with torch.autocast("cuda", dtype):
            return F.cross_entropy(model(x[picked]), y[picked], reduction="none")

    first = optimizer.step(closure).mean()
    for _ in range(100):
        last = optimizer.step(closure).mean()
    assert last < 0.5 * first
