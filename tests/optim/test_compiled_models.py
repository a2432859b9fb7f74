"""torch.compile: the number of compilations does not grow with the steps."""

import copy

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional as F

from esam_tune.optim import ESAM, MaskCycle, step_flops_ratio, stratified_masks

torch.set_num_threads(1)


def cnn():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 3),
    )


def closure_for(model, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(8, 1, 4, 4, generator=generator)
    y = torch.randint(3, (8,), generator=generator)

    def closure(rows):
        picked = slice(None) if rows is None else rows
        return F.cross_entropy(model(x[picked]), y[picked], reduction="none")

    return closure


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("selection", ["exact", "first_order"])
@pytest.mark.parametrize("masks", ["random", "cycle"])
def test_follows_the_eager_model_without_recompiling(selection, masks):
    model, twin = cnn(), cnn()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=counter)

    def build(net, module):
        source = MaskCycle(stratified_masks(6, 0.5, 3)) if masks == "cycle" else None
        base = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        return ESAM(base, model=module, selection=selection, masks=source)

    optimizer, eager = build(model, compiled), build(twin, twin)
    for seed in range(8):
        optimizer.step(closure_for(compiled, seed))
        eager.step(closure_for(twin, seed))
        if seed == 3:
            known = counter.frame_count
    assert 0 < counter.frame_count == known
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_weights_are_frozen_only_for_a_cycle_of_masks():
    model = cnn()
    model.compile(backend="eager")
    seen = []

    def closure(rows):
        seen.append([p.requires_grad for p in model.parameters()])
        return closure_for(model, 0)(rows)

    base = torch.optim.SGD(model.parameters(), lr=0.1)
    ESAM(base, model=model, beta=0.3).step(closure)
    assert all(map(all, seen))
    mask = (True, False, False, False, False, True)
    ESAM(base, model=model, masks=MaskCycle([mask])).step(closure)
    assert seen[3] == list(mask)


def test_a_hook_that_came_too_late_is_named_in_the_error():
    model = cnn()
    compiled = torch.compile(model, backend="eager")
    compiled(torch.randn(8, 1, 4, 4)).sum().backward()
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = ESAM(base, model=compiled, selection="first_order")
    with pytest.raises(ValueError, match="before its first call"):
        optimizer.step(closure_for(compiled, 0))


def test_a_compiled_model_is_counted_as_the_plain_one():
    model = cnn()
    compiled = torch.compile(copy.deepcopy(model), backend="eager")
    x, y = torch.randn(8, 1, 4, 4), torch.randint(3, (8,))

    def build(net):
        return ESAM(torch.optim.SGD(net.parameters(), lr=0.1), model=net, selection="first_order")

    assert step_flops_ratio(build, compiled, x, y) == step_flops_ratio(build, model, x, y)
