"""What a study would do, told before it does anything: trials, first proposals, cost and time."""

from __future__ import annotations

import html
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esam_tune.study import cluster
from esam_tune.study.feasibility import PredictedCost
from esam_tune.study.preflight import Plan
from esam_tune.study.spec import StudySpec, describe_params
from esam_tune.tracking.store import without_credentials

if TYPE_CHECKING:
    from rich.console import Console

    from esam_tune.study.placement import Node, Placement, WorkerShape

_PROPOSALS = 5
_DRAWS = 256
# Seconds a trial and a study take beside training, on two cores: benchmarks/orchestration.py and
# the README's figures.
_GROUP_SECONDS = 17.0
_RAY_SECONDS = 10.0
# An evaluated image takes a forward pass: a third of a step's work.
_EVALUATION_SHARE = 1 / 3


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """How long the study takes if no trial is stopped early.

    Args:
        step_seconds: of the base optimizer, median of the steps measured.
        sam_time_ratio: of a SAM step, median time over the base optimizer's, measured.
        sam_flops_ratio: the same as it is counted.
        measured_on: the device.
        hours: from the median step, what other optimizers take beyond it being as much dearer than
            counted as SAM's.
        low: hours if all steps were as fast as the fastest tenth of those measured, and took the
            lesser of what is counted and what SAM's suggests.
        high: hours if all were as slow as the slowest tenth, and took the greater.
        gpu_hours: GPUs held by trials, times the hours they are held.
        decoding_included: whether steps were timed with all that a training waits for; False for
            streamed images, which are decoded beside it.
    """

    step_seconds: float
    sam_time_ratio: float
    sam_flops_ratio: float
    measured_on: str
    hours: float
    low: float
    high: float
    gpu_hours: float
    decoding_included: bool


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What a study would do.

    Args:
        plan: of the study.
        nodes: the resources of each node of the cluster.
        placement: of the trials on them.
        proposals: parameters of the first search trials, as far as they depend on no result.
        cost: least, median and greatest predicted cost of random settings of the space.
        allowed: share of the random settings whose predicted cost keeps the constraints.
        estimate: None where nothing here is like what the trials run on.
    """

    plan: Plan
    nodes: Sequence[Node]
    placement: Placement
    proposals: Sequence[dict[str, Any]]
    cost: tuple[float, float, float]
    allowed: float
    estimate: Estimate | None

    @property
    def at_a_time(self) -> int:
        """Trials that run side by side, of which there may be fewer than fit."""
        return _at_a_time(self.plan.spec, self.placement)

    def document(self) -> dict[str, Any]:
        """A study's JSON document without trials, and the plan."""
        spec, folder = self.plan.spec, self.plan.folder
        return {
            "study": spec.name,
            "storage": str(folder.storage),
            "tracking_uri": without_credentials(self.plan.uri),
            "parent_run_id": None,
            "objectives": dict(spec.objectives),
            "constraints": {c.metric: str(c) for c in spec.constraints},
            "trials": [],
            "front": [],
            "chosen": None,
            "plan": {
                "search_trials": spec.trials,
                "baselines": [baseline.label for baseline in spec.baselines],
                "seeds": spec.seeds,
                "epochs": spec.training.epochs,
                "max_concurrent": self.at_a_time,
                "workers_per_trial": self.plan.workers,
                "cpus_per_worker": self.placement.threads,
                "gpus_per_worker": self.placement.gpus_per_worker,
                "warm_start": [start.to_dict() for start in self.plan.warm_start],
                "first_proposals": list(self.proposals),
                "predicted_step_flops_ratio": dict(
                    zip(("least", "median", "greatest"), self.cost, strict=True)
                ),
                "share_within_cost_constraints": self.allowed,
                "estimate": self.estimate and asdict(self.estimate),
            },
        }

    def print(self, console: Console) -> None:
        """Tell people."""
        console.print(str(self), markup=False, soft_wrap=True)

    def _repr_html_(self) -> str:
        """The same lines, as a notebook shows them."""
        return f"<pre>{html.escape(str(self))}</pre>"

    def __str__(self) -> str:
        """What would happen, a line each."""
        spec, placed = self.plan.spec, self.placement
        least, median, greatest = self.cost
        seeds = "" if spec.seeds == 1 else f" under each of {spec.seeds} seeds"
        total = {key: sum(node.get(key, 0) for node in self.nodes) for key in ("CPU", "GPU")}
        lines = [
            ("study", f"{spec.name} in {self.plan.folder.storage}; nothing was started"),
            (
                "trials",
                f"{spec.trials} of the search and {len(spec.baselines)} baselines, "
                f"{spec.training.epochs} epochs each{seeds}, {self.at_a_time} at a time",
            ),
            (
                "a trial takes",
                f"{self.plan.workers} x ({placed.threads} CPU, {placed.gpus_per_worker:g} GPU) of "
                f"{total['CPU']:g} CPU and {total['GPU']:g} GPU on {len(self.nodes)} node(s)",
            ),
            (
                "step cost",
                f"{least:.2f} to {greatest:.2f} times the base optimizer's FLOPs, "
                f"median {median:.2f}",
            ),
        ]
        if spec.constraints:
            kept = " and ".join(f"{c.metric} {c}" for c in spec.constraints)
            lines.append(
                ("constraints", f"{kept}; {self.allowed:.0%} of the space may keep those on FLOPs")
            )
        lines += [
            ("warm start", start.notice(spec.sampler).partition("warm start ")[2])
            for start in self.plan.warm_start
        ]
        lines.append(("time", self._time()))
        for index, params in enumerate(self.proposals):
            lines.append(("first proposals" if index == 0 else "", describe_params(params)))
        return "\n".join(f"{what + ':' if what else '':17}{text}" for what, text in lines)

    def _time(self) -> str:
        estimate = self.estimate
        if estimate is None:
            return "not estimated: the trials run on GPUs, and there is none here to measure on"
        seconds = estimate.step_seconds
        step = f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"
        text = (
            f"{_duration(estimate.hours)} ({_duration(estimate.low)} to "
            f"{_duration(estimate.high)}), from steps of {step} "
            f"on {estimate.measured_on}, where SAM's take {estimate.sam_time_ratio:.2f} times as "
            f"long (counted: {estimate.sam_flops_ratio:.2f})"
        )
        if not estimate.decoding_included:
            text += "; decoding of images not included"
        if estimate.gpu_hours:
            text += f"; {estimate.gpu_hours:.3g} GPU-hours"
        return text


