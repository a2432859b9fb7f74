"""The files of a checkpoint: each worker's state, and which of them a worker goes on from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_FILE = "state-{rank}.pt"


def save_state(folder: str | Path, rank: int, state: Mapping[str, Any]) -> None:
    """Write a worker's state into a checkpoint folder."""
    import torch

    torch.save(dict(state), Path(folder, _FILE.format(rank=rank)))


def load_state(folder: str | Path, rank: int) -> dict[str, Any]:
    """A worker's state; for a worker that the group did not have before, the first one's.

    Raises:
        pickle.UnpicklingError: for a file that holds more than tensors and plain values.
    """
    import torch

    own = Path(folder, _FILE.format(rank=rank))
    found = own if own.exists() else Path(folder, _FILE.format(rank=0))
    state: dict[str, Any] = torch.load(found, map_location="cpu", weights_only=True)
    if found != own:
        # All else is the same on every rank, or mixes the rank in when it draws. Equal streams
        # here would give two workers the same noise.
        seed = int(state["epoch"]) << 16 | rank
        state["rng"] = torch.Generator().manual_seed(seed).get_state()
    return state


def load_weights(folder: str | Path) -> dict[str, Any]:
    """The network's state dict from a checkpoint folder of a run."""
    return dict(load_state(folder, 0)["model"])
