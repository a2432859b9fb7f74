"""How sharp a loss is around the weights."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from esam_tune.optim.arguments import checked_radius
from esam_tune.optim.perturbation import Ascent, ascend, weights_restored


def gradient_sharpness(
    weights: Sequence[Tensor], parts: Sequence[Callable[[], Tensor]], radius: float
) -> Tensor:
    """How much the loss rises a step up its own gradient.

    With g the gradient at w over all ``weights`` together, L(w + rho g / ||g||) - L(w): the
    sharpness that SAM minimises, to the first order its greatest value within the distance rho
    (Foret et al. 2021, equations 1 and 2). Taken over small batches and averaged it is their
    m-sharpness (section 4.1), m being the batch's rows. Where the gradient is zero, so is this.

    Args:
        weights: dense, one of them trainable; those without ``requires_grad``, and those that the
            loss does not reach, stay where they are. Their values are put back bit for bit, their
            ``.grad`` is not touched.
        parts: give the loss at the present weights as a sum, shape () each: of micro-batches,
            where the whole does not fit the memory. They must not depend on chance, nor change
            anything: the modules they run belong in evaluation mode.
        radius: rho, >= 0, in the weights' own 2-norm.

    Returns:
        The rise, shape (), float64; not finite where the loss is not, at either point.

    Raises:
        TypeError, ValueError: when the radius is not what it must be.
    """
    radius = checked_radius("radius", radius)
    moved = [weight for weight in weights if weight.requires_grad]
    before = torch.zeros((), dtype=torch.float64, device=moved[0].device)
    sums: dict[Tensor, Tensor] = {}
    for part in parts:
        with torch.enable_grad():
            loss = part()
            gradients = torch.autograd.grad(loss, moved, allow_unused=True)
        before += loss.detach()
        for weight, gradient in zip(moved, gradients, strict=True):
            if gradient is not None:
                # A copy at first: two weights may be given the same tensor.
                sums[weight] = sums[weight] + gradient if weight in sums else gradient.clone()
    ascent = Ascent(tensors=list(sums), gradients=list(sums.values()), radius=radius)
    with weights_restored(ascent.tensors), torch.no_grad():
        ascend([ascent], adaptive=False)
        after = torch.zeros_like(before)
        for part in parts:
            after += part()
    return after - before
