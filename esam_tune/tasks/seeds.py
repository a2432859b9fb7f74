"""Generators of random numbers that have a seed in common and no number."""

import hashlib

import torch


def seeded(seed: int, purpose: str) -> torch.Generator:
    """A CPU generator fixed by a seed and what its numbers are for.

    Two purposes never share a stream. The Mersenne Twister takes the low 32 bits of a seed alone,
    so both go through a hash; a purpose in the high bits would change nothing.
    """
    digest = hashlib.sha256(f"{purpose} {seed}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))
