"""Efficient Sharpness-Aware Minimization.

Source: Du et al., "Efficient Sharpness-aware Minimization for Improved Training of Neural
Networks", ICLR 2022, arXiv 2110.03141. Where and why the step departs from the authors' code is
written down in docs/esam.md.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from esam_tune.optim.arguments import (
    checked_choice,
    checked_count,
    checked_flag,
    checked_group_radii,
    checked_share,
)
from esam_tune.optim.base import PerSampleOptimizer
from esam_tune.optim.batchnorm import running_statistics_held
from esam_tune.optim.distributed import is_compiled, needs_same_mask_on_all_ranks
from esam_tune.optim.head import HeadRecorder, find_head
from esam_tune.optim.masks import BernoulliMasks, MaskCycle, MaskSource
from esam_tune.optim.passes import Closure, Closures, as_closures
from esam_tune.optim.perturbation import (
    Ascent,
    ascend,
    ascents_by_group,
    frozen,
    weights_restored,
)
from esam_tune.optim.selection import num_selected, select_rows, split_rows

SELECTIONS = ("exact", "first_order")


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
    too, in every tensor: with a `scaler` the step is then skipped, without one it spoils the
    weights, as it would under the base optimizer. If a closure raises, weights and `requires_grad`
    are as they were before the step, and running statistics at most those of the clean pass.

    A compiled model needs a graph for each set of frozen weights. So that it is not recompiled
    at every step, its weights are frozen only when `masks` is a `MaskCycle`, whose masks are few;
    otherwise SWP chooses what to perturb but saves no time. Pass the compiled module as `model`.

    Args:
        base_optimizer: updates the weights. A parameter group may bring its own ``"rho"``.
        rho: perturbation radius, >= 0.
        beta: probability of perturbing a tensor, in (0, 1].
        gamma: share of rows in the last pass, in (0, 1].
        adaptive: scale the perturbation by the weights, as in ASAM.
        selection: ``"exact"`` evaluates the batch at w + epsilon to select rows;
            ``"first_order"`` predicts their increase from the clean pass, see `head`.
        model: as in `PerSampleOptimizer`; without it BatchNorm sees every pass. Required by
            ``"first_order"``.
        scaler: as in `PerSampleOptimizer`.
        seed: of the masks, a whole number >= 0; each rank mixes in its own.
        head: for ``"first_order"`` the layer that gives the logits, or its name; None takes the
            last `torch.nn.Linear` of `model`.
        every: take this step on every `every`-th batch, the first included, and the base
            optimizer's own step on those between.
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
        head: str | nn.Module | None = None,
        every: int = 1,
        masks: MaskSource | None = None,
        max_grad_norm: float | None = None,
    ) -> None:
        """See the class."""
        super().__init__(base_optimizer, model=model, scaler=scaler, max_grad_norm=max_grad_norm)
        self.rho = checked_group_radii(rho, self.param_groups)
        self.beta = checked_share("beta", beta)
        self.gamma = checked_share("gamma", gamma)
        self.adaptive = checked_flag("adaptive", adaptive)
        self.selection = checked_choice("selection", selection, SELECTIONS)
        self.period = checked_count("every", every)
        self.steps = 0
        shared = needs_same_mask_on_all_ranks(model)
        own_masks = BernoulliMasks(self.beta, seed=seed, shared=shared)
        self.masks: MaskSource = own_masks if masks is None else masks
        self._recorder = _recorder(model, head) if self.selection == "first_order" else None

    def step(self, closure: Closure | Sequence[Closure]) -> Tensor:  # type: ignore[override]
        """Take one ESAM step; see `PerSampleOptimizer.step`."""
        closures = as_closures(closure)
        sharp = self.steps % self.period == 0
        self.steps += 1
        if not sharp:
            return self._plain_step(closures)

        losses, ascents = self._clean_pass(closures)
        counts = [part.numel() for part in losses]
        selects = num_selected(sum(counts), self.gamma) < sum(counts)
        rows = self._rows_by_first_order(counts) if selects else None
        perturbed = [tensor for ascent in ascents for tensor in ascent.tensors]
        with running_statistics_held(self.model), weights_restored(perturbed):
            norm = ascend(ascents, adaptive=self.adaptive)
            del ascents
            if selects and rows is None:
                increase = self._passes.losses(closures, counts) - torch.cat(losses)
                rows = select_rows(increase, self.gamma)
            # One, unless the norm is inf or NaN: then the gradient becomes NaN, on every rank.
            factor = None if norm is None else 1.0 + 0.0 * norm
            parts, used = split_rows(rows, counts)
            self._passes.backward(closures, parts, counts=used, factor=factor)
        self._finish()
        return torch.cat(losses)

    def _clean_pass(self, closures: Closures) -> tuple[list[Tensor], list[Ascent]]:
        """Step 1: the losses, and the kept tensors that got a gradient, with those gradients."""
        trainable = self.trainable_parameters()
        mask = self.masks.draw(len(trainable))
        kept = [tensor for tensor, keep in zip(trainable, mask, strict=True) if keep]
        skipped = [tensor for tensor, keep in zip(trainable, mask, strict=True) if not keep]
        if not isinstance(self.masks, MaskCycle) and is_compiled(self.model):
            skipped = []
        recorder = self._recorder if self.gamma < 1.0 else None
        recording = nullcontext() if recorder is None else recorder.recording()
        self.zero_grad(set_to_none=True)
        with frozen(skipped), recording:
            losses = self._passes.backward(closures, inputs=kept, local=True)
        gradients = {tensor: tensor.grad for tensor in kept if tensor.grad is not None}
        self.zero_grad(set_to_none=True)
        self._passes.unscaled(list(gradients.values()))
        ascents = ascents_by_group(
            self.param_groups, gradients, lambda group: group.get("rho", self.rho) / self.beta
        )
        return losses, ascents

    def _rows_by_first_order(self, counts: list[int]) -> Tensor | None:
        """The selected rows, from what the clean pass recorded; None with exact selection."""
        if self._recorder is None:
            return None
        return select_rows(self._recorder.increases(counts, adaptive=self.adaptive), self.gamma)

    def _own_state(self) -> dict[str, Any]:
        return {**super()._own_state(), "steps": self.steps}

    def _load_own_state(self, own: dict[str, Any]) -> None:
        super()._load_own_state(own)
        self.steps = own["steps"]


def _recorder(model: nn.Module | None, head: str | nn.Module | None) -> HeadRecorder:
    if model is None:
        raise ValueError("model must be given for selection='first_order', got None")
    return HeadRecorder(model, find_head(model, head))
