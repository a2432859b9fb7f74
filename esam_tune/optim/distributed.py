"""What the optimizers need to know of a model that is trained on several devices."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def local_gradients(model: nn.Module | None) -> AbstractContextManager[object]:
    """A context whose forward and backward passes send no gradient to other ranks.

    The forward pass belongs inside: DistributedDataParallel decides there whether the next
    backward pass all-reduces. Anything but DistributedDataParallel sends none to begin with.
    """
    module = uncompiled(model)
    if isinstance(module, DistributedDataParallel):
        return module.no_sync()
    return nullcontext()


def uncompiled(model: nn.Module | None) -> nn.Module | None:
    """`model`, or the module that `torch.compile` wrapped in it."""
    original = getattr(model, "_orig_mod", model)
    return original if isinstance(original, nn.Module) else model


def bare_module(model: nn.Module) -> nn.Module:
    """The module that compilation and DistributedDataParallel wrap, in whatever order."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, DistributedDataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def is_compiled(model: nn.Module | None) -> bool:
    """Whether `model`, or a module in it, runs through `torch.compile`."""
    return model is not None and any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )


def needs_same_mask_on_all_ranks(model: nn.Module | None) -> bool:
    """Whether ranks that freeze different weights would wait for each other for ever.

    The backward pass of SyncBatchNorm is a collective operation. A rank whose frozen weights let
    its backward pass end above such a layer would leave the others waiting there.
    """
    return model is not None and any(
        isinstance(module, nn.SyncBatchNorm) for module in model.modules()
    )


def refuse_sharded(model: nn.Module | None, parameters: list[Tensor]) -> None:
    """Refuse weights that are sharded over ranks.

    A norm or a mask over shards would need collective operations that no pass here makes.

    Raises:
        ValueError: when `model` or a parameter is sharded (FSDP, FSDP2, DTensor).
    """
    if model is not None:
        for name, module in model.named_modules():
            if {"FSDPModule", "FullyShardedDataParallel"} & {
                t.__name__ for t in type(module).mro()
            }:
                raise ValueError(
                    f"model must not be sharded, but its module {name or 'itself'!r} is a "
                    f"{type(module).__name__}; use DistributedDataParallel"
                )
    for parameter in parameters:
        # By name: importing DTensor takes longer than everything else here.
        if "DTensor" in {t.__name__ for t in type(parameter).mro()}:
            raise ValueError(
                "base_optimizer must not hold sharded parameters, got a DTensor of shape "
                f"{tuple(parameter.shape)}; use DistributedDataParallel"
            )


def clear_autocast_cache() -> None:
    """Drop the half-precision copies of the weights that autocast keeps.

    When a whole step runs inside one autocast context, the copies made at w would serve the pass
    at w + epsilon too, and those made without gradient would serve a pass that needs one.
    """
    torch.clear_autocast_cache()
