"""What a space file and the command line together must keep, beyond each value's own bounds."""

from __future__ import annotations

from esam_tune.errors import InputError
from esam_tune.study.grid import float_ranges, grid_size
from esam_tune.study.spec import StudySpec


def check_search(spec: StudySpec) -> None:
    """Require that the sampler can go through the space and that rungs come before the end.

    Args:
        spec: with the command line's overrides.

    Raises:
        InputError: naming the field.
    """
    if spec.sampler == "grid":
        _check_grid(spec)
    stopping, epochs = spec.early_stopping, spec.training.epochs
    if stopping.kind != "none" and (stopping.grace_epochs or 0) >= epochs > 1:
        raise InputError(
            "early_stopping.grace_epochs",
            f"must be below a trial's {epochs} epochs, got {stopping.grace_epochs}",
            "lower it, or leave it out for one in eta of the epochs",
        )


def _check_grid(spec: StudySpec) -> None:
    for key in float_ranges(spec):
        raise InputError(
            f"search.{key}",
            "must be choices for sampler grid, got a range of numbers",
            f"write `{key}: {{choices: [...]}}` or use sampler qmc",
        )
    size = grid_size(spec)
    if size is not None and spec.trials > size:
        raise InputError(
            "trials",
            f"must be at most {size}, the points of the grid, got {spec.trials}",
            "lower it or add choices",
        )
