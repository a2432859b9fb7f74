"""Multi-objective search for Efficient Sharpness-Aware Minimization (ESAM).

What the command line does, from Python::

    import esam_tune as et

    study = et.sweep("search_spaces/digits_noisy.yaml", trials=12, epochs=10)
    study.pick("knee", max={"step_flops_ratio": 1.4})

Importing the package loads nothing of Ray, MLflow or torch: functions come with their first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esam_tune.errors import InputError, RunFailedError
    from esam_tune.interface.fronts import pareto
    from esam_tune.interface.scaling_runs import scale
    from esam_tune.interface.studies import Study, dry_run, load_study, sweep
    from esam_tune.interface.trainings import train

__version__ = "0.1.0"

__all__ = [
    "sweep",
    "dry_run",
    "load_study",
    "Study",
    "pareto",
    "train",
    "scale",
    "InputError",
    "RunFailedError",
]

_WHERE = {
    "sweep": "interface.studies",
    "dry_run": "interface.studies",
    "load_study": "interface.studies",
    "Study": "interface.studies",
    "pareto": "interface.fronts",
    "train": "interface.trainings",
    "scale": "interface.scaling_runs",
    "InputError": "errors",
    "RunFailedError": "errors",
}


def __getattr__(name: str) -> Any:
    """Load a public name on its first use."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted({*globals(), *__all__})
