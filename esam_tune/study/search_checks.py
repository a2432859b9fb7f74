"""What a space file and the command line together must keep, beyond each value's own bounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from esam_tune.domains import SEED, Value
from esam_tune.errors import InputError
from esam_tune.study.grid import admitted_points, float_ranges, grid_size
from esam_tune.study.spec import KNOWN_COST_OBJECTIVES, StudySpec


def check_search(spec: StudySpec) -> None:
    """Require that the sampler can go through the space and that rungs come before the end.

    Args:
        spec: with the command line's overrides.

    Raises:
        InputError: naming the field.
    """
    if spec.sampler == "grid":
        for key in float_ranges(spec):
            raise InputError(
                f"search.{key}",
                "must be choices for sampler grid, got a range of numbers",
                f"write `{key}: {{choices: [...]}}` or use sampler qmc",
            )
    if spec.sampler == "known_cost" and dict(spec.objectives) != KNOWN_COST_OBJECTIVES:
        wanted = ", ".join(f"{key}: {kind}" for key, kind in KNOWN_COST_OBJECTIVES.items())
        raise InputError(
            "sampler",
            f"known_cost needs the objectives {wanted}, got {', '.join(spec.objectives)}",
            "set these objectives, or use sampler tpe or gp",
        )
    stopping, epochs = spec.early_stopping, spec.training.epochs
    if stopping.kind != "none" and (stopping.grace_epochs or 0) >= epochs > 1:
        raise InputError(
            "early_stopping.grace_epochs",
            f"must be below a trial's {epochs} epochs, got {stopping.grace_epochs}",
            "lower it, or leave it out for one in eta of the epochs",
        )
    if spec.seed + spec.seeds - 1 > SEED.high:
        raise InputError(
            "seeds",
            f"must keep seed + seeds - 1 at or below {SEED.high}, got {spec.seed} and {spec.seeds}",
            "lower seed",
        )


def check_budget(spec: StudySpec, admits: Callable[[Mapping[str, Value]], bool]) -> None:
    """Require that the space holds as many settings as are to be tried.

    Args:
        spec: with the command line's overrides.
        admits: whether a setting's predicted cost keeps the constraints.

    Raises:
        InputError: naming the budget.
    """
    points = admitted_points(spec, admits)
    size = grid_size(spec) if points is None else len(points)
    if size is None or spec.trials <= size:
        return
    kept = "" if size == grid_size(spec) else " that may keep the constraints on cost"
    raise InputError(
        "trials",
        f"must be at most {size}, the settings of the space{kept}, got {spec.trials}",
        "lower it, or widen the search",
    )