def dry_run(plan: Plan, shape: WorkerShape, address: str | None) -> DryRun:
    """Find out what a study would do; nothing is started.

    Data sets that the plan's checks have prepared stay where data sets are kept; nothing else stays
    behind.

    Args:
        plan: of the study, all checks passed.
        shape: of a trial's workers.
        address: of the cluster to ask for its size; None for this machine.

    Raises:
        InputError: when not one trial fits.
    """
    if address is None:
        nodes, where = cluster.local_nodes(), "this machine"
    else:
        where = "the Ray cluster"
        with cluster.connected(address, distributed=False) as found:
            nodes = list(found)
    placement = plan.place(nodes, shape, where)
    predicted = PredictedCost(plan.spec, plan.workers)
    drawn = predicted.drawn(_DRAWS)
    admitted = [cost for cost in drawn if predicted.allows(cost)]
    return DryRun(
        plan=plan,
        nodes=nodes,
        placement=placement,
        proposals=_first_proposals(plan, predicted),
        cost=(min(drawn), statistics.median(drawn), max(drawn)),
        allowed=len(admitted) / len(drawn),
        estimate=_estimate(plan, placement, predicted, statistics.mean(admitted or drawn)),
    )


def _first_proposals(plan: Plan, predicted: PredictedCost) -> list[dict[str, Any]]:
    from esam_tune.study.proposals import Proposals

    spec = plan.spec
    with tempfile.TemporaryDirectory(prefix="esam-tune-") as folder:
        where = Path(folder, "optuna.db")
        proposals = Proposals(where, spec, predicted.admits, price=predicted, warm=plan.warm_start)
        asked = (proposals.ask(i, f"{i:04d}") for i in range(min(_PROPOSALS, spec.trials)))
        return [proposed[1] for proposed in asked if proposed is not None]


