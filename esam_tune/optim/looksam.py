"""LookSAM.

Source: Liu et al., "Towards Efficient and Scalable Sharpness-Aware Minimization", CVPR 2022,
arXiv 2203.02714.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from esam_tune.optim.arguments import checked_count, checked_group_radii, checked_radius
from esam_tune.optim.base import PerSampleOptimizer
from esam_tune.optim.batchnorm import running_statistics_held
from esam_tune.optim.passes import Closure, Closures, as_closures
from esam_tune.optim.perturbation import (
    ascend,
    ascents_by_group,
    inner_product,
    total_norm,
    weights_restored,
)


class LookSAM(PerSampleOptimizer):
    """SAM on every `every`-th batch, whose flat direction the steps between use again.

    With g the gradient at w (Liu et al., algorithm 1):

    - every `every`-th batch, the first included: g_s is the gradient at w + rho g / ||g||, the
      base optimizer steps with it, and its part orthogonal to g is kept,
      g_v = g_s - (g_s . g / ||g||^2) g;
    - otherwise the base optimizer steps with g + alpha (||g|| / ||g_v||) g_v.

    Norms and products are taken over all weights together. Under DistributedDataParallel every
    pass all-reduces: g_v has to be the same on all ranks, as later steps add it to the weights.

    Args:
        base_optimizer: updates the weights. A parameter group may bring its own ``"rho"``.
        rho: perturbation radius, >= 0.
        alpha: size of the flat direction's part over ||g||, >= 0.
        every: batches from one SAM step to the next, k in the paper.
        model, scaler, max_grad_norm: as in `PerSampleOptimizer`.

    Raises:
        TypeError, ValueError: when an argument is not what it must be.
    """

    def __init__(
        self,
        base_optimizer: torch.optim.Optimizer,
        *,
        rho: float = 0.05,
        alpha: float = 0.7,
        every: int = 5,
        model: nn.Module | None = None,
        scaler: GradScaler | None = None,
        max_grad_norm: float | None = None,
    ) -> None:
        """See the class."""
        super().__init__(base_optimizer, model=model, scaler=scaler, max_grad_norm=max_grad_norm)
        self.rho = checked_group_radii(rho, self.param_groups)
        self.alpha = checked_radius("alpha", alpha)
        self.period = checked_count("every", every)
        self.steps = 0
        self._flat: dict[Tensor, Tensor] = {}

    def step(self, closure: Closure | Sequence[Closure]) -> Tensor:  # type: ignore[override]
        """Take one step; see `PerSampleOptimizer.step`."""
        closures = as_closures(closure)
        sharp = self.steps % self.period == 0
        self.steps += 1
        losses = self._mean_gradient(closures)
        if sharp:
            self._sharpen(closures, [part.numel() for part in losses])
        else:
            self._unscale()
            self._add_flat_direction()
        self._finish(unscaled=True)
        return torch.cat(losses)

    def _sharpen(self, closures: Closures, counts: list[int]) -> None:
        """Turn `.grad` from g, still scaled, into g_s, unscaled, and keep g_v."""
        gradients = self._gradient_of()
        self.zero_grad(set_to_none=True)
        self._passes.unscaled(list(gradients.values()))
        # `ascend` uses the gradients up, and the next pass may write over their memory, where
        # DistributedDataParallel keeps them in its buckets.
        clean = {weight: gradient.clone() for weight, gradient in gradients.items()}
        ascents = ascents_by_group(
            self.param_groups, gradients, lambda group: float(group.get("rho", self.rho))
        )
        with running_statistics_held(self.model), weights_restored(list(clean)):
            norm = ascend(ascents, adaptive=False)
            del ascents, gradients
            # As in ESAM: an inf or NaN in g has to reach g_s.
            factor = None if norm is None else 1.0 + 0.0 * norm
            self._passes.backward(closures, counts=counts, factor=factor)
        self._unscale()
        self._keep_flat_direction(clean)

    @torch.no_grad()
    def _keep_flat_direction(self, clean: dict[Tensor, Tensor]) -> None:
        sharp = self._gradient_of()
        both = [weight for weight in clean if weight in sharp]
        if not both:
            return
        g, g_s = [clean[weight] for weight in both], [sharp[weight] for weight in both]
        square = total_norm(g).square()
        share = torch.where(square == 0, torch.zeros_like(square), inner_product(g, g_s) / square)
        # A step that the scaler skips must not leave a direction of NaN behind.
        if self.scaler is not None and not bool(torch.isfinite(share)):
            return
        self._flat = {
            weight: vertical - share.to(vertical.device, vertical.dtype) * along
            for weight, along, vertical in zip(both, g, g_s, strict=True)
        }

    @torch.no_grad()
    def _add_flat_direction(self) -> None:
        gradients = self._gradient_of()
        both = [weight for weight in gradients if weight in self._flat]
        if not both:
            return
        flat = [self._flat[weight] for weight in both]
        size = total_norm(flat)
        ratio = total_norm(list(gradients.values())) / size
        scale = self.alpha * torch.where(size == 0, torch.zeros_like(ratio), ratio)
        for weight, direction in zip(both, flat, strict=True):
            gradients[weight].addcmul_(direction, scale.to(direction.device, direction.dtype))

    def _gradient_of(self) -> dict[Tensor, Tensor]:
        return {
            weight: weight.grad for weight in self.trainable_parameters() if weight.grad is not None
        }

    def _own_state(self) -> dict[str, Any]:
        flat = [self._flat.get(weight) for weight in self._parameters()]
        return {**super()._own_state(), "steps": self.steps, "flat": flat}

    def _load_own_state(self, own: dict[str, Any]) -> None:
        super()._load_own_state(own)
        self.steps = own["steps"]
        self._flat = {
            weight: flat.detach().to(weight.device, weight.dtype, copy=True)
            for weight, flat in zip(self._parameters(), own["flat"], strict=True)
            if flat is not None
        }

    def _parameters(self) -> list[Tensor]:
        return [weight for group in self.param_groups for weight in group["params"]]
