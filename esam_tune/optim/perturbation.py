"""The step from w to w + epsilon, and the way back."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Ascent:
    """Tensors that are perturbed with the same radius, and their gradients.

    Attributes:
        tensors: the weights, changed in place.
        gradients: one gradient for each of `tensors`, not aliased; used up by `ascend`.
        radius: rho / beta of their parameter group; negative against the gradients.
    """

    tensors: list[Tensor]
    gradients: list[Tensor]
    radius: float


def ascents_by_group(
    groups: Sequence[dict[str, Any]],
    gradients: Mapping[Tensor, Tensor],
    radius: Callable[[dict[str, Any]], float],
) -> list[Ascent]:
    """The weights that have an entry in `gradients`, gathered by parameter group.

    Raises:
        ValueError: when a gradient is sparse.
    """
    ascents = []
    for group in groups:
        tensors = [weight for weight in dict.fromkeys(group["params"]) if weight in gradients]
        for weight in tensors:
            if gradients[weight].layout != torch.strided:
                raise ValueError(
                    "gradients must be dense, got a sparse one for a parameter of shape "
                    f"{tuple(weight.shape)}; build its layer with sparse=False"
                )
        if tensors:
            ascents.append(
                Ascent(
                    tensors=tensors,
                    gradients=[gradients[weight] for weight in tensors],
                    radius=radius(group),
                )
            )
    return ascents


@torch.no_grad()
def ascend(ascents: Sequence[Ascent], *, adaptive: bool) -> Tensor | None:
    """Add to each weight w_j its epsilon_j, the norm being taken over all `ascents` together.

    epsilon_j = radius * g_j / ||g|| (SAM, Foret et al. 2021, equation 2), or with `adaptive`
    epsilon_j = radius * w_j^2 g_j / || |w| g || (ASAM, Kwon et al. 2021, algorithm 1). A zero norm
    leaves the weights as they are. A gradient with inf or NaN makes the weights NaN: nothing here
    waits for the device in order to look. The gradients are overwritten, so that the only memory
    this takes is what the caller saved.

    Returns:
        The norm, a tensor of shape (), on the device of the first gradient; None without any.
    """
    if adaptive:
        for ascent in ascents:
            torch._foreach_mul_(ascent.gradients, ascent.tensors)
    gradients = [gradient for ascent in ascents for gradient in ascent.gradients]
    if not gradients:
        return None
    norm = total_norm(gradients)
    inverse = torch.where(norm == 0, torch.zeros_like(norm), norm.reciprocal())
    for ascent in ascents:
        if adaptive:
            torch._foreach_mul_(ascent.gradients, ascent.tensors)
        scale(ascent.gradients, inverse * ascent.radius)
        torch._foreach_add_(ascent.tensors, ascent.gradients)
    return norm


@torch.no_grad()
def scale(tensors: Sequence[Tensor], factor: Tensor) -> None:
    """Multiply `tensors` in place by `factor`, shape (), wherever they lie."""
    by_device: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        by_device.setdefault(tensor.device, []).append(tensor)
    for device, there in by_device.items():
        torch._foreach_mul_(there, factor.to(device))


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """The 2-norm of all `tensors` together, shape (), in at least float32."""
    dtype = torch.float64 if tensors[0].dtype == torch.float64 else torch.float32
    norms = torch._foreach_norm(list(tensors), 2.0, dtype)
    device = tensors[0].device
    norm: Tensor = torch.linalg.vector_norm(torch.stack([norm.to(device) for norm in norms]))
    return norm


def inner_product(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """The inner product of two lists of tensors, shape (), in at least float32."""
    dtype = torch.float64 if first[0].dtype == torch.float64 else torch.float32
    products = torch._foreach_mul(list(first), list(second))
    device = first[0].device
    return torch.stack([product.sum(dtype=dtype).to(device) for product in products]).sum()


@contextmanager
def weights_restored(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Copy `tensors` on entering and put the copy back on leaving, also when the body raises.

    Subtracting epsilon again would leave a rounding error in every weight at every step.
    """
    if not tensors:
        yield
        return
    weights = list(tensors)
    with torch.no_grad():
        saved = [torch.empty_like(weight) for weight in weights]
        torch._foreach_copy_(saved, weights)
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(weights, saved)


@contextmanager
def frozen(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Take `requires_grad` from `tensors`, and give it back on leaving, also when the body raises.

    The backward pass then computes no gradient of these weights, and stops at the first layer
    before which nothing else needs one: this is the time that SWP saves.
    """
    for tensor in tensors:
        tensor.requires_grad_(False)
    try:
        yield
    finally:
        for tensor in tensors:
            tensor.requires_grad_(True)
