"""Efficient Sharpness-Aware Minimization.

Source: Du et al., "Efficient Sharpness-aware Minimization for Improved Training of Neural
Networks", ICLR 2022, arXiv 2110.03141. Where and why the step departs from the authors' code is
written down in docs/esam.md.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from esam_tune.optim.arguments import (
    checked_choice,
    checked_flag,
    checked_radius,
    checked_share,
)
from esam_tune.optim.base import PerSampleOptimizer
from esam_tune.optim.batchnorm import running_statistics_held
from esam_tune.optim.distributed import needs_same_mask_on_all_ranks
from esam_tune.optim.masks import BernoulliMasks, MaskSource
from esam_tune.optim.passes import Closure, Closures, as_closures
from esam_tune.optim.perturbation import Ascent, ascend, frozen, weights_restored
from esam_tune.optim.selection import num_selected, select_rows

SELECTIONS = ("exact",)


class ESAM(PerSampleOptimizer):
    """ESAM around a base optimizer; SAM at beta = gamma = 1, ASAM with `adaptive` besides.

    One step on a batch of n rows at weights w (Du et al., algorithm 1):

    1. Each trainable tensor is kept with probability `beta`; the gradient g of the mean loss is
       taken for the kept tensors S, the others being frozen for this pass.
    2. w + epsilon, epsilon_j = (rho / beta) g_j / ||g_S|| on S (`perturbation.ascend`).
    3. The k = max(1, round(gamma n)) rows whose loss rises most from w to w + epsilon are selected.
       With k = n nothing is evaluated.
    4. The gradient of the mean loss over the selected rows is taken at w + epsilon.
    5. w is put back bit for bit, and the base optimizer steps with that gradient.

    A zero norm leaves w unperturbed. A clean gradient with inf or NaN makes the final gradient NaN
    too, in every tensor: with a `scaler` the step is then skipped, without one it spoils the weights, as
    it would under the base optimizer. If a closure raises, the weights, `requires_grad` and the
    running statistics of the clean pass are as the error's pass found them, unperturbed.

    Args:
        base_optimizer: updates the weights. A parameter group may bring its own ``"rho"``.
        rho: perturbation radius, >= 0.
        beta: probability of perturbing a tensor, in (0, 1].
        gamma: share of rows in the last pass, in (0, 1].
        adaptive: scale the perturbation by the weights, as in ASAM.
        selection: ``"exact"`` evaluates the batch at w + epsilon to select rows.
        model: as in `PerSampleOptimizer`; without it BatchNorm sees every pass.
        scaler: as in `PerSampleOptimizer`.
        seed: of the masks, a whole number >= 0; each rank mixes in its own.
        masks: draws the masks in place of `beta`, which then only sets the radius rho / beta.
        max_grad_norm: as in `PerSampleOptimizer`.

    Raises:
        TypeError, ValueError: when an argument is not what it must be.
    """

    def __init__(
        self,
        base_optimizer: torch.optim.Optimizer,
        *,
        rho: float = 0.05,
        beta: float = 0.6,
        gamma: float = 0.5,
        adaptive: bool = False,
        selection: str = "exact",
        model: nn.Module | None = None,
        scaler: GradScaler | None = None,
        seed: int = 0,
        masks: MaskSource | None = None,
        max_grad_norm: float | None = None,
    ) -> None:
        """See the class."""
        super().__init__(base_optimizer, model=model, scaler=scaler, max_grad_norm=max_grad_norm)
        self.rho = checked_radius("rho", rho)
        self.beta = checked_share("beta", beta)
        self.gamma = checked_share("gamma", gamma)
        self.adaptive = checked_flag("adaptive", adaptive)
        self.selection = checked_choice("selection", selection, SELECTIONS)
        for position, group in enumerate(self.param_groups):
            checked_radius(f"rho of parameter group {position}", group.get("rho", rho))
        shared = needs_same_mask_on_all_ranks(model)
        own_masks = BernoulliMasks(self.beta, seed=seed, shared=shared)
        self.masks: MaskSource = own_masks if masks is None else masks

    def step(self, closure: Closure | Sequence[Closure]) -> Tensor:  # type: ignore[override]
        """Take one ESAM step; see `PerSampleOptimizer.step`."""
        closures = as_closures(closure)
        trainable = self.trainable_parameters()
        mask = self.masks.draw(len(trainable))
        kept = [tensor for tensor, keep in zip(trainable, mask, strict=True) if keep]
        skipped = [tensor for tensor, keep in zip(trainable, mask, strict=True) if not keep]

        self.zero_grad(set_to_none=True)
        with frozen(skipped):
            # The backward pass may reach no kept tensor at all, but only because of the mask.
            losses = self._passes.backward(closures, inputs=kept, local=True)
        ascents = self._ascents(kept)
        self.zero_grad(set_to_none=True)

        perturbed = [tensor for ascent in ascents for tensor in ascent.tensors]
        with running_statistics_held(self.model), weights_restored(perturbed):
            norm = ascend(ascents, adaptive=self.adaptive)
            del ascents
            rows, counts = self._selected(closures, losses)
            # One, unless the norm is inf or NaN: then the gradient becomes NaN, on every rank.
            factor = None if norm is None else 1.0 + 0.0 * norm
            self._passes.backward(closures, rows, counts=counts, factor=factor)
        self._finish()
        return torch.cat(losses)

    def _ascents(self, kept: list[Tensor]) -> list[Ascent]:
        """The kept tensors that got a gradient, by parameter group, with those gradients."""
        wanted = set(kept)
        ascents = []
        for group in self.param_groups:
            tensors = [p for p in dict.fromkeys(group["params"]) if p in wanted]
            tensors = [p for p in tensors if p.grad is not None]
            gradients = [p.grad for p in tensors]
            self._passes.unscaled(gradients)
            if tensors:
                radius = group.get("rho", self.rho) / self.beta
                ascents.append(Ascent(tensors=tensors, gradients=gradients, radius=radius))
        return ascents

    def _selected(
        self, closures: Closures, losses: list[Tensor]
    ) -> tuple[list[Tensor | None], list[int]]:
        """For each micro-batch the rows of the last pass, None for all, and their number."""
        counts = [part.numel() for part in losses]
        total = sum(counts)
        if num_selected(total, self.gamma) == total:
            return [None] * len(closures), counts
        increase = self._passes.losses(closures, counts) - torch.cat(losses)
        rows = select_rows(increase, self.gamma)
        if len(closures) == 1:
            return [rows], [rows.numel()]
        return _split_rows(rows, counts)


def _split_rows(rows: Tensor, counts: list[int]) -> tuple[list[Tensor | None], list[int]]:
    """Rows of the whole batch, in ascending order, as rows of each micro-batch."""
    parts: list[Tensor | None] = []
    start = 0
    for count in counts:
        parts.append(rows[(rows >= start) & (rows < start + count)] - start)
        start += count
    return parts, [0 if part is None else part.numel() for part in parts]
