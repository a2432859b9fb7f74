"""The sharpness that a run reports of the minimum it ends in."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esam_tune.metrics import SHARPNESS_RADIUS
from esam_tune.optim import gradient_sharpness
from esam_tune.tasks.splits import Split
from esam_tune.worker import Worker

# Of the training split: as many as there are, together in a batch, and through the network at a
# time, which must fit where a step of a training in half precision does.
_ROWS, _BATCH, _CHUNK = 512, 128, 32


def measure_sharpness(model: nn.Module, split: Split, worker: Worker, smoothing: float) -> float:
    """How sharp the training loss is around the model's weights: see ``metrics.SHARPNESS``.

    The rows are the same for every trial and seed of a task: evenly spaced in the training split,
    as they are trained on but without augmentation, in batches that do not depend on the count of
    workers, which share them out. Computed in float32 whatever the training's precision, whose
    rounding is as large as what is measured.

    Args:
        model: its weights, statistics and gradients stay as they are, as do all random streams.
        split: the training split, on the worker's device.
        worker: of several.
        smoothing: of the labels, as trained with.
    """
    count = min(len(split), _ROWS)
    rows = torch.arange(count) * len(split) // count
    own = rows.split(_BATCH)[worker.rank :: worker.workers]
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device=worker.device)
    # What a split gives at a time holds whole batches; only the last of all may be smaller.
    for images, labels in split.in_order(torch.cat(own)) if own else ():
        for some, their in zip(images.split(_BATCH), labels.split(_BATCH), strict=True):

            def part(rows: slice, some: Tensor = some, their: Tensor = their) -> Tensor:
                logits, count = model(some[rows]), len(their)
                loss = F.cross_entropy(
                    logits, their[rows], reduction="sum", label_smoothing=smoothing
                )
                return loss / count

            starts = range(0, len(their), _CHUNK)
            parts = [partial(part, slice(at, at + _CHUNK)) for at in starts]
            rise = gradient_sharpness(list(model.parameters()), parts, SHARPNESS_RADIUS)
            total += rise * len(their)
    model.train()
    return float(worker.sum(total)) / count
