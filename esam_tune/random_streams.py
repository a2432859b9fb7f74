"""The random streams of a worker's process: torch's, numpy's and Python's, seeded and kept."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

_NUMPY_SEEDS = 2**32


def seed_streams(seed: int) -> None:
    """Begin all streams of this process anew, those of its GPUs included.

    Args:
        seed: at least 0.
    """
    torch.manual_seed(seed)
    np.random.seed(seed % _NUMPY_SEEDS)
    random.seed(seed)


def streams_state(device: torch.device) -> dict[str, Any]:
    """Where all streams stand, in tensors and plain values.

    Args:
        device: of the worker; of its GPUs only this one's stream is kept.
    """
    _, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": {
            # torch.load takes no numpy arrays, and not every torch has unsigned ones.
            "keys": torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "gauss": float(gauss),
        },
        "python": random.getstate(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_streams(state: Mapping[str, Any], device: torch.device) -> None:
    """Let all streams go on from where :func:`streams_state` found them.

    A state that holds nothing but a ``seed`` begins them anew: a worker that its group did not
    have before has no state of its own. A GPU's stream that was not kept, because the run was on
    the CPU then, stays as it is.
    """
    if "seed" in state:
        seed_streams(int(state["seed"]))
        return
    torch.set_rng_state(state["torch"])
    kept = state["numpy"]
    keys = kept["keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, kept["position"], kept["has_gauss"], kept["gauss"]))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
