"""Who may import whom: the rooms of the house, and the libraries each may use."""

import ast
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import esam_tune

PACKAGE = Path(esam_tune.__file__).parent


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}
INITS = {module_name(path) for path in PACKAGE.rglob("__init__.py")}


def imported(module, source):
    """Every module that a source imports, wherever the import stands; ours by full name.

    ``from esam_tune import metrics`` counts as ``esam_tune.metrics``, a name that is no module as
    the module it comes from. ``import_module`` and ``__import__`` count where their argument is
    written out.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                package = module.split(".")[: None if module in INITS else -1]
                above = package[: len(package) - node.level + 1]
                origin = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                whole = f"{origin}.{alias.name}"
                found.add(whole if whole in SOURCES else origin)
        elif isinstance(node, ast.Call):
            called = node.func
            name = getattr(called, "attr", getattr(called, "id", ""))
            first = node.args[0] if node.args else None
            if name in ("import_module", "__import__") and isinstance(first, ast.Constant):
                found.add(str(first.value))
    return found


def lies_in(module, rooms):
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


@dataclass(frozen=True)
class Room:
    """What a module, or a package with all below it, may import beside the standard library."""

    name: str
    ours: tuple[str, ...]
    libraries: tuple[str, ...]

    def violations(self, sources):
        allowed = tuple(f"esam_tune.{name}" for name in self.ours)
        for module, source in sources.items():
            if not lies_in(module, [f"esam_tune.{self.name}"]):
                continue
            for name in sorted(imported(module, source)):
                top = name.split(".")[0]
                if top == "esam_tune":
                    # The package itself holds its version; what else it passes on has a test below.
                    fits = name == "esam_tune" or lies_in(name, allowed)
                else:
                    fits = top in sys.stdlib_module_names or top in self.libraries
                if not fits:
                    yield f"{module} imports {name}"


ROOMS = (
    Room("optim", ("optim",), ("torch",)),
    Room(
        "tasks",
        ("tasks", "config", "errors"),
        # matplotlib's font files are read as files: matplotlib itself is not imported.
        ("torch", "torchvision", "sklearn", "numpy", "PIL"),
    ),
    Room("errors", (), ()),
    Room("domains", ("errors",), ()),
    Room("config", ("domains", "errors"), ()),
    Room("run_state", (), ("torch",)),
    Room("random_streams", (), ("torch", "numpy")),
    Room("checkpoint_storage", ("errors", "run_state"), ("pyarrow", "fsspec")),
    Room("resumption", ("checkpoint_storage", "run_state"), ()),
    Room("failures", ("errors",), ()),
    Room("worker_scaling", ("config", "domains", "errors"), ()),
    Room("metrics", ("errors",), ()),
    Room("pareto_front", (), ("numpy",)),
    Room("report", ("report", "pareto_front", "metrics"), ("matplotlib", "numpy", "plotly")),
    Room("yaml_file", ("errors",), ("yaml",)),
    Room("journal", ("errors",), ()),
    Room("upload", ("errors",), ("ray",)),
    Room("computation", ("config",), ("torch",)),
    Room("step_timer", ("computation",), ("torch",)),
    Room("worker", (), ("torch",)),
    Room("sharpness", ("worker", "optim", "tasks.splits", "metrics"), ("torch",)),
    Room("optimization", ("optim", "tasks.data", "config", "domains"), ("torch",)),
    Room(
        "training",
        (
            "computation",
            "optimization",
            "random_streams",
            "sharpness",
            "step_timer",
            "worker",
            "optim",
            "tasks",
            "config",
            "metrics",
        ),
        ("torch",),
    ),
    Room("scaling.communication", ("scaling.records",), ("numpy", "scipy")),
    Room(
        "scaling.measurement",
        (
            "scaling.buckets",
            "scaling.records",
            "training",
            "computation",
            "optimization",
            "optim",
            "tasks",
            "config",
        ),
        ("torch",),
    ),
    Room("scaling.trainings", ("scaling.records", "training", "worker", "config"), ("torch",)),
    Room("scaling.plots", ("report",), ("matplotlib",)),
    Room(
        "scaling",
        (
            "scaling",
            "study",
            "trial",
            "worker",
            "worker_group",
            "failures",
            "training",
            "computation",
            "optimization",
            "optim",
            "tasks",
            "tracking",
            "worker_scaling",
            "report",
            "config",
            "domains",
            "metrics",
            "errors",
        ),
        ("ray", "torch", "numpy", "scipy", "matplotlib", "rich"),
    ),
    Room(
        "final_training",
        (
            "final_training",
            "study",
            "trial",
            "training",
            "tasks",
            "tracking",
            "run_state",
            "checkpoint_storage",
            "worker_scaling",
            "journal",
            "config",
            "metrics",
            "errors",
            "failures",
        ),
        ("torch",),
    ),
    Room(
        "interface",
        (
            "interface",
            "study",
            "study_report",
            "scaling",
            "final_training",
            "trial",
            "tracking",
            "worker_scaling",
            "pareto_front",
            "yaml_file",
            "config",
            "domains",
            "errors",
        ),
        ("rich",),
    ),
    Room(
        "tracking",
        ("tracking", "journal", "config", "metrics", "errors"),
        ("mlflow", "sqlalchemy", "PIL"),
    ),
)

# Library -> the only rooms that may import it.
OWNERS = {
    "mlflow": ("esam_tune.tracking",),
    "optuna": ("esam_tune.study",),
    "ray": (
        "esam_tune.trial",
        "esam_tune.worker_group",
        "esam_tune.scaling.group",
        "esam_tune.study",
        "esam_tune.upload",
    ),
}


def foreign(library, sources):
    """Imports of a library outside the rooms that own it."""
    for module, source in sources.items():
        for name in imported(module, source):
            if lies_in(name, [library]) and not lies_in(module, OWNERS[library]):
                yield f"{module} imports {name}"


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_a_room_imports_only_what_it_may(room):
    assert any(lies_in(module, [f"esam_tune.{room.name}"]) for module in SOURCES)
    assert list(room.violations(SOURCES)) == []


@pytest.mark.parametrize("library", OWNERS)
def test_a_library_is_imported_by_its_owners_alone(library):
    assert list(foreign(library, SOURCES)) == []
    everything = {name for module, source in SOURCES.items() for name in imported(module, source)}
    assert any(lies_in(name, [library]) for name in everything)


def users(room, sources, *but):
    """Modules outside of a room, and of others, that import it."""
    return [
        module
        for module, source in sources.items()
        if not lies_in(module, [room, *but])
        and any(lies_in(name, [room]) for name in imported(module, source))
    ]


def test_nothing_imports_the_command_line():
    assert users("esam_tune.cli", SOURCES) == []


def test_the_python_interface_is_imported_by_the_package_and_the_command_line_alone():
    assert users("esam_tune.interface", SOURCES, "esam_tune.cli") == ["esam_tune"]
    late = {"esam_tune.study.x": "def f():\n    from esam_tune.interface.studies import sweep"}
    assert users("esam_tune.interface", late, "esam_tune.cli") == ["esam_tune.study.x"]


def passed_on(sources):
    """Public names that a module of the package takes from the package itself."""
    for module, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and node.module == "esam_tune" and not node.level:
                yield from (
                    f"{module} imports {alias.name}"
                    for alias in node.names
                    if alias.name in esam_tune.__all__
                )


def test_no_module_takes_from_the_package_what_that_passes_on():
    assert list(passed_on(SOURCES)) == []
    assert list(passed_on({"esam_tune.study.x": "from esam_tune import __version__, sweep"})) == [
        "esam_tune.study.x imports sweep"
    ]


@pytest.mark.parametrize(
    "source",
    [
        "import ray",
        "import ray.tune as t",
        "from ray import train",
        "def late():\n    import ray",
        "if True:\n    from ray.tune import Tuner",
        "import importlib\nimportlib.import_module('ray.tune')",
        "__import__('ray')",
        "from esam_tune import study",
        "from esam_tune.study import runner",
        "from . import cli",
        "from .study.runner import StudyRun",
        "import esam_tune.cli",
        "import pandas",
    ],
)
def test_the_check_sees_a_violation(source):
    room = next(room for room in ROOMS if room.name == "training")
    assert len(list(room.violations({"esam_tune.training": source}))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import torch.distributed as dist",
        "from esam_tune import metrics as keys",
        "from esam_tune import __version__",
        "from .optim import ESAM",
        "from .config import TrialSettings",
        "import collections.abc",
        "ray = 'import ray'",
    ],
)
def test_the_check_lets_the_permitted_pass(source):
    room = next(room for room in ROOMS if room.name == "training")
    assert list(room.violations({"esam_tune.training": source})) == []


@pytest.mark.parametrize(
    ("library", "module", "source"),
    [
        ("mlflow", "esam_tune.study.sweep", "def run():\n    from mlflow import MlflowClient"),
        ("optuna", "esam_tune.trial", "import optuna"),
        ("ray", "esam_tune.cli", "import ray"),
        ("ray", "esam_tune.trials", "import ray"),
    ],
)
def test_the_check_of_owners_sees_a_violation(library, module, source):
    assert len(list(foreign(library, {module: source}))) == 1


def test_a_relative_import_is_resolved_from_a_package_too():
    assert imported("esam_tune.tasks", "from . import data") == {"esam_tune.tasks.data"}
    assert imported("esam_tune.tasks.data", "from . import digits") == {"esam_tune.tasks.digits"}
    assert imported("esam_tune.tasks.data", "from ..config import x") == {"esam_tune.config"}
