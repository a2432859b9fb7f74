"""A process' place among the workers of a run, and what they do together."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True, kw_only=True)
class Worker:
    """This process' place among the workers of a trial.

    Args:
        rank: from 0.
        workers: count.
        device: of this worker.
        group: process group of these workers; None for all processes there are.
    """

    rank: int = 0
    workers: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - devices are immutable
    group: dist.ProcessGroup | None = None

    def sum(self, values: Tensor) -> Tensor:
        """``values`` added up over the workers, element by element."""
        if self.workers > 1:
            dist.all_reduce(values, group=self.group)
        return values

    def mean(self, values: list[float]) -> list[float]:
        """Each value's mean over the workers, for what every worker measures on its own clock."""
        taken = torch.tensor(values, dtype=torch.float64, device=self.device)
        return [float(value) for value in self.sum(taken) / self.workers]

    def replicate(self, model: nn.Module) -> nn.Module:
        """The model as it is trained: in DistributedDataParallel where there are more workers."""
        if self.workers == 1:
            return model
        devices = [self.device.index] if self.device.type == "cuda" else None
        # Buffers are averaged once an epoch instead: a broadcast would let the first worker's
        # BatchNorm statistics overwrite the others'.
        return DistributedDataParallel(
            model, device_ids=devices, broadcast_buffers=False, process_group=self.group
        )

    def average_buffers(self, model: nn.Module) -> None:
        """Replace floating-point buffers (BatchNorm's statistics) by their mean over workers."""
        if self.workers > 1:
            for buffer in model.buffers():
                if buffer.is_floating_point():
                    dist.all_reduce(buffer, group=self.group)
                    buffer /= self.workers
