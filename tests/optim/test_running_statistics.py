"""Running statistics follow the clean pass, once a step."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from esam_tune.optim import ESAM, LookSAM

torch.set_num_threads(1)


def small_cnn(momentum):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4, momentum=momentum),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 8),
        nn.BatchNorm1d(8, momentum=momentum),
        nn.ReLU(),
        nn.Linear(8, 3),
    )


def optimizer_for(model, **settings):
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    return ESAM(base, model=model, rho=0.5, **settings)


def looksam_for(model):
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    return LookSAM(base, model=model, rho=0.5, every=2)


def closure_for(model, x, y):
    def closure(rows):
        picked = slice(None) if rows is None else rows
        return F.cross_entropy(model(x[picked]), y[picked], reduction="none")

    return closure


@pytest.mark.parametrize("momentum", [0.1, 1.0, None])
@pytest.mark.parametrize(
    "build",
    [
        lambda model: optimizer_for(model, gamma=0.5),
        lambda model: optimizer_for(model, gamma=1.0),
        lambda model: optimizer_for(model, selection="first_order"),
        looksam_for,
    ],
)
def test_equal_one_plain_forward_of_the_batch_bit_for_bit(momentum, build):
    model = small_cnn(momentum)
    optimizer = build(model)
    buffers = dict(model.named_buffers())
    for step in range(5):
        x, y = torch.randn(8, 1, 4, 4), torch.randint(3, (8,))
        plain = copy.deepcopy(model)
        plain(x)
        optimizer.step(closure_for(model, x, y))
        for name, buffer in model.named_buffers():
            assert torch.equal(buffer, dict(plain.named_buffers())[name]), (step, name)
            assert buffer is buffers[name]
        assert model[1].num_batches_tracked == step + 1


def test_later_passes_normalise_with_the_batch():
    model = small_cnn(0.1)
    seen = []
    model[1].register_forward_hook(lambda module, args, out: seen.append(out.detach()))
    x, y = torch.randn(8, 1, 4, 4), torch.randint(3, (8,))
    optimizer_for(model, gamma=0.5).step(closure_for(model, x, y))
    assert [len(out) for out in seen] == [8, 8, 4]
    for out in seen:
        scale, shift = model[1].weight, model[1].bias
        # Up to one step of size lr, scale and shift are still 1 and 0.
        normal = (out - shift.view(1, -1, 1, 1)) / scale.view(1, -1, 1, 1)
        assert normal.mean(dim=(0, 2, 3)).abs().max() < 0.6


def test_layers_in_evaluation_mode_stay_as_they_are():
    model = small_cnn(0.1)
    model[1].eval()
    before = {name: b.clone() for name, b in model[1].named_buffers()}
    x, y = torch.randn(8, 1, 4, 4), torch.randint(3, (8,))
    optimizer_for(model).step(closure_for(model, x, y))
    assert not model[1].training
    for name, buffer in model[1].named_buffers():
        assert torch.equal(buffer, before[name])


def test_an_infinite_perturbed_pass_leaves_no_trace():
    model = small_cnn(0.1)
    optimizer = optimizer_for(model)
    x, y = torch.randn(8, 1, 4, 4), torch.randint(3, (8,))
    calls = []

    def closure(rows):
        calls.append(rows)
        scale = 1.0 if len(calls) == 1 else float("inf")
        picked = slice(None) if rows is None else rows
        return F.cross_entropy(model(x[picked] * scale), y[picked], reduction="none")

    optimizer.step(closure)
    assert all(buffer.isfinite().all() for buffer in model.buffers())


def test_held_when_a_later_pass_raises():
    model = small_cnn(0.1)
    plain = copy.deepcopy(model)
    x, y = torch.randn(8, 1, 4, 4), torch.randint(3, (8,))
    plain(x)
    closure = closure_for(model, x, y)

    def failing(rows):
        losses = closure(rows)
        if rows is not None:
            raise RuntimeError("out of memory")
        return losses

    with pytest.raises(RuntimeError, match="out of memory"):
        optimizer_for(model).step(failing)
    for own, expected in zip(model.buffers(), plain.buffers(), strict=True):
        assert torch.equal(own, expected)
