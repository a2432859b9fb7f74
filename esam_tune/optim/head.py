"""The last linear layer of a model, and the first-order loss increase that it tells.

To first order a row's loss rises by <grad l_i, epsilon> from w to w + epsilon. Restricted to the
last linear layer, with input f_i, logits z_i and r_i = dl_i / dz_i, that is

    s_i = r_i . (E_W f_i + E_b),    (E_W, E_b) = sum_i (r_i f_i^T, r_i) / n,

the layer's share of the direction that the perturbation takes. All of it is at hand once the clean
pass is done, so rows can be selected without the forward pass at w + epsilon. Own derivation; the
measured overlap with exact selection is in docs/esam.md.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from esam_tune.optim.distributed import bare_module, is_compiled


def find_head(model: nn.Module, head: str | nn.Module | None) -> nn.Linear:
    """The linear layer whose output are the logits.

    Args:
        model: the module to look in, compiled or DistributedDataParallel included.
        head: the layer, or its name in the plain model; None takes the linear layer that `model`
            registered last.

    Raises:
        TypeError: when `head` is neither, or does not name a `torch.nn.Linear`.
        ValueError: when `model` has no such layer.
    """
    modules = dict(bare_module(model).named_modules())
    linear = {name: layer for name, layer in modules.items() if isinstance(layer, nn.Linear)}
    known = f"it has {', '.join(map(repr, linear)) or 'no torch.nn.Linear'}"
    if head is None:
        if not linear:
            raise ValueError(
                "model must hold a torch.nn.Linear for selection='first_order', but "
                f"{type(bare_module(model)).__name__} has none; use selection='exact'"
            )
        return list(linear.values())[-1]
    if isinstance(head, str):
        if head not in modules:
            raise ValueError(f"head must name a layer of model, got {head!r}; {known}")
        head = modules[head]
    elif isinstance(head, nn.Module):
        if all(head is not module for module in modules.values()):
            raise ValueError(f"head must be a layer of model, got another {type(head).__name__}")
    else:
        raise TypeError(f"head must be a name or a torch.nn.Linear, got {head!r}")
    if not isinstance(head, nn.Linear):
        raise TypeError(f"head must be a torch.nn.Linear, got {type(head).__name__}; {known}")
    return head


class HeadRecorder:
    """Catches the head's inputs and its logits' gradients while a pass runs.

    Args:
        model: the module whose head it is. Into a compiled one the hook goes for good: the
            compiler would not see one that comes later, and it costs one break of the graph.
        head: the linear layer.
    """

    def __init__(self, model: nn.Module, head: nn.Linear) -> None:
        """See the class."""
        self.head = head
        self._features: list[Tensor] = []
        self._gradients: list[Tensor | None] = []
        self._recording = False
        self._stays = is_compiled(model)
        if self._stays:
            self._attach()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the passes inside; whatever an earlier use recorded is dropped."""
        self._features, self._gradients = [], []
        handle = None if self._stays else self._attach()
        self._recording = True
        try:
            yield
        finally:
            self._recording = False
            if handle is not None:
                handle.remove()

    @torch.no_grad()
    def increases(self, counts: Sequence[int], *, adaptive: bool) -> Tensor:
        """The score s_i of each row, up to one positive factor that is common to all.

        What was recorded is let go of.

        Where a row has several positions (tokens, pixels), theirs are added. A pass whose kept
        weights the logits do not depend on has no gradient and scores 0, as has its perturbation.

        Args:
            counts: the number of rows of each recorded pass.
            adaptive: scale the direction by the squared weights, as ASAM's perturbation is.

        Returns:
            Shape (sum of counts,), at least float32.

        Raises:
            ValueError: when the head did not run once in each pass, on its rows.
        """
        recorded, gradients = self._features, self._gradients
        self._features, self._gradients = [], []
        lengths = [features.shape[0] if features.dim() > 1 else 0 for features in recorded]
        if lengths != list(counts):
            raise ValueError(
                "head must be the layer of model that gives the logits, called once in a pass with "
                f"one row for each loss: expected {list(counts)} rows, got {lengths}. Name it by "
                "head=; give a compiled model to the optimizer, and before its first call"
            )
        device, dtype = recorded[0].device, recorded[0].dtype
        dtype = torch.float64 if dtype == torch.float64 else torch.float32
        flat = [
            (features.flatten(0, -2).to(dtype), gradient.flatten(0, -2).to(dtype))
            for features, gradient in zip(recorded, gradients, strict=True)
            if gradient is not None
        ]
        if len(flat) != len(recorded):
            return torch.zeros(sum(counts), device=device, dtype=dtype)
        weight_step = torch.stack([gradient.T @ features for features, gradient in flat]).sum(0)
        bias_step = torch.stack([gradient.sum(0) for _, gradient in flat]).sum(0)
        if adaptive:
            weight_step = weight_step * self.head.weight.square()
        scores = []
        for count, (features, gradient) in zip(counts, flat, strict=True):
            logit_step = features @ weight_step.T
            if self.head.bias is not None:
                scale = self.head.bias.square() if adaptive else 1.0
                logit_step = logit_step + bias_step * scale
            scores.append((gradient * logit_step).reshape(count, -1).sum(1))
        return torch.cat(scores)

    def _attach(self) -> RemovableHandle:
        return self.head.register_forward_hook(torch.compiler.disable(self._record))

    def _record(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if not self._recording:
            return
        position = len(self._features)
        self._features.append(args[0].detach())
        self._gradients.append(None)
        if output.requires_grad:

            def keep(gradient: Tensor) -> None:
                self._gradients[position] = gradient.detach()

            output.register_hook(keep)
