"""Step time over the base optimizer's, measured so that a noisy machine cannot spoil it."""

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Pairs of timed steps a whole run aims for: its median then stands still to a few per cent.
_PAIRS = 48


class StepTimer:
    """Times steps of a training beside plain base steps on a copy of its model.

    Both steps of a pair see the same batch on the same device within the same fraction of a
    second, so whatever else the machine does slows both; which goes first alternates. The copy
    takes real steps of its own: nothing it does reaches the training.

    Args:
        model: of the training, before replication; it is copied.
        build_base: the base optimizer for a model.
        replicate: wraps the copy as the training wraps its model, so that both communicate alike.
    """

    def __init__(
        self,
        model: nn.Module,
        build_base: Callable[[nn.Module], torch.optim.Optimizer],
        replicate: Callable[[nn.Module], nn.Module],
    ) -> None:
        self._copy = replicate(copy.deepcopy(model))
        self._base = build_base(self._copy)
        self._own_seconds: list[float] = []
        self._base_seconds: list[float] = []
        self._aside = 0.0
        self._warm = False

    @staticmethod
    def pairs(epochs: int) -> int:
        """Pairs to time in each epoch of a run of so many."""
        return -(-_PAIRS // epochs)

    @contextmanager
    def beside(self, images: Tensor, labels: Tensor) -> Iterator[None]:
        """Time the step in the ``with`` block, and a base step on the same batch next to it."""
        entered = time.perf_counter()
        if not self._warm:
            self._base_step(images, labels)
            self._warm = True
        base_first = len(self._own_seconds) % 2 == 1
        if base_first:
            self._base_seconds.append(self._base_step(images, labels))
        self._synchronize(images)
        start = time.perf_counter()
        yield
        self._synchronize(images)
        own = time.perf_counter() - start
        self._own_seconds.append(own)
        if not base_first:
            self._base_seconds.append(self._base_step(images, labels))
        self._aside += time.perf_counter() - entered - own

    def take_aside(self) -> float:
        """Seconds spent on measuring since the last call, which are not the training's."""
        aside, self._aside = self._aside, 0.0
        return aside

    def ratio(self) -> float:
        """Median time of a step over the median time of a base step; at least one pair needed."""
        return statistics.median(self._own_seconds) / statistics.median(self._base_seconds)

    def state_dict(self) -> dict[str, Any]:
        """The times taken so far, in seconds."""
        return {"own": list(self._own_seconds), "base": list(self._base_seconds)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the times of an earlier process."""
        self._own_seconds, self._base_seconds = list(state["own"]), list(state["base"])

    def _base_step(self, images: Tensor, labels: Tensor) -> float:
        self._synchronize(images)
        start = time.perf_counter()
        self._base.zero_grad()
        F.cross_entropy(self._copy(images), labels).backward()
        self._base.step()
        self._synchronize(images)
        return time.perf_counter() - start

    @staticmethod
    def _synchronize(images: Tensor) -> None:
        if images.device.type == "cuda":
            torch.cuda.synchronize(images.device)
