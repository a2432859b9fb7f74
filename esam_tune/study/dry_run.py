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
from esam_tune.study.awaited_room import Room
from esam_tune.study.estimate import Estimate, at_a_time, estimate
from esam_tune.study.feasibility import PredictedCost
from esam_tune.study.preflight import Plan
from esam_tune.study.spec import describe_params
from esam_tune.tracking.store import without_credentials

if TYPE_CHECKING:
    from rich.console import Console

    from esam_tune.study.placement import Node, Placement, WorkerShape

_PROPOSALS = 5
_DRAWS = 256


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
        return at_a_time(self.plan.spec, self.placement)

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
            text += (
                f"; {estimate.gpu_hours:.3g} GPU-hours ({estimate.gpu_hours_low:.3g} to "
                f"{estimate.gpu_hours_high:.3g})"
            )
        if self.plan.spec.early_stopping.kind != "none":
            text += "; less by what early stopping saves"
        return text


def dry_run(
    plan: Plan, shape: WorkerShape, address: str | None, room: Room | None = None
) -> DryRun:
    """Find out what a study would do; nothing is started.

    Data sets that the plan's checks have prepared stay where data sets are kept; nothing else stays
    behind.

    Args:
        plan: of the study, all checks passed.
        shape: of a trial's workers.
        address: of the cluster to ask for its size; None for this machine.
        room: that the cluster is to make, taken for its size, or None.

    Raises:
        InputError: when not one trial fits.
    """
    if room is not None:
        nodes, where = room.nodes(), "the awaited workers"
    elif address is None:
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
        estimate=estimate(plan, placement, predicted, statistics.mean(admitted or drawn)),
    )


def _first_proposals(plan: Plan, predicted: PredictedCost) -> list[dict[str, Any]]:
    from esam_tune.study.proposals import Proposals

    spec = plan.spec
    with tempfile.TemporaryDirectory(prefix="esam-tune-") as folder:
        where = Path(folder, "optuna.db")
        proposals = Proposals(where, spec, predicted.admits, price=predicted, warm=plan.warm_start)
        asked = (proposals.ask(i, f"{i:04d}") for i in range(min(_PROPOSALS, spec.trials)))
        return [proposed[1] for proposed in asked if proposed is not None]


def _duration(hours: float) -> str:
    if hours < 1 / 30:
        return f"{hours * 3600:.0f} s"
    return f"{hours * 60:.0f} min" if hours < 2 else f"{hours:.1f} h"
