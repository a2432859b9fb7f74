"""Schedulers, state and copies."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR

from esam_tune.optim import ESAM, BaseStep, PerSampleOptimizer

torch.set_num_threads(1)


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))


def closure_for(model, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(8, 4, generator=generator)
    y = torch.randint(3, (8,), generator=generator)

    def closure(rows):
        picked = slice(None) if rows is None else rows
        return F.cross_entropy(model(x[picked]), y[picked], reduction="none")

    return closure


def build(model, kind=ESAM, base=torch.optim.SGD):
    settings = {"momentum": 0.9} if base is torch.optim.SGD else {}
    return kind(base(model.parameters(), lr=0.1, **settings), model=model)


@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("kind", [ESAM, BaseStep])
def test_resumes_bit_for_bit(kind, base):
    model = mlp()
    optimizer = build(model, kind, base)
    scheduler = CosineAnnealingLR(optimizer, T_max=20)
    for seed in range(5):
        optimizer.step(closure_for(model, seed))
        scheduler.step()
    file = io.BytesIO()
    torch.save([x.state_dict() for x in (model, optimizer, scheduler)], file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)

    resumed = mlp()
    other = build(resumed, kind, base)
    other_scheduler = CosineAnnealingLR(other, T_max=20)
    for part, state in zip((resumed, other, other_scheduler), saved, strict=True):
        part.load_state_dict(state)
    for seed in range(5, 10):
        losses = optimizer.step(closure_for(model, seed))
        assert torch.equal(losses, other.step(closure_for(resumed, seed)))
        scheduler.step()
        other_scheduler.step()
    for name, value in model.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])
    assert other.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize("on_base", [False, True])
def test_a_scheduler_acts_on_the_base_optimizer(on_base):
    model = mlp()
    optimizer = build(model)
    scheduler = CosineAnnealingLR(optimizer.base_optimizer if on_base else optimizer, T_max=2)
    optimizer.step(closure_for(model, 0))
    scheduler.step()
    assert optimizer.base_optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    # Loading a state makes new group objects in the base optimizer; both must follow.
    optimizer.base_optimizer.load_state_dict(optimizer.base_optimizer.state_dict())
    assert optimizer.param_groups is optimizer.base_optimizer.param_groups
    assert optimizer.state is optimizer.base_optimizer.state


def test_is_a_torch_optimizer_and_takes_new_groups():
    model = mlp()
    optimizer = build(model)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert issubclass(ESAM, PerSampleOptimizer)
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))], "lr": 0.5})
    assert len(optimizer.base_optimizer.param_groups) == 2
    called = []
    optimizer.register_step_post_hook(lambda *args: called.append(1))
    optimizer.step(closure_for(model, 0))
    assert called == [1]


def test_a_deep_copy_of_model_and_optimizer_continues_alike():
    model = mlp()
    optimizer = build(model)
    CosineAnnealingLR(optimizer, T_max=5)
    optimizer.step(closure_for(model, 0))
    twin, other = copy.deepcopy((model, optimizer))
    assert other.model is twin
    optimizer.step(closure_for(model, 1))
    other.step(closure_for(twin, 1))
    for name, value in model.state_dict().items():
        assert torch.equal(value, twin.state_dict()[name])


def test_refuses_a_state_that_is_not_its_own():
    model = mlp()
    optimizer = build(model)
    with pytest.raises(ValueError, match=r"ESAM\.state_dict\(\), but it lacks"):
        optimizer.load_state_dict(optimizer.base_optimizer.state_dict())
    with pytest.raises(ValueError, match="lacks 'masks', 'steps'"):
        optimizer.load_state_dict(build(model, BaseStep).state_dict())
