"""When the last backward pass has each bucket of gradients ready, and how large it is."""

import time
from typing import Any

import torch
import torch.distributed as dist

from esam_tune.scaling.records import Traffic


class BucketClock:
    """Notes when each bucket of a step is ready, and its size."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._steps: list[list[tuple[int, Any]]] = []

    def start_step(self) -> None:
        """Begin a step's notes."""
        self._steps.append([])

    def note(self, size: int) -> None:
        """A bucket of so many bytes is ready now."""
        now: Any
        if self._device.type == "cuda":
            now = torch.cuda.Event(enable_timing=True)
            now.record()
        else:
            now = time.perf_counter()
        self._steps[-1].append((size, now))

    def traffic(self, skip: int) -> Traffic:
        """Of the steps after the first few, in which DistributedDataParallel forms its buckets."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        steps = self._steps[skip:]
        leads = torch.tensor(
            [[self._between(when, step[-1][1]) for _, when in step] for step in steps],
            dtype=torch.float64,
        )
        return Traffic(
            message_bytes=[size for size, _ in steps[-1]],
            lead_seconds=leads.median(dim=0).values.tolist(),
        )

    def _between(self, start: Any, end: Any) -> float:
        if self._device.type == "cuda":
            return float(start.elapsed_time(end)) / 1000
        return float(end - start)


def note_bucket(
    clock: BucketClock,
    bucket: dist.GradBucket,  # type: ignore[name-defined] # torch's stubs leave it out
) -> torch.futures.Future[torch.Tensor]:
    """A communication hook that notes the bucket and sends nothing: for one worker alone."""
    buffer: torch.Tensor = bucket.buffer()
    clock.note(buffer.numel() * buffer.element_size())
    done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    done.set_result(buffer)
    return done
