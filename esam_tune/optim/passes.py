"""Forward and backward passes of a closure: checked, scaled and kept local as a step needs."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from esam_tune.optim.arguments import checked_losses
from esam_tune.optim.distributed import clear_autocast_cache, local_gradients
from esam_tune.optim.perturbation import scale


class Closure(Protocol):
    """Computes the losses of one batch at the model's present weights."""

    def __call__(self, rows: Tensor | None, /) -> Tensor:
        """Differentiable per-sample losses.

        Args:
            rows: None for the whole batch of n rows, or a LongTensor of shape (k,) of row indices.

        Returns:
            Losses of shape (n,), or of shape (k,) in the order of `rows`. Not reduced, not
            backpropagated: the optimizer does both.
        """
        ...


Closures = tuple[Closure, ...]
"""The micro-batches of one step: one closure each."""


def as_closures(closure: Closure | Sequence[Closure]) -> Closures:
    """One closure, or one for each micro-batch, as a tuple.

    Raises:
        TypeError: when `closure` is neither callable nor a sequence of callables.
        ValueError: when the sequence is empty.
    """
    if callable(closure):
        return (closure,)
    if not isinstance(closure, Sequence) or not all(callable(one) for one in closure):
        raise TypeError(
            "closure must be callable as closure(rows), or a sequence of such callables, "
            f"got {closure!r}"
        )
    if len(closure) == 0:
        raise ValueError("closure must hold at least 1 micro-batch, got an empty sequence")
    return tuple(closure)


class Passes:
    """The passes one optimizer makes.

    Args:
        model: the module the closures run, for DistributedDataParallel; None when there is none.
        scaler: multiplies the losses before the backward pass; None leaves them.
    """

    def __init__(self, *, model: nn.Module | None, scaler: GradScaler | None) -> None:
        """See the class."""
        self.model = model
        self.scaler = scaler

    def losses(self, closures: Closures, counts: Sequence[int]) -> Tensor:
        """Losses of all micro-batches together, without gradient, shape (sum of counts,)."""
        clear_autocast_cache()
        with local_gradients(self.model), torch.no_grad():
            return torch.cat(
                [
                    _called(closure, None, count)
                    for closure, count in zip(closures, counts, strict=True)
                ]
            )

    def backward(
        self,
        closures: Closures,
        rows: Sequence[Tensor | None] | None = None,
        *,
        counts: Sequence[int] | None = None,
        inputs: Sequence[Tensor] | None = None,
        local: bool = False,
        factor: Tensor | None = None,
    ) -> list[Tensor]:
        """Add to `.grad` the gradient of the mean loss over the rows of all micro-batches.

        Without `counts` the number of rows is known only afterwards, so with several micro-batches
        the sum is divided by the length of the first, see `mean_correction`. Under
        DistributedDataParallel only the last micro-batch all-reduces.

        Args:
            closures: the micro-batches.
            rows: for each the rows to use, None for all of them; none at all skips a micro-batch.
            counts: for each the number of rows in use, if known.
            inputs: the only tensors to receive gradients; None for all that require them. With
                `inputs`, a loss that none of them reaches is no error.
            local: send no gradients to other ranks.
            factor: shape (), multiplies the mean.

        Returns:
            Detached losses for each micro-batch.

        Raises:
            TypeError, ValueError: when a closure does not return what it must.
        """
        clear_autocast_cache()
        if rows is None:
            rows = [None] * len(closures)
        used = [
            (closure, selected, None if counts is None else counts[position])
            for position, (closure, selected) in enumerate(zip(closures, rows, strict=True))
            if counts is None or counts[position] > 0
        ]
        total = None if counts is None else sum(counts)
        results: list[Tensor] = []
        for closure, selected, count in used:
            reduces = not local and len(results) == len(used) - 1
            with nullcontext() if reduces else local_gradients(self.model), torch.enable_grad():
                losses = _called(closure, selected, count)
                total = losses.numel() if total is None else total
                self._backward_mean(losses, total, inputs=inputs, factor=factor)
            # A copy: a compiled model with CUDA graphs reuses the memory of its outputs.
            results.append(losses.detach().clone())
        return results

    def unscaled(self, gradients: list[Tensor]) -> None:
        """Take the factor that the losses were multiplied with out of `gradients`, in place."""
        if self.scaler is None or not self.scaler.is_enabled() or not gradients:
            return
        # Scaling a one gives the factor without waiting for the device, as get_scale() would.
        factor = self.scaler.scale(torch.ones((), device=gradients[0].device))
        scale(gradients, factor.reciprocal())

    def _backward_mean(
        self,
        losses: Tensor,
        total: int,
        *,
        inputs: Sequence[Tensor] | None,
        factor: Tensor | None,
    ) -> None:
        if not losses.requires_grad:
            if inputs is not None:
                return
            raise TypeError(
                "closure must return losses that require gradients, got losses that do not; "
                "is the closure under torch.no_grad(), or does it detach them?"
            )
        mean = losses.sum() / total
        if factor is not None:
            mean = mean * factor.to(mean.device)
        if self.scaler is not None:
            mean = self.scaler.scale(mean)
        mean.backward(inputs=inputs)


def mean_correction(losses: Sequence[Tensor]) -> float:
    """What turns a gradient divided by the first micro-batch's length into the mean's."""
    return losses[0].numel() / sum(part.numel() for part in losses)


def _called(closure: Closure, rows: Tensor | None, count: int | None) -> Tensor:
    call = "closure(None)" if rows is None else f"closure(rows) with {rows.numel()} rows"
    return checked_losses(closure(rows), expected=count, call=call)
