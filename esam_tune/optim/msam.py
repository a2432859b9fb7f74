"""Momentum-SAM.

Source: Becker, Altrock and Risse, "Momentum-SAM: Sharpness Aware Minimization without
Computational Overhead", arXiv 2401.12033.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from esam_tune.optim.arguments import checked_group_radii
from esam_tune.optim.base import PerSampleOptimizer
from esam_tune.optim.passes import Closure, as_closures
from esam_tune.optim.perturbation import ascend, ascents_by_group, weights_restored

_BUFFERS = ("momentum_buffer", "exp_avg")


class MSAM(PerSampleOptimizer):
    """Takes the base optimizer's step with the gradient at w - rho v / ||v||, v its momentum.

    One forward and one backward pass, so it costs what the base step does. v is a running mean of
    gradients, and a step along it has just been taken: against it the loss rises. (With the sign
    turned training diverges, see docs/esam.md.) The first step has no momentum yet, and is the
    base step. v is SGD's momentum buffer, or Adam's first moment.

    The losses that `step` returns are those of its only pass, at the perturbed weights.

    Args:
        base_optimizer: updates the weights, with momentum. A parameter group may bring its own
            ``"rho"``.
        rho: perturbation radius, >= 0.
        model, scaler, max_grad_norm: as in `PerSampleOptimizer`.

    Raises:
        TypeError, ValueError: when an argument is not what it must be, or `base_optimizer` keeps
            no momentum.
    """

    def __init__(
        self,
        base_optimizer: torch.optim.Optimizer,
        *,
        rho: float = 0.5,
        model: nn.Module | None = None,
        scaler: GradScaler | None = None,
        max_grad_norm: float | None = None,
    ) -> None:
        """See the class."""
        super().__init__(base_optimizer, model=model, scaler=scaler, max_grad_norm=max_grad_norm)
        self.rho = checked_group_radii(rho, self.param_groups)
        for position, group in enumerate(self.param_groups):
            if not (group.get("momentum", 0.0) or "betas" in group):
                raise ValueError(
                    "base_optimizer must keep a momentum, but parameter group "
                    f"{position} of {type(base_optimizer).__name__} has momentum "
                    f"{group.get('momentum')!r}; give it momentum > 0"
                )

    def step(self, closure: Closure | Sequence[Closure]) -> Tensor:  # type: ignore[override]
        """Take one step; see `PerSampleOptimizer.step`."""
        closures = as_closures(closure)
        ascents = ascents_by_group(self.param_groups, self._momenta(), self._radius)
        perturbed = [tensor for ascent in ascents for tensor in ascent.tensors]
        with weights_restored(perturbed):
            ascend(ascents, adaptive=False)
            del ascents
            losses = self._mean_gradient(closures)
        self._finish()
        return torch.cat(losses)

    def _momenta(self) -> dict[Tensor, Tensor]:
        """A copy of each trainable parameter's momentum, where there is one yet."""
        momenta = {}
        for parameter in self.trainable_parameters():
            state = self.state.get(parameter, {})
            for name in _BUFFERS:
                if isinstance(state.get(name), Tensor):
                    momenta[parameter] = state[name].clone()
                    break
        return momenta

    def _radius(self, group: dict[str, Any]) -> float:
        return -float(group.get("rho", self.rho))
