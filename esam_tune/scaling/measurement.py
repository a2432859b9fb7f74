"""What each worker of a scaling study runs: timed steps and all-reduces, interleaved over counts.

All counts are measured in one process group of the largest: for a count of k, the first k ranks
form a group of their own and the others wait. It needs torch alone, so it runs under Ray as well as
in plain processes.
"""

import random
import statistics
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from esam_tune.computation import Computation
from esam_tune.config import TrialSettings, trial_settings
from esam_tune.optim import PerSampleOptimizer
from esam_tune.optim.distributed import local_gradients
from esam_tune.optimization import build_optimizer
from esam_tune.scaling.buckets import BucketClock, note_bucket
from esam_tune.scaling.records import (
    Cell,
    Kind,
    Measurement,
    Plan,
    Sample,
    Traffic,
    message_sets,
)
from esam_tune.tasks.data import load_split
from esam_tune.tasks.models import build_model
from esam_tune.training import DivergedError

# Idle ranks wait for the whole measurement of the others.
_PATIENCE = timedelta(hours=2)
_WARM_UP_STEPS = 2
_ALL_REDUCE_REPEATS = 10
SCHEDULE_STEPS = 7


def measure(plan: Plan, device: torch.device) -> Measurement:
    """Time every cell of the plan; run by every rank of an initialised default process group.

    Args:
        plan: the same on every rank.
        device: of this rank.

    Returns:
        On rank 0 all that was measured; elsewhere an empty measurement.

    Raises:
        DivergedError: when a timed step's losses are not finite.
    """
    rank = dist.get_rank()
    backend = str(dist.get_backend())
    # A wait on gloo sleeps; one on NCCL would keep a core and the device's stream busy.
    everyone: Any = dist.new_group(backend="gloo", timeout=_PATIENCE)
    groups = {
        workers: dist.new_group(list(range(workers)), timeout=_PATIENCE)
        for workers in sorted({cell.workers for cell in plan.cells})
    }
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    result = Measurement(device=name, backend=backend)
    if any(cell.settings["training"].get("compile") for cell in plan.cells):
        # Each cell has a model of its own, and the compiler's limit is on models of one class.
        torch._dynamo.config.recompile_limit = 8 * len(plan.cells)
    places = {
        id(cell): _Place(cell, groups[cell.workers], rank, device, plan.seed)
        for cell in plan.cells
        if rank < cell.workers
    }
    for cell in plan.cells:
        if cell.workers == 1 and cell.method not in result.traffic and rank == 0:
            result.traffic[cell.method] = places[id(cell)].traffic()
    # The sizes of the messages are the model's, whatever the method.
    known: list[Any] = [next(iter(result.traffic.values())).message_bytes] if rank == 0 else [()]
    dist.broadcast_object_list(known, src=0, group=everyone)
    messages = message_sets(known[0])

    for number in range(plan.rounds):
        for job in _order(plan, number):
            if isinstance(job, Cell):
                if rank < job.workers:
                    result.samples += places[id(job)].time(number, plan.steps)
            elif rank < job:
                result.samples += [
                    _time_all_reduce(sizes, groups[job], job, number, device) for sizes in messages
                ]
            dist.barrier(group=everyone)
    return result if rank == 0 else Measurement()


def _order(plan: Plan, number: int) -> list[Cell | int]:
    """A round's jobs in an order of its own: cells, and counts whose all-reduce is timed."""
    counts = sorted({cell.workers for cell in plan.cells if cell.workers > 1})
    jobs: list[Cell | int] = [*plan.cells, *counts]
    random.Random(f"{plan.seed} {number}").shuffle(jobs)
    return jobs


