"""Running statistics of normalisation layers: what the clean pass makes them, and nothing else."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@contextmanager
def running_statistics_held(model: nn.Module | None) -> Iterator[None]:
    """Put the running statistics back, on leaving, to what they were on entering.

    The layers inside stay in training mode and normalise with the batch's own statistics. The
    values are copied out and in place back, bit for bit, also when the body raises. The
    alternatives change what others look at: a momentum of 0 lets an infinite batch through
    (0 * inf), still counts the batch, and costs a compiled model a second graph, as does switching
    `track_running_stats`; replacing the buffers pulls them from under DistributedDataParallel.

    Args:
        model: the module whose layers are held; None holds nothing.
    """
    buffers = [] if model is None else _updated_buffers(model)
    if not buffers:
        yield
        return
    saved = [torch.empty_like(buffer) for buffer in buffers]
    with torch.no_grad():
        torch._foreach_copy_(saved, buffers)
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(buffers, saved)


def _updated_buffers(model: nn.Module) -> list[Tensor]:
    """The statistics that a forward pass of `model` updates.

    They are told by their names, torch's own, so that a layer which does not derive from torch's
    BatchNorm is covered too.
    """
    return [
        buffer
        for module in model.modules()
        if module.training
        for name in _STATISTICS
        if (buffer := module._buffers.get(name)) is not None
    ]
