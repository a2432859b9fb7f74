"""What a step holds beyond the base optimizer's step, and whether it waits for the device."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from esam_tune.optim import ESAM, MSAM, BaseStep

torch.set_num_threads(1)


def peak_bytes(optimizer, closure):
    """Largest sum of what a step allocated and had not freed yet, in bytes."""
    optimizer.step(closure)  # the momentum buffers
    optimizer.zero_grad()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        optimizer.step(closure)
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


@pytest.mark.parametrize(
    ("build", "copies"),
    [
        (lambda base, model: ESAM(base, model=model, beta=1.0, gamma=1.0), 1.0),
        (lambda base, model: ESAM(base, model=model, beta=1.0, gamma=0.5, adaptive=True), 1.0),
        (lambda base, model: ESAM(base, model=model, beta=1.0, selection="first_order"), 1.0),
        (lambda base, model: MSAM(base, model=model), 1.0),
    ],
    ids=["sam", "adaptive", "first order", "msam"],
)
def test_at_most_one_copy_of_the_perturbed_weights(build, copies):
    # Few rows and wide layers: activations are next to nothing.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 256), nn.Tanh(), nn.Linear(256, 256))
    x, y = torch.randn(4, 256), torch.randint(256, (4,))

    def closure(rows):
        picked = slice(None) if rows is None else rows
        return F.cross_entropy(model(x[picked]), y[picked], reduction="none")

    def base():
        return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    plain = peak_bytes(BaseStep(base(), model=model), closure)
    assert plain >= weights  # the gradients: the profile sees what it should
    own = peak_bytes(build(base(), model), closure)
    assert own <= plain + copies * weights + 0.1 * weights


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("selection", ["exact", "first_order"])
def test_a_step_on_a_gpu_never_waits_for_it(selection):
    model = nn.Sequential(nn.Linear(16, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 4)).cuda()
    base = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    optimizer = ESAM(base, model=model, selection=selection, max_grad_norm=1.0)
    x, y = torch.randn(32, 16, device="cuda"), torch.randint(4, (32,), device="cuda")

    def closure(rows):
        if rows is None:
            return F.cross_entropy(model(x), y, reduction="none")
        return F.cross_entropy(model(x[rows]), y[rows], reduction="none")

    optimizer.step(closure)
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.step(closure)
    finally:
        torch.cuda.set_sync_debug_mode("default")
