"""ESAM and its baselines as `torch.optim` optimizers over per-sample losses.

Imports nothing but torch: a step runs and is measured on a bare GPU machine.
"""

from esam_tune.optim.base import BaseStep, PerSampleOptimizer
from esam_tune.optim.cost import count_step_flops, step_flops_ratio
from esam_tune.optim.cost_model import (
    StepWork,
    measure_step_work,
    rule_of_thirds,
    step_cost,
)
from esam_tune.optim.esam import ESAM, SELECTIONS
from esam_tune.optim.looksam import LookSAM
from esam_tune.optim.masks import (
    BernoulliMasks,
    Mask,
    MaskCycle,
    MaskSource,
    stratified_masks,
)
from esam_tune.optim.msam import MSAM
from esam_tune.optim.passes import Closure
from esam_tune.optim.selection import select_rows
from esam_tune.optim.sharpness import gradient_sharpness

__all__ = [
    "Closure",
    "PerSampleOptimizer",
    "BaseStep",
    "ESAM",
    "LookSAM",
    "MSAM",
    "SELECTIONS",
    "Mask",
    "MaskSource",
    "BernoulliMasks",
    "MaskCycle",
    "stratified_masks",
    "select_rows",
    "gradient_sharpness",
    "count_step_flops",
    "step_flops_ratio",
    "StepWork",
    "measure_step_work",
    "step_cost",
    "rule_of_thirds",
]
