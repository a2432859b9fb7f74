"""The weights of a trained network as a file, and the digest that tells them from others."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esam_tune.errors import RunFailedError


def weights_digest(weights: Mapping[str, Any]) -> str:
    """SHA-256 of a state dict's names, types, shapes and values, wherever it is stored.

    Args:
        weights: name -> tensor.
    """
    import torch

    digest = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_weights(weights: Mapping[str, Any], path: Path) -> None:
    """Write a state dict; readers see the whole file or none, also after a power loss.

    Raises:
        OSError: when the disk is full or gone; nothing is left.
    """
    import torch

    scratch = path.with_suffix(".tmp")
    try:
        torch.save(dict(weights), scratch)
        with scratch.open("rb") as file:
            os.fsync(file.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def load_weights_file(path: Path, digest: str) -> dict[str, Any]:
    """The state dict of a file, which holds nothing but tensors.

    Args:
        path: of the file.
        digest: of what was written.

    Raises:
        RunFailedError: when it cannot be read, or is not what was written.
    """
    import torch

    try:
        weights: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        same = weights_digest(weights) == digest
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError, AttributeError):
        same = False
    if not same:
        raise RunFailedError(
            f"{path} is not what the training wrote: restore it from a copy, or train again under "
            "another --name"
        )
    return weights
