"""Predicted cost of an optimizer's step, before anything is run.

A model is described once by the FLOPs of its forward pass and of the parts of its backward pass;
every method's and setting's cost follows by arithmetic. `cost` counts the same by running steps.
"""

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from esam_tune.optim.arguments import checked_choice, checked_count, checked_share
from esam_tune.optim.cost import Loss, cross_entropy_per_row, without_arithmetic
from esam_tune.optim.esam import SELECTIONS
from esam_tune.optim.flops import FlopCounter
from esam_tune.optim.head import HeadRecorder, find_head
from esam_tune.optim.selection import num_selected

METHODS = ("sgd", "sam", "asam", "esam", "looksam", "msam")


@dataclass(frozen=True, kw_only=True)
class StepWork:
    """What one step of a model on one batch consists of, in FLOPs or any other unit of work.

    Attributes:
        rows: rows of the batch.
        forward: the forward pass.
        weight_gradients: for each trainable tensor, the gradient of that tensor itself.
        activation_gradients: for each trainable tensor, the activation gradients that lead from
            the loss to it: what SWP still pays when that tensor alone is kept.
        scoring: ranking the rows by their first-order increase.
    """

    rows: int
    forward: float
    weight_gradients: tuple[float, ...]
    activation_gradients: tuple[float, ...]
    scoring: float = 0.0

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ValueError: when a field is out of bounds.
        """
        checked_count("rows", self.rows)
        if len(self.weight_gradients) != len(self.activation_gradients):
            raise ValueError(
                "weight_gradients and activation_gradients must have one entry for each tensor, "
                f"got {len(self.weight_gradients)} and {len(self.activation_gradients)}"
            )
        if not self.weight_gradients:
            raise ValueError("weight_gradients must have at least 1 entry, got 0")
        others = (*self.weight_gradients, *self.activation_gradients, self.scoring)
        if self.forward <= 0 or min(others) < 0:
            raise ValueError(f"forward must be > 0 and the other work >= 0, got {self}")

    @property
    def backward(self) -> float:
        """A backward pass to all tensors."""
        return sum(self.weight_gradients) + max(self.activation_gradients)

    def expected_backward(self, beta: float) -> float:
        """The mean backward pass when each tensor is kept with probability `beta`, never none.

        The weight gradients are those of the kept tensors. The activation gradients are those of
        the kept tensor that is furthest from the loss: exact for a chain of layers, and a close
        bound from below where branches run side by side.
        """
        pairs = sorted(
            zip(self.activation_gradients, self.weight_gradients, strict=True), reverse=True
        )
        expected = 0.0
        none_further = 1.0
        for activation, weight in pairs:
            expected += beta * (none_further * activation + weight)
            none_further *= 1.0 - beta
        # A draw that keeps none is replaced by one tensor, chosen uniformly.
        return expected + none_further * sum(map(sum, pairs)) / len(pairs)


def rule_of_thirds(*, rows: int = 1_000_000, tensors: int = 60) -> StepWork:
    """The usual rule of thumb: forward pass, activation and weight gradients cost the same.

    Exact selection at n rows then costs (3 + beta + 3 gamma) / 3, first-order selection
    (2 + beta + 3 gamma) / 3, for many tensors.
    """
    # Every tensor as far from the loss as the others: SWP saves weight gradients only.
    return StepWork(
        rows=rows,
        forward=1.0,
        weight_gradients=(1.0 / tensors,) * tensors,
        activation_gradients=(1.0,) * tensors,
    )


def step_cost(
    work: StepWork,
    *,
    method: str = "esam",
    beta: float = 0.6,
    gamma: float = 0.5,
    selection: str = "exact",
    every: int = 1,
) -> float:
    """The cost of a step over the plain base step's, 1.0 being SGD.

    Perturbing, selecting and updating are left out: elementwise work, small beside the passes.

    Args:
        work: the model's parts, from `measure_step_work` or `rule_of_thirds`.
        method: one of `METHODS`. `beta`, `gamma` and `selection` concern ``"esam"`` only.
        beta: probability of perturbing a tensor, in (0, 1].
        gamma: share of rows in the last pass, in (0, 1].
        selection: ``"exact"`` or ``"first_order"``.
        every: the method's step on every `every`-th batch, the base step between. For
            ``"looksam"`` its `every`.

    Raises:
        TypeError, ValueError: when an argument is outside its bounds.
    """
    checked_choice("method", method, METHODS)
    checked_choice("selection", selection, SELECTIONS)
    checked_count("every", every)
    beta, gamma = checked_share("beta", beta), checked_share("gamma", gamma)
    if method in ("sam", "asam", "looksam"):
        beta = gamma = 1.0
    plain = work.forward + work.backward
    if method in ("sgd", "msam"):
        return 1.0
    selected = num_selected(work.rows, gamma)
    looking = work.forward if selection == "exact" else work.scoring
    sharp = (
        work.forward
        + work.expected_backward(beta)
        + (looking if selected < work.rows else 0.0)
        + selected / work.rows * plain
    )
    return 1.0 + (sharp / plain - 1.0) / every


def measure_step_work(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    loss: Loss = cross_entropy_per_row,
    head: str | None = None,
) -> StepWork:
    """The FLOPs of a model's parts, counted as in `cost.count_step_flops`.

    One forward pass, and two backward passes for each trainable tensor; none of them computes
    anything where the model runs on the meta device.

    Args:
        model: a plain, compiled or DistributedDataParallel module; left as it is.
        inputs: one batch, rows first.
        targets: the batch's targets, rows first.
        loss: per-sample losses of the outputs.
        head: name of the layer that gives the logits, as in `ESAM`. Without one `scoring` is that
            of the last linear layer, or 0 when there is none.

    Raises:
        TypeError, ValueError: when `head` is not a linear layer that gives the logits, or nothing
            in `model` is trainable or has counted FLOPs.
    """

    def count(copied: nn.Module, x: Tensor, y: Tensor) -> StepWork:
        return _counted_work(copied, x, y, loss, head)

    return without_arithmetic(count, model, inputs, targets)


def _counted_work(
    model: nn.Module, inputs: Tensor, targets: Tensor, loss: Loss, head: str | None
) -> StepWork:
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not weights:
        raise ValueError("model must hold at least 1 parameter that requires gradients, got 0")
    counter = FlopCounter()
    inputs = inputs.detach()
    if inputs.is_floating_point():
        inputs.requires_grad_(True)
    has_head = head is not None or any(isinstance(m, nn.Linear) for m in model.modules())
    recorder = HeadRecorder(model, find_head(model, head)) if has_head else None
    with counter, nullcontext() if recorder is None else recorder.recording():
        mean = loss(model(inputs), targets).mean()
    forward = counter.total

    def backward(*to: Tensor) -> int:
        before = counter.total
        with counter:
            torch.autograd.grad(mean, to, retain_graph=True, allow_unused=True)
        return counter.total - before

    alone = [backward(weight) for weight in weights]
    # Together with something that lies behind all weights, a weight's own gradient is all that it
    # adds. The inputs do, unless they are indices; then the weights they index do.
    behind = inputs if inputs.requires_grad else weights[alone.index(max(alone))]
    base = backward(behind)
    own = [0 if weight is behind else backward(behind, weight) - base for weight in weights]
    return StepWork(
        rows=len(inputs),
        forward=float(forward),
        weight_gradients=tuple(map(float, own)),
        activation_gradients=tuple(float(a - w) for a, w in zip(alone, own, strict=True)),
        scoring=0.0 if recorder is None else _scoring(recorder, len(inputs), counter, head),
    )


def _scoring(recorder: HeadRecorder, rows: int, counter: FlopCounter, head: str | None) -> float:
    before = counter.total
    try:
        with counter:
            recorder.increases([rows], adaptive=False)
    except ValueError:
        # The last linear layer need not give the logits, if first-order selection is not wanted.
        if head is not None:
            raise
    return float(counter.total - before)
