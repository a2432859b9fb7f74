"""How long a study will take, from a few steps measured on this machine."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from esam_tune.study import cluster
from esam_tune.study.feasibility import PredictedCost
from esam_tune.study.preflight import Plan
from esam_tune.study.spec import StudySpec

if TYPE_CHECKING:
    from esam_tune.study.placement import Placement

# Seconds that a study, a trial and an epoch take beside training, on two cores: by
# benchmarks/dry_run_estimate.py (Ray's start and end), and by the journal of such a study (reports,
# checkpoints); of a trial with a worker group by benchmarks/orchestration.py.
_RAY_SECONDS = 20.0
_TRIAL_SECONDS, _GROUP_SECONDS = 1.0, 17.0
_EPOCH_SECONDS = 0.1
# Each takes a process with torch in it.
_MOST_BESIDE = 8
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
        gpu_hours_low: the same with the steps of ``low``.
        gpu_hours_high: the same with the steps of ``high``.
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
    gpu_hours_low: float
    gpu_hours_high: float
    decoding_included: bool


def at_a_time(spec: StudySpec, placement: Placement) -> int:
    """Trials that run side by side, of which there may be fewer than fit."""
    return min(placement.max_concurrent, spec.runs)


def _side_by_side(plan: Plan, placement: Placement) -> int:
    """Workers that this machine would run at a time, if that is a matter of its cores."""
    if placement.gpus_per_worker > 0:
        return 1
    asked = at_a_time(plan.spec, placement) * plan.workers
    return max(1, min(asked, cluster.local_cores() // placement.threads, _MOST_BESIDE))


def estimate(
    plan: Plan, placement: Placement, predicted: PredictedCost, mean_cost: float
) -> Estimate | None:
    """Measure some steps, as many trials of the base optimizer and SAM would take side by side.

    Args:
        plan: of the study, all checks passed.
        placement: of its trials.
        predicted: the cost of a setting.
        mean_cost: of the settings that will be tried.

    Returns:
        None where the trials run on GPUs and there is none here.
    """
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
        base, sam = probe_steps(
            spec.task, training, train, rows, device, beside=_side_by_side(plan, placement)
        )
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
    start = _GROUP_SECONDS if plan.workers > 1 else _TRIAL_SECONDS

    def held(cost: float, seconds: float, longer: float) -> float:
        """Seconds that a trial holds its workers."""
        each = 1.0 + (cost - 1.0) * longer
        trained = (training.epochs * (steps * each + evaluated) + beside) * seconds
        return trained + training.epochs * _EPOCH_SECONDS + start

    def together(seconds: float, longer: float) -> float:
        """Seconds that all trials hold their workers, one after the other."""
        return sum(count * held(cost, seconds, longer) for cost, count in kinds)

    def hours(seconds: float, longer: float) -> float:
        # Not all that fit find work to the end.
        longest = max(held(cost, seconds, longer) for cost, _ in kinds)
        elapsed = max(together(seconds, longer) / at_a_time(spec, placement), longest)
        return (elapsed + _RAY_SECONDS) / 3600

    def gpu_hours(seconds: float, longer: float) -> float:
        gpus = plan.workers * placement.gpus_per_worker
        return together(seconds, longer) / 3600 * gpus

    ranked, tenth = sorted(base), len(base) // 10
    fast = ranked[tenth], min(1.0, longer)
    slow = ranked[-1 - tenth], max(1.0, longer)
    return Estimate(
        step_seconds=step,
        sam_time_ratio=sam_ratio,
        sam_flops_ratio=sam_counted,
        measured_on=torch.cuda.get_device_name(device) if on_gpu else "this machine's CPU",
        hours=hours(step, longer),
        low=hours(*fast),
        high=hours(*slow),
        gpu_hours=gpu_hours(step, longer),
        gpu_hours_low=gpu_hours(*fast),
        gpu_hours_high=gpu_hours(*slow),
        decoding_included=not train.cropped_by_loader,
    )
