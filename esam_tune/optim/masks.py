"""Which parameter tensors Stochastic Weight Perturbation keeps in a step.

Source: Du et al., ICLR 2022 (arXiv 2110.03141), section 3.1.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from esam_tune.optim.arguments import checked_count, checked_share

Mask = tuple[bool, ...]
"""One truth value for each trainable parameter tensor, in the order of the parameter groups."""


class MaskSource(Protocol):
    """Gives one mask for each step."""

    def draw(self, num_tensors: int) -> Mask:
        """The next mask over `num_tensors` tensors: at least one entry is True."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to draw the same masks."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        ...


class BernoulliMasks:
    """Keeps each tensor with probability `beta`, independently of the others.

    A draw that keeps nothing is replaced by one tensor chosen uniformly, so the set is never empty
    and each tensor is kept with probability ``beta + (1 - beta) ** t / t`` for t tensors.

    The i-th draw depends on nothing but (seed, rank, i): a checkpoint written by one rank resumes
    every rank exactly, and the ranks' masks stay different. A generator's raw state, which was the
    alternative, would give all ranks the masks of the one that saved.

    Args:
        beta: probability of being kept, in (0, 1].
        seed: a whole number >= 0.
        shared: give all ranks of `torch.distributed` the same masks.

    Raises:
        TypeError, ValueError: when an argument is outside its bounds.
    """

    def __init__(self, beta: float, *, seed: int = 0, shared: bool = False) -> None:
        """See the class."""
        self.beta = checked_share("beta", beta)
        self.seed = checked_count("seed", seed, at_least=0)
        self.shared = shared
        self.draws = 0
        self._generator = torch.Generator(device="cpu")

    def draw(self, num_tensors: int) -> Mask:
        """The next mask; see the class for the empty set."""
        assert num_tensors > 0
        index = self.draws
        self.draws += 1
        if self.beta == 1.0:
            return (True,) * num_tensors
        rank = 0 if self.shared else _rank()
        self._generator.manual_seed(_mixed(self.seed, rank, index))
        mask = tuple((_uniform((num_tensors,), self._generator) < self.beta).tolist())
        if any(mask):
            return mask
        only = _index_below(num_tensors, self._generator)
        return tuple(position == only for position in range(num_tensors))

    def state_dict(self) -> dict[str, Any]:
        """The seed and the number of masks drawn so far."""
        return {"seed": self.seed, "draws": self.draws}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with the mask that follows the ones drawn when `state` was taken."""
        self.seed = checked_count("seed", state["seed"], at_least=0)
        self.draws = checked_count("draws", state["draws"], at_least=0)


class MaskCycle:
    """Repeats a fixed sequence of masks.

    With a fixed set a compiled model needs one compilation for each mask and no more.

    Args:
        masks: at least one mask; all of one length, each keeping at least one tensor.

    Raises:
        ValueError: when a mask is missing, empty or of another length than the first.
    """

    def __init__(self, masks: Sequence[Mask]) -> None:
        """See the class."""
        if not masks:
            raise ValueError("masks must hold at least 1 mask, got 0")
        for position, mask in enumerate(masks):
            if len(mask) != len(masks[0]):
                raise ValueError(
                    f"masks[{position}] must have {len(masks[0])} entries like masks[0], "
                    f"got {len(mask)}"
                )
            if not any(mask):
                raise ValueError(f"masks[{position}] must keep at least 1 tensor, got 0")
        self.masks = tuple(tuple(mask) for mask in masks)
        self.draws = 0

    def draw(self, num_tensors: int) -> Mask:
        """The next mask of the sequence.

        Raises:
            ValueError: when the masks were made for another number of tensors.
        """
        mask = self.masks[self.draws % len(self.masks)]
        if len(mask) != num_tensors:
            raise ValueError(
                f"masks must have one entry for each of the {num_tensors} trainable parameter "
                f"tensors, got {len(mask)}"
            )
        self.draws += 1
        return mask

    def state_dict(self) -> dict[str, Any]:
        """The number of masks drawn so far."""
        return {"draws": self.draws}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with the mask that follows the ones drawn when `state` was taken."""
        self.draws = checked_count("draws", state["draws"], at_least=0)


def stratified_masks(num_tensors: int, beta: float, count: int, seed: int = 0) -> list[Mask]:
    """A Latin-hypercube sample of `count` masks: every tensor is kept in the share `beta` of them.

    For each tensor the unit interval is cut into `count` strata, one uniform point is drawn in
    each, and the strata are dealt to the masks at random; a point below `beta` means kept. A
    tensor is so kept in beta * count masks to less than one mask, and a mean over the masks of
    anything additive over tensors has next to no sampling error. An empty mask takes over one
    tensor from a mask that keeps several, which leaves the shares as they were; only when there is
    no such mask is a tensor added.

    Args:
        num_tensors: length of each mask.
        beta: share of the masks that keep a tensor, in (0, 1].
        count: number of masks.
        seed: a whole number >= 0.

    Raises:
        TypeError, ValueError: when an argument is outside its bounds.
    """
    checked_count("num_tensors", num_tensors)
    checked_count("count", count)
    checked_count("seed", seed, at_least=0)
    beta = checked_share("beta", beta)
    generator = torch.Generator(device="cpu").manual_seed(_mixed(seed, 0, count))
    offsets = _uniform((count, num_tensors), generator)
    strata = _uniform((count, num_tensors), generator).argsort(dim=0)
    kept = (strata + offsets) / count < beta
    for row in range(count):
        if not kept[row].any():
            _fill_empty_row(kept, row, generator)
    return [tuple(mask) for mask in kept.tolist()]


def _fill_empty_row(kept: torch.Tensor, row: int, generator: torch.Generator) -> None:
    """Keep one tensor in mask `row`, taken from a mask that keeps several if there is one."""
    donors = (kept & (kept.sum(dim=1, keepdim=True) > 1)).nonzero()
    if len(donors) == 0:
        kept[row, _index_below(kept.shape[1], generator)] = True
        return
    donor, tensor = donors[_index_below(len(donors), generator)].tolist()
    kept[donor, tensor] = False
    kept[row, tensor] = True


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    # Device and dtype are spelled out: masks must not depend on the defaults a program sets.
    return torch.rand(shape, generator=generator, device="cpu", dtype=torch.float64)


def _index_below(bound: int, generator: torch.Generator) -> int:
    return int(torch.randint(bound, (), generator=generator, device="cpu").item())


def _rank() -> int:
    distributed = torch.distributed
    return distributed.get_rank() if distributed.is_available() and _initialized() else 0


def _initialized() -> bool:
    return bool(torch.distributed.is_initialized())


def _mixed(*numbers: int) -> int:
    """One 63-bit seed from several numbers, by the finaliser of SplitMix64 (Steele et al. 2014).

    Neighbouring seeds given straight to the Mersenne Twister would start correlated streams.
    """
    ones = (1 << 64) - 1
    state = 0
    for number in numbers:
        state = (state + (number & ones) + 0x9E3779B97F4A7C15) & ones
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & ones
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & ones
        state ^= state >> 31
    return state >> 1
