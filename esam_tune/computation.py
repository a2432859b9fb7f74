"""How the passes of a training are computed: precision, memory layout, compilation and loss."""

from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from esam_tune.config import TrainingSettings, check_precision

_AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Computation:
    """What the training's steps, its evaluation and the timed base steps have in common.

    Weights and their updates are float32 at any precision.

    Args:
        training: the settings; ``precision``, ``channels_last``, ``compile`` and
            ``label_smoothing`` are read.
        device: of the worker.

    Raises:
        InputError: for a precision that the device does not offer.
    """

    def __init__(self, training: TrainingSettings, device: torch.device) -> None:
        check_precision(training, gpu=device.type == "cuda")
        self._dtype = _AUTOCAST[training.precision]
        self._channels_last = training.channels_last
        self._compiles = training.compile
        self._label_smoothing = training.label_smoothing
        self._device = device
        if self._compiles:
            # What earlier trainings of this process compiled counts against the limit beyond which
            # the compiler gives up and runs what is new without it.
            torch.compiler.reset()

    def laid_out(self, model: nn.Module) -> nn.Module:
        """The same module, its weights in the memory layout of the settings."""
        if self._channels_last:
            model.to(memory_format=torch.channels_last)
        return model

    def compiled(self, model: nn.Module) -> nn.Module:
        """The module to run in training steps, before any optimizer is given it.

        It shares its weights with ``model``, which evaluation runs and whose state is saved.
        """
        if not self._compiles:
            return model
        compiled: Any = torch.compile(model)
        module: nn.Module = compiled
        return module

    def scaler(self) -> GradScaler | None:
        """A new loss scaler where the precision needs one."""
        return GradScaler(self._device.type) if self._dtype == torch.float16 else None

    def logits(self, model: nn.Module, images: Tensor) -> Tensor:
        """Logits in float32, shape (n, classes), computed in the settings' precision.

        Args:
            model: to run.
            images: shape (n, channels, height, width), float32.
        """
        if self._channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with self._autocast():
            logits: Tensor = model(images)
        return logits.float()

    def losses(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The loss of each sample, shape (n,): cross entropy with the settings' label smoothing."""
        return F.cross_entropy(
            self.logits(model, images),
            labels,
            reduction="none",
            label_smoothing=self._label_smoothing,
        )

    def _autocast(self) -> AbstractContextManager[Any]:
        enabled = self._dtype is not None
        return torch.autocast(self._device.type, self._dtype, enabled=enabled)
