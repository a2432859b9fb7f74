"""Metric keys: each spelled once, with its unit and the direction that is better."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Direction = Literal["max", "min"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A reported quantity."""

    key: str
    unit: str
    better: Direction | None
    description: str


EPOCH = "epoch"
TRAIN_LOSS = "train_loss"
VAL_LOSS = "val_loss"
VAL_ACCURACY = "val_accuracy"
TEST_ACCURACY = "test_accuracy"
TEST_LOSS = "test_loss"
STEP_FLOPS_RATIO = "step_flops_ratio"
STEP_TIME_RATIO = "step_time_ratio"
IMAGES_PER_SECOND = "images_per_second"
EPOCH_SECONDS = "epoch_seconds"
SHARPNESS = "sharpness"

# The distance of SAM on CIFAR (Foret et al. 2021, section 3.1), whatever a trial's own rho is, so
# that trials compare.
SHARPNESS_RADIUS = 0.05

METRICS: dict[str, Metric] = {
    metric.key: metric
    for metric in (
        Metric(key=EPOCH, unit="1", better=None, description="epochs finished, absolute, from 1"),
        Metric(
            key=TRAIN_LOSS,
            unit="nat",
            better="min",
            description="mean loss of the epoch's clean passes",
        ),
        Metric(
            key=VAL_LOSS, unit="nat", better="min", description="mean loss on the validation split"
        ),
        Metric(
            key=VAL_ACCURACY,
            unit="0..1",
            better="max",
            description="accuracy on the validation split",
        ),
        Metric(key=TEST_LOSS, unit="nat", better="min", description="mean loss on the test split"),
        Metric(
            key=TEST_ACCURACY,
            unit="0..1",
            better="max",
            description="accuracy on the test split, read once, after choosing",
        ),
        Metric(
            key=STEP_FLOPS_RATIO,
            unit="base steps",
            better="min",
            description="counted FLOPs of one step over the base optimizer's",
        ),
        Metric(
            key=STEP_TIME_RATIO,
            unit="base steps",
            better="min",
            description="median time of one step over the base optimizer's, interleaved",
        ),
        Metric(
            key=IMAGES_PER_SECOND,
            unit="images/s",
            better="max",
            description="training throughput over all workers",
        ),
        Metric(
            key=EPOCH_SECONDS,
            unit="s",
            better="min",
            description="training time of the epoch, without validation and cost measurement",
        ),
        Metric(
            key=SHARPNESS,
            unit="nat",
            better="min",
            description="rise of the training loss at distance "
            f"{SHARPNESS_RADIUS} along its gradient, after the last epoch",
        ),
    )
}


def reported(values: Mapping[str, float]) -> dict[str, float | None]:
    """The metrics among the values of a report, with null for what is not finite, as in JSON."""
    return {
        key: value if math.isfinite(value) else None
        for key, value in values.items()
        if key in METRICS
    }


# Known only when a run has reached its end: no run is stopped early over them.
FINAL_METRICS = (SHARPNESS,)

COST_METRICS = (STEP_FLOPS_RATIO, STEP_TIME_RATIO)

# What a search may optimise: known for every trial, and never read from the test split.
OBJECTIVES: dict[str, Direction] = {
    metric.key: metric.better
    for metric in METRICS.values()
    if metric.better is not None and metric.key not in (TEST_ACCURACY, TEST_LOSS)
}
