"""The files of a checkpoint: each worker's state, and which of them a worker goes on from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_WORKERS = "workers"


def state_file(rank: int) -> str:
    """Name of a worker's file in a checkpoint folder."""
    return f"state-{rank}.pt"


def save_state(folder: str | Path, rank: int, workers: int, state: Mapping[str, Any]) -> None:
    """Write the state of a worker, one of so many, into a checkpoint folder."""
    import torch

    torch.save({**state, _WORKERS: workers}, Path(folder, state_file(rank)))


def load_state(folder: str | Path, rank: int) -> dict[str, Any]:
    """A worker's state; for a worker that the group did not have before, the first one's.

    Raises:
        FileNotFoundError: when the worker was in the group and its file is lost.
        pickle.UnpicklingError: for a file that holds more than tensors and plain values.
    """
    import torch

    own = Path(folder, state_file(rank))
    if own.exists():
        return _read(own)
    state = _read(Path(folder, state_file(0)))
    if rank < state[_WORKERS]:
        raise FileNotFoundError(f"checkpoint {str(folder)!r} lacks the state of worker {rank}")
    # All else is the same on every rank, or mixes the rank in when it draws. Equal streams
    # here would give two workers the same noise.
    seed = int(state["epoch"]) << 16 | rank
    return {**state, "rng": torch.Generator().manual_seed(seed).get_state()}


def load_weights(folder: str | Path) -> dict[str, Any]:
    """The network's state dict from a checkpoint folder of a run."""
    return dict(load_state(folder, 0)["model"])


def _read(path: Path) -> dict[str, Any]:
    import torch

    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
