"""Counted cost of an optimizer's step.

What is counted is written in `flops`: matrix products, convolutions and attention.
"""

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esam_tune.optim.arguments import checked_count
from esam_tune.optim.base import BaseStep, PerSampleOptimizer
from esam_tune.optim.distributed import bare_module
from esam_tune.optim.flops import FlopCounter
from esam_tune.optim.masks import Mask, MaskCycle, stratified_masks

Result = TypeVar("Result")

Build = Callable[[nn.Module], PerSampleOptimizer]
"""Makes the optimizer for a model; called with a copy of the model."""

Loss = Callable[[Any, Any], Tensor]
"""loss(outputs, targets) -> per-sample losses of shape (n,)."""


def cross_entropy_per_row(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of each row, shape (n,): the loss unless another is given."""
    return F.cross_entropy(outputs, targets, reduction="none")


def count_step_flops(
    build: Build,
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    loss: Loss = cross_entropy_per_row,
    num_masks: int = 32,
    seed: int = 0,
) -> float:
    """Mean FLOPs of one step of the optimizer that `build` makes for `model`.

    The steps run on a copy of the model on the meta device, so nothing is computed and `model`,
    its gradients and its statistics stay as they are; a model that cannot run there is counted by
    real steps of a copy. An optimizer that draws masks is averaged over `num_masks` stratified
    ones (`masks.stratified_masks`), or over those of its `MaskCycle`, each distinct mask being
    counted once; one whose steps differ in kind over its whole `period`.

    Args:
        build: makes the optimizer; a function of the model it is given.
        model: a plain, compiled or DistributedDataParallel module.
        inputs: one batch, rows first.
        targets: the batch's targets, rows first.
        loss: per-sample losses of the outputs.
        num_masks: masks to average over, >= 1.
        seed: of these masks, a whole number >= 0.

    Raises:
        TypeError, ValueError: when `num_masks` or `seed` is outside its bounds, `build` does not
            return a `PerSampleOptimizer`, or the loss is not per sample.
    """
    checked_count("num_masks", num_masks)
    checked_count("seed", seed, at_least=0)

    def count(copied: nn.Module, x: Tensor, y: Tensor) -> float:
        return _mean_flops(build, copied, x, y, loss, num_masks, seed)

    return without_arithmetic(count, model, inputs, targets)


def without_arithmetic(
    count: Callable[[nn.Module, Tensor, Tensor], Result],
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
) -> Result:
    """What `count` gives for a copy of the model and the batch on the meta device.

    Where they cannot run there, it is given a real copy and the real batch.
    """
    plain = bare_module(model)
    try:
        return count(_meta_copy(plain), inputs.to("meta"), targets.to("meta"))
    except (NotImplementedError, RuntimeError):
        # Some operation needs values, or the model keeps plain tensors on a real device.
        return count(copy.deepcopy(plain), inputs, targets)


def step_flops_ratio(
    build: Build,
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    loss: Loss = cross_entropy_per_row,
    num_masks: int = 32,
    seed: int = 0,
) -> float:
    """FLOPs of a step over those of the plain base step, same model and batch; 1.0 is SGD.

    Arguments and errors as in `count_step_flops`.

    Raises:
        ValueError: when the plain step of `model` has no FLOPs that are counted.
    """
    plain = count_step_flops(_plain_sgd, model, inputs, targets, loss=loss, num_masks=1)
    if plain == 0.0:
        raise ValueError("model must hold at least one matrix product or convolution, got 0 FLOPs")
    own = count_step_flops(build, model, inputs, targets, loss=loss, num_masks=num_masks, seed=seed)
    return own / plain


def _plain_sgd(model: nn.Module) -> PerSampleOptimizer:
    # Any base optimizer would do: updates are elementwise, and not counted.
    return BaseStep(torch.optim.SGD(model.parameters(), lr=0.1), model=model)


def _mean_flops(
    build: Build,
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    loss: Loss,
    num_masks: int,
    seed: int,
) -> float:
    optimizer = build(model)
    if not isinstance(optimizer, PerSampleOptimizer):
        raise TypeError(f"build must return a PerSampleOptimizer, got {type(optimizer).__name__}")

    def closure(rows: Tensor | None) -> Tensor:
        if rows is None:
            return loss(model(inputs), targets)
        return loss(model(inputs[rows]), targets[rows])

    counter = FlopCounter()

    def counted() -> float:
        before = counter.total
        with counter:
            for _ in range(optimizer.period):
                optimizer.step(closure)
        return (counter.total - before) / optimizer.period

    if optimizer.masks is None:
        return counted()
    known: dict[Mask, float] = {}
    masks = _masks_for(optimizer, num_masks, seed)
    for mask in masks:
        if mask not in known:
            optimizer.masks = MaskCycle([mask])
            known[mask] = counted()
    return sum(known[mask] for mask in masks) / len(masks)


def _masks_for(optimizer: PerSampleOptimizer, count: int, seed: int) -> list[Mask]:
    if isinstance(optimizer.masks, MaskCycle):
        return list(optimizer.masks.masks)
    num_tensors = len(optimizer.trainable_parameters())
    beta = getattr(optimizer.masks, "beta", None)
    if beta is not None:
        return stratified_masks(num_tensors, beta, count, seed)
    # A source that is not described by a share is sampled as it is.
    assert optimizer.masks is not None
    return [optimizer.masks.draw(num_tensors) for _ in range(count)]


def _meta_copy(model: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers lie on the meta device; shared ones stay shared.

    Told beforehand what each tensor's copy is, deepcopy copies no values. Module.to("meta") would
    copy them first and untie shared weights.
    """
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        on_meta = nn.Parameter(
            torch.empty_like(parameter, device="meta"), requires_grad=parameter.requires_grad
        )
        memo[id(parameter)] = on_meta
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, memo)
