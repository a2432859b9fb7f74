"""The interface that all optimizers here share, and the plain base step under it."""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from esam_tune.optim.arguments import checked_positive
from esam_tune.optim.distributed import clear_autocast_cache, refuse_sharded
from esam_tune.optim.masks import MaskSource
from esam_tune.optim.passes import Closure, Closures, Passes, as_closures, mean_correction

_OWN_STATE = "per_sample"


class PerSampleOptimizer(torch.optim.Optimizer, ABC):
    """Wraps a base optimizer; a step evaluates per-sample losses as often as it needs them.

    Parameter groups, state and defaults are the base optimizer's own: a learning-rate scheduler
    built on either acts on both. A step starts by clearing the gradients and leaves those that the
    base optimizer used. Sparse gradients are not supported.

    Args:
        base_optimizer: updates the weights.
        model: the module that the closures run. Needed for what concerns modules: running
            statistics, DistributedDataParallel, the head of first-order selection.
        scaler: scales the losses of fp16 training. The step unscales, skips on inf or NaN, and
            updates the scale once; call none of the scaler's methods beside it.
        max_grad_norm: largest 2-norm of the gradient given to the base optimizer; None leaves it.

    Attributes:
        masks: where a step draws its weight masks; None for a method without. Replaceable.
        period: number of steps after which the cost of a step repeats.

    Raises:
        TypeError, ValueError: when an argument is not what it must be.
    """

    masks: MaskSource | None = None
    period: int = 1

    def __init__(
        self,
        base_optimizer: torch.optim.Optimizer,
        *,
        model: nn.Module | None = None,
        scaler: GradScaler | None = None,
        max_grad_norm: float | None = None,
    ) -> None:
        """See the class."""
        if not isinstance(base_optimizer, torch.optim.Optimizer):
            raise TypeError(
                "base_optimizer must be a torch.optim.Optimizer, "
                f"got {type(base_optimizer).__name__}"
            )
        if isinstance(base_optimizer, PerSampleOptimizer):
            raise TypeError(
                "base_optimizer must be a plain torch.optim.Optimizer, got another "
                f"{type(base_optimizer).__name__}"
            )
        if isinstance(base_optimizer, torch.optim.LBFGS):
            raise TypeError(
                "base_optimizer must step without a closure, got LBFGS; use SGD or Adam"
            )
        if model is not None and not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        if scaler is not None and not isinstance(scaler, GradScaler):
            raise TypeError(f"scaler must be a torch.amp.GradScaler, got {type(scaler).__name__}")
        self.base_optimizer = base_optimizer
        parameters = [p for group in base_optimizer.param_groups for p in group["params"]]
        if not parameters:
            raise ValueError("base_optimizer must hold at least 1 parameter, got 0")
        refuse_sharded(model, parameters)
        # Sets up the hooks and the profiling of torch's optimizers, as unpickling one does. Their
        # __init__ would build parameter groups too, and those are the base optimizer's.
        super().__setstate__({})
        self.model = model
        self.scaler = scaler
        self.max_grad_norm = (
            None if max_grad_norm is None else checked_positive("max_grad_norm", max_grad_norm)
        )
        self._passes = Passes(model=model, scaler=scaler)

    @abstractmethod
    def step(self, closure: Closure | Sequence[Closure]) -> Tensor:  # type: ignore[override]
        """Take one step.

        Args:
            closure: computes per-sample losses, see `Closure`; or one closure for each micro-batch,
                whose rows then count as one batch.

        Returns:
            The detached per-sample losses at the weights before the step, shape (n,); those of
            several micro-batches one after the other.

        Raises:
            TypeError, ValueError: when a closure returns anything but a tensor of losses with one
                loss for each row.
        """

    # The base optimizer replaces the next three when it loads a state, so they are looked up.
    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The base optimizer's parameter groups."""
        return self.base_optimizer.param_groups

    @property
    def state(self) -> defaultdict[Tensor, Any]:  # type: ignore[override]
        """The base optimizer's state."""
        return self.base_optimizer.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The base optimizer's defaults."""
        return self.base_optimizer.defaults

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group to the base optimizer."""
        self.base_optimizer.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's state, and under ``per_sample`` what the wrapper adds.

        With it a resumed run continues bit for bit on the CPU. It holds no rank's own state: what
        one rank saves resumes all of them.
        """
        own = self._own_state()
        if self.scaler is not None:
            own["scaler"] = self.scaler.state_dict()
        return {**self.base_optimizer.state_dict(), _OWN_STATE: own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken.

        Raises:
            ValueError: when `state_dict` does not come from an optimizer of this class.
        """
        own = state_dict.get(_OWN_STATE)
        missing = set(self._own_state()) - set(own or ())
        if own is None or missing:
            raise ValueError(
                f"state_dict must come from {type(self).__name__}.state_dict(), but it lacks "
                f"{', '.join(map(repr, sorted(missing))) or repr(_OWN_STATE)}"
            )
        base = {name: value for name, value in state_dict.items() if name != _OWN_STATE}
        self.base_optimizer.load_state_dict(base)
        self._load_own_state(own)
        if self.scaler is not None and "scaler" in own:
            self.scaler.load_state_dict(own["scaler"])

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the hooks, and but `step` if a scheduler has wrapped it."""
        return {
            name: value
            for name, value in self.__dict__.items()
            if not name.startswith("_optimizer_") and name != "step"
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over `state`, with fresh hooks."""
        super().__setstate__(state)

    def _own_state(self) -> dict[str, Any]:
        """What the wrapper adds to the base optimizer's state."""
        return {} if self.masks is None else {"masks": self.masks.state_dict()}

    def _load_own_state(self, own: dict[str, Any]) -> None:
        """The inverse of `_own_state`."""
        if self.masks is not None:
            self.masks.load_state_dict(own["masks"])

    def trainable_parameters(self) -> list[Tensor]:
        """The parameters that require gradients, each once, in the order of their groups.

        Raises:
            ValueError: when all of them are frozen.
        """
        trainable = list(
            dict.fromkeys(
                parameter
                for group in self.param_groups
                for parameter in group["params"]
                if parameter.requires_grad
            )
        )
        if not trainable:
            raise ValueError(
                "base_optimizer must hold at least 1 parameter that requires gradients, got 0"
            )
        return trainable

    def _plain_step(self, closures: Closures) -> Tensor:
        """The base optimizer's own step, on the mean loss over all rows; returns the losses."""
        losses = self._mean_gradient(closures)
        self._finish()
        return torch.cat(losses)

    def _mean_gradient(self, closures: Closures) -> list[Tensor]:
        """Leave the gradient of the mean loss over all rows in `.grad`; returns the losses."""
        self.trainable_parameters()
        self.zero_grad(set_to_none=True)
        losses = self._passes.backward(closures)
        if len(losses) > 1:
            torch._foreach_mul_(self._gradients(), mean_correction(losses))
        return losses

    def _unscale(self) -> None:
        """Take the scaler's factor out of the gradients, once in a step."""
        if self.scaler is not None:
            self.scaler.unscale_(self.base_optimizer)

    def _finish(self, *, unscaled: bool = False) -> None:
        """Clip the gradients and let the base optimizer step with them, unless the scaler skips."""
        clear_autocast_cache()
        if self.max_grad_norm is not None:
            if not unscaled:
                self._unscale()
            torch.nn.utils.clip_grad_norm_(
                [p for group in self.param_groups for p in group["params"]], self.max_grad_norm
            )
        if self.scaler is None:
            self.base_optimizer.step()
        else:
            self.scaler.step(self.base_optimizer)
            self.scaler.update()

    def _gradients(self) -> list[Tensor]:
        return [
            parameter.grad
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]


class BaseStep(PerSampleOptimizer):
    """The base optimizer's plain step: the baseline that the others are measured against.

    The gradient is that of the mean of the per-sample losses. The arguments are those of
    `PerSampleOptimizer`.
    """

    def step(self, closure: Closure | Sequence[Closure]) -> Tensor:  # type: ignore[override]
        """One forward and one backward pass, then the base optimizer's step."""
        return self._plain_step(as_closures(closure))
