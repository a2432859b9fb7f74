"""How trials share a cluster: how many fit beside each other, node by node."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from esam_tune.errors import InputError

# One node's resources, as Ray names them.
Node = Mapping[str, float]

# Ray counts resources in steps of 1e-4.
_STEP = 1e-4


@dataclass(frozen=True, kw_only=True)
class WorkerShape:
    """What one worker of a trial takes.

    Args:
        cpus: CPU cores, which are also its torch threads.
        gpus: whole GPUs, or the share of one that several workers divide up; None for one GPU
            where there are enough for a trial, else none.

    Raises:
        InputError: for a share that Ray cannot place.
    """

    cpus: int = 1
    gpus: float | None = None

    def __post_init__(self) -> None:
        """Check the share."""
        if (
            self.gpus is None
            or self.gpus == 0
            or (self.gpus >= 1 and float(self.gpus).is_integer())
        ):
            return
        if not 0.01 <= self.gpus <= 1:
            raise InputError(
                "--gpus-per-worker",
                f"must be a whole number, or a share of one GPU in [0.01, 1), got {self.gpus:g}",
                "for example 0.5: two workers on one GPU",
            )

    def slots(self, node: Node) -> int:
        """Workers that a node holds at a time."""
        fit = int(node.get("CPU", 0) / self.cpus + _STEP)
        gpus = int(node.get("GPU", 0))
        if not self.gpus:
            return fit
        # A share lies on one GPU: what is left over on two does not make up a third.
        shared = int(1 / self.gpus + _STEP) * gpus if self.gpus < 1 else gpus // int(self.gpus)
        return min(fit, shared)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How the trials of a study share the cluster.

    Args:
        max_concurrent: trials at a time.
        threads: CPU cores of each worker.
        gpus_per_worker: GPUs of each worker, or its share of one.
        slots: workers that the cluster holds at a time.
    """

    max_concurrent: int
    threads: int
    gpus_per_worker: float
    slots: int


def place(
    nodes: Sequence[Node],
    workers: int,
    asked: int | None,
    option: str = "--workers-per-trial",
    *,
    shape: WorkerShape | None = None,
    where: str = "the Ray cluster",
) -> Placement:
    """Share the cluster out among trials.

    A worker never straddles nodes, so room is counted in whole workers a node; a trial's workers
    may lie on several. Trials that together asked for more than there is would each hold a part
    and wait for each other for ever.

    Args:
        nodes: resources of each node.
        workers: of a trial; with an elastic range, the fewest it can run with.
        asked: trials at a time that the user wants at most, or None.
        option: that set ``workers``.
        shape: of a worker.
        where: the nodes, in the words of an error message.

    Raises:
        InputError: when not one trial fits.
    """
    shape = shape or WorkerShape()
    if shape.gpus is None:
        one = WorkerShape(cpus=shape.cpus, gpus=1)
        enough = sum(map(one.slots, nodes)) >= workers
        shape = one if enough else WorkerShape(cpus=shape.cpus, gpus=0)
    _check_one_worker(nodes, shape, where)
    slots = sum(map(shape.slots, nodes))
    if slots < workers:
        raise InputError(
            option, f"must be at most {_limit(nodes, shape, where)}, got {workers}", _remedy(shape)
        )
    fit = slots // workers
    return Placement(
        max_concurrent=min(asked or fit, fit),
        threads=shape.cpus,
        gpus_per_worker=float(shape.gpus or 0),
        slots=slots,
    )


def _check_one_worker(nodes: Sequence[Node], shape: WorkerShape, where: str) -> None:
    for option, key, what, need in (
        ("--cpus-per-worker", "CPU", "CPU cores", shape.cpus),
        ("--gpus-per-worker", "GPU", "GPUs", shape.gpus or 0),
    ):
        largest = max((int(node.get(key, 0)) for node in nodes), default=0)
        if math.ceil(need) > largest:
            raise InputError(
                option,
                f"must be at most {largest}, the {what} of the largest node of {where}, "
                f"got {need:g}",
                "ask for less: a worker cannot straddle nodes"
                if largest
                else "leave it out to train on the CPU, or add nodes that have some",
            )
    if not any(map(shape.slots, nodes)):
        raise InputError(
            "--gpus-per-worker",
            f"no node of {where} has {shape.cpus} CPU cores and {shape.gpus:g} GPUs together",
            "ask for less of one of them",
        )


def _limit(nodes: Sequence[Node], shape: WorkerShape, where: str) -> str:
    slots = sum(map(shape.slots, nodes))
    if not shape.gpus and shape.cpus == 1:
        return f"{slots}, the CPU cores of {where}"
    each = f"{shape.cpus} CPU core{'s' if shape.cpus > 1 else ''}"
    if shape.gpus:
        each += f" and {shape.gpus:g} GPU{'s' if shape.gpus > 1 else ''}"
    return f"{slots}, the workers of {each} that {where} holds"


def _remedy(shape: WorkerShape) -> str:
    if shape.gpus and shape.gpus >= 1:
        return "use fewer workers, let them share GPUs (--gpus-per-worker 0.5), or a larger cluster"
    return "use fewer workers or a larger cluster"