def _at_a_time(spec: StudySpec, placement: Placement) -> int:
    return min(placement.max_concurrent, (spec.trials + len(spec.baselines)) * spec.seeds)


def _estimate(
    plan: Plan, placement: Placement, predicted: PredictedCost, mean_cost: float
) -> Estimate | None:
    import torch

    from esam_tune.step_probe import SAM, probe_steps
    from esam_tune.step_timer import StepTimer
    from esam_tune.tasks.data import load_split

    on_gpu = placement.gpus_per_worker > 0
    if on_gpu and not torch.cuda.is_available():
        return None
    device = torch.device("cuda" if on_gpu else "cpu")
    spec, training = plan.spec, plan.spec.training
    train, val = load_split(spec.task, "train"), load_split(spec.task, "val")
    rows = training.batch_size // plan.workers
    threads = torch.get_num_threads()
    torch.set_num_threads(placement.threads)
    try:
        base, sam = probe_steps(spec.task, training, train, rows, device)
    finally:
        torch.set_num_threads(threads)
    step, sam_ratio = statistics.median(base), statistics.median(sam) / statistics.median(base)
    sam_counted = predicted(SAM)
    # How much longer the part of a step beyond the base optimizer's takes than is counted.
    longer = (sam_ratio - 1.0) / (sam_counted - 1.0)
    # Of each kind of trial its cost and how many there are, be that a million.
    kinds = [(predicted(baseline.params), spec.seeds) for baseline in spec.baselines]
    kinds.append((mean_cost, spec.trials * spec.seeds))
    steps = len(train) // training.batch_size
    evaluated = _EVALUATION_SHARE * len(val) / training.batch_size
    # Base steps that a trial takes beside its own to measure its cost; the first one warms up.
    beside = 1 + sum(
        len(StepTimer.drawn_steps(steps, epoch, training.epochs))
        for epoch in range(1, training.epochs + 1)
    )
    start = _GROUP_SECONDS if plan.workers > 1 else 0.0

    def held(cost: float, seconds: float, longer: float) -> float:
        """Seconds that a trial holds its workers."""
        each = 1.0 + (cost - 1.0) * longer
        return (training.epochs * (steps * each + evaluated) + beside) * seconds + start

    def together(seconds: float, longer: float) -> float:
        """Seconds that all trials hold their workers, one after the other."""
        return sum(count * held(cost, seconds, longer) for cost, count in kinds)

    def hours(seconds: float, longer: float) -> float:
        # Not all that fit find work to the end.
        longest = max(held(cost, seconds, longer) for cost, _ in kinds)
        elapsed = max(together(seconds, longer) / _at_a_time(spec, placement), longest)
        return (elapsed + _RAY_SECONDS) / 3600

    ranked, tenth = sorted(base), len(base) // 10
    return Estimate(
        step_seconds=step,
        sam_time_ratio=sam_ratio,
        sam_flops_ratio=sam_counted,
        measured_on=torch.cuda.get_device_name(device) if on_gpu else "this machine's CPU",
        hours=hours(step, longer),
        low=hours(ranked[tenth], min(1.0, longer)),
        high=hours(ranked[-1 - tenth], max(1.0, longer)),
        gpu_hours=together(step, longer) / 3600 * plan.workers * placement.gpus_per_worker,
        decoding_included=not train.cropped_by_loader,
    )


def _duration(hours: float) -> str:
    if hours < 1 / 30:
        return f"{hours * 3600:.0f} s"
    return f"{hours * 60:.0f} min" if hours < 2 else f"{hours:.1f} h"
