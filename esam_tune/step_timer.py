"""Step time over the base optimizer's, measured so that a noisy machine cannot spoil it."""

import copy
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from esam_tune.computation import Computation

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
        computation: how the training's steps are computed; base steps are computed alike.
        period: of the optimizer, whose every ``period``-th step is sharpness-aware and dear.
    """

    def __init__(
        self,
        model: nn.Module,
        build_base: Callable[[nn.Module], torch.optim.Optimizer],
        replicate: Callable[[nn.Module], nn.Module],
        computation: Computation,
        period: int = 1,
    ) -> None:
        self._computation = computation
        self._copy = computation.compiled(replicate(copy.deepcopy(model)))
        self._scaler = computation.scaler() or GradScaler(enabled=False)
        self._base = build_base(self._copy)
        self._period = period
        self._sharp_seconds: list[float] = []
        self._between_seconds: list[float] = []
        self._base_seconds: list[float] = []
        self._aside = 0.0
        self._warm = False

    @staticmethod
    def drawn_steps(steps: int, epoch: int, epochs: int) -> set[int]:
        """Which steps of an epoch to time; drawn, so that no pattern of the optimizer is missed.

        Args:
            steps: of an epoch.
            epoch: counted from 1; another draw for each.
            epochs: of the run.
        """
        count = min(steps, -(-_PAIRS // epochs))
        return set(random.Random(epoch).sample(range(steps), count))

    @contextmanager
    def beside(self, images: Tensor, labels: Tensor, *, sharp: bool = True) -> Iterator[None]:
        """Time the step in the ``with`` block, and a base step on the same batch next to it.

        Args:
            images: of the batch.
            labels: of the batch.
            sharp: whether it is the optimizer's dear step, not one between two of them.
        """
        entered = time.perf_counter()
        if not self._warm:
            self._base_step(images, labels)
            self._warm = True
        base_first = len(self._base_seconds) % 2 == 1
        if base_first:
            self._base_seconds.append(self._base_step(images, labels))
        self._synchronize(images)
        start = time.perf_counter()
        yield
        self._synchronize(images)
        own = time.perf_counter() - start
        (self._sharp_seconds if sharp else self._between_seconds).append(own)
        if not base_first:
            self._base_seconds.append(self._base_step(images, labels))
        self._aside += time.perf_counter() - entered - own

    def take_aside(self) -> float:
        """Seconds spent on measuring since the last call, which are not the training's."""
        aside, self._aside = self._aside, 0.0
        return aside

    def ratio(self) -> float:
        """Median time of a step over the median time of a base step; at least one pair needed.

        With a period the two kinds of steps have a median each, weighed by how often they occur.
        """
        share = 1.0 / self._period
        kinds = [(share, self._sharp_seconds), (1.0 - share, self._between_seconds)]
        seen = [(weight, seconds) for weight, seconds in kinds if seconds]
        own = sum(weight * statistics.median(seconds) for weight, seconds in seen)
        weights = sum(weight for weight, _ in seen)
        return own / weights / statistics.median(self._base_seconds)

    def state_dict(self) -> dict[str, Any]:
        """The times taken so far, in seconds."""
        return {
            "sharp": list(self._sharp_seconds),
            "between": list(self._between_seconds),
            "base": list(self._base_seconds),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the times of an earlier process."""
        self._sharp_seconds = list(state["sharp"])
        self._between_seconds = list(state["between"])
        self._base_seconds = list(state["base"])

    def _base_step(self, images: Tensor, labels: Tensor) -> float:
        self._synchronize(images)
        start = time.perf_counter()
        self._base.zero_grad()
        loss = self._computation.losses(self._copy, images, labels).mean()
        self._scaler.scale(loss).backward()
        self._scaler.step(self._base)
        self._scaler.update()
        self._synchronize(images)
        return time.perf_counter() - start

    @staticmethod
    def _synchronize(images: Tensor) -> None:
        if images.device.type == "cuda":
            torch.cuda.synchronize(images.device)