class _Place:
    """This rank's model and batch of one cell."""

    def __init__(self, cell: Cell, group: Any, rank: int, device: torch.device, seed: int) -> None:
        self._cell = cell
        self._group = group
        self._device = device
        self._settings: TrialSettings = trial_settings(cell.settings)
        split = load_split(self._settings.task, "train").to(device)
        draw = torch.Generator().manual_seed(seed + rank)
        # Drawn with replacement: many workers may hold more rows than a small data set has.
        rows = torch.randint(len(split), (cell.rows,), generator=draw)
        images, labels = zip(*split.in_order(rows), strict=True)
        self._images, self._labels = torch.cat(images), torch.cat(labels)
        self._computation = Computation(self._settings.training, device)
        model = build_model(
            self._settings.task.model, split.image_shape, split.num_classes, self._settings.seed
        )
        self._model = self._computation.laid_out(model.to(device))
        self._model.train()
        self._initial = {k: v.clone() for k, v in self._model.state_dict().items()}
        # One worker trains the bare model, as training does.
        self._replica = self._computation.compiled(
            self._wrapped() if cell.workers > 1 else self._model
        )

    def time(self, number: int, steps: int) -> list[Sample]:
        """One round: steps, and for several workers steps that send nothing."""
        kinds: tuple[Kind, ...] = ("step", "local_step") if self._cell.workers > 1 else ("step",)
        return [
            Sample(
                kind=kind,
                round=number,
                workers=self._cell.workers,
                seconds=self._block(kind, number, steps),
                method=self._cell.method,
                rows=self._cell.rows,
            )
            for kind in kinds
        ]

    def traffic(self) -> Traffic:
        """Sizes and times of the buckets, from steps of this worker alone."""
        replica = self._wrapped()
        clock = BucketClock(self._device)
        replica.register_comm_hook(clock, note_bucket)
        optimizer = self._optimizer(replica, 0)
        for _ in range(_WARM_UP_STEPS + SCHEDULE_STEPS * optimizer.period):
            clock.start_step()
            optimizer.step(self._closure(replica))
        self._model.load_state_dict(self._initial)
        return clock.traffic(_WARM_UP_STEPS)

    def _wrapped(self) -> DistributedDataParallel:
        devices = [self._device.index] if self._device.type == "cuda" else None
        return DistributedDataParallel(
            self._model, device_ids=devices, broadcast_buffers=False, process_group=self._group
        )

    def _optimizer(self, replica: torch.nn.Module, number: int) -> PerSampleOptimizer:
        # Every count sees the same masks in a round, and each round sees others.
        settings = self._settings
        return build_optimizer(
            settings.params,
            settings.training,
            replica,
            settings.seed + number,
            self._computation.scaler(),
        )

    def _closure(self, replica: torch.nn.Module) -> Any:
        def closure(selected: Tensor | None) -> Tensor:
            if selected is None:
                return self._computation.losses(replica, self._images, self._labels)
            return self._computation.losses(replica, self._images[selected], self._labels[selected])

        return closure

    def _block(self, kind: Kind, number: int, steps: int) -> float:
        """Mean seconds of a step over whole periods of the optimizer, and over the workers."""
        optimizer = self._optimizer(self._replica, number)
        period = optimizer.period
        closure = self._closure(self._replica)

        def context() -> AbstractContextManager[object]:
            return local_gradients(self._replica) if kind == "local_step" else nullcontext()

        with context():
            for _ in range(_WARM_UP_STEPS):
                optimizer.step(closure)
        # So that a period's dearer steps lie alike in every block.
        optimizer = self._optimizer(self._replica, number)
        timed = -(-steps // period) * period
        _rendezvous(self._group, self._device)
        start = time.perf_counter()
        with context():
            for _ in range(timed):
                losses = optimizer.step(closure)
        _synchronise(self._device)
        seconds = (time.perf_counter() - start) / timed
        if not torch.isfinite(losses).all():
            raise DivergedError(f"{self._cell.method}: the loss of a timed step is not finite")
        # Steps that send nothing leave each worker with weights of its own.
        self._model.load_state_dict(self._initial)
        return _mean(seconds, self._group, self._device)


def _time_all_reduce(
    sizes: Sequence[int], group: Any, workers: int, number: int, device: torch.device
) -> Sample:
    """All-reduce messages of these sizes one after the other, with nothing beside it."""
    messages = [torch.zeros(size // 4, device=device) for size in sizes]

    def once() -> None:
        for message in messages:
            dist.all_reduce(message, group=group)

    for _ in range(_WARM_UP_STEPS):
        once()
    _rendezvous(group, device)
    seconds = []
    for _ in range(_ALL_REDUCE_REPEATS):
        start = time.perf_counter()
        once()
        _synchronise(device)
        seconds.append(time.perf_counter() - start)
    return Sample(
        kind="all_reduce",
        round=number,
        workers=workers,
        seconds=_mean(statistics.median(seconds), group, device),
        message_bytes=sizes,
    )


def _rendezvous(group: Any, device: torch.device) -> None:
    """Let no worker's clock start before all are here."""
    dist.all_reduce(torch.zeros(1, device=device), group=group)
    _synchronise(device)


def _mean(value: float, group: Any, device: torch.device) -> float:
    total = torch.tensor([value], dtype=torch.float64, device=device)
    dist.all_reduce(total, group=group)
    return float(total) / dist.get_world_size(group)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
