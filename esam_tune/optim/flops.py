"""Counts the FLOPs of whatever runs, and fast where nothing is computed."""

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class FlopCounter(TorchDispatchMode):
    """Adds up the FLOPs of the operations inside its context.

    The formulas are those of `torch.utils.flop_counter`: matrix products, convolutions and
    attention count, a multiply-add as 2, elementwise work not at all. `FlopCounterMode` itself
    gives the same sum, but also attributes it to modules, which makes it several times slower.

    On the meta device an operation's result is but its shape, stride and dtype. They are worked
    out once for each distinct call and remembered, which is what makes counting dozens of steps
    cheap: torch works many of them out in Python.

    Attributes:
        total: FLOPs so far.
    """

    def __init__(self) -> None:
        """Start at 0."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0
        self._known: dict[Hashable, tuple[int, Any]] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Count one operation and give its result."""
        kwargs = kwargs or {}
        key = _key(func, args, kwargs)
        if key is not None and key in self._known:
            flops, result = self._known[key]
            self.total += flops
            return args[0] if result is _FIRST_ARGUMENT else _made(result)
        out = func(*args, **kwargs)
        formula = flop_registry.get(func._overloadpacket)
        flops = 0 if formula is None else int(formula(*args, **kwargs, out_val=out))
        self.total += flops
        # An operation that changed the shape of an argument in place is not the same call twice.
        if key is not None and _key(func, args, kwargs) == key:
            self._known[key] = (flops, _FIRST_ARGUMENT if out is args[0] else _recipe(out))
        return out


_FIRST_ARGUMENT = object()


def _key(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable | None:
    """What the result's shape depends on; None when the call has to be made.

    It has to be made when a tensor holds values, or when the result is a view: autograd follows a
    view to the storage it shares.
    """
    if func.namespace != "aten" or func.is_view:
        return None
    signature = (_signature(args), _signature(tuple(kwargs.items())))
    on_meta = [_all_on_meta(args), _all_on_meta(tuple(kwargs.values()))]
    if False in on_meta or True not in on_meta:
        return None
    return (func, *signature)


def _signature(value: Any) -> Hashable:
    if isinstance(value, Tensor):
        return (value.shape, value.stride(), value.dtype)
    if isinstance(value, (list, tuple)):
        return tuple([_signature(item) for item in value])
    # 1, 1.0 and True are equal, but promote to different dtypes.
    return (type(value), value)


def _all_on_meta(values: tuple[Any, ...] | list[Any]) -> bool | None:
    """Whether all tensors in `values` lie on the meta device; None when there are none."""
    found = None
    for value in values:
        if isinstance(value, Tensor):
            one: bool | None = value.device.type == "meta"
        elif isinstance(value, (list, tuple)):
            one = _all_on_meta(value)
        else:
            continue
        if one is False:
            return False
        found = one or found
    return found


def _recipe(out: Any) -> Any:
    if isinstance(out, Tensor):
        return (tuple(out.shape), out.stride(), out.dtype)
    return [_recipe(part) for part in out] if isinstance(out, (list, tuple)) else out


def _made(recipe: Any) -> Any:
    if isinstance(recipe, tuple):
        shape, stride, dtype = recipe
        return torch.empty_strided(shape, stride, dtype=dtype, device="meta")
    return tuple(map(_made, recipe)) if isinstance(recipe, list) else recipe
