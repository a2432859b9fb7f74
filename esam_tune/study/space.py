"""The search space file: parsed, checked, and with the command line's overrides applied."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from esam_tune.config import (
    PARAMETERS,
    TASK,
    TRAINING,
    complete_params,
    task_settings,
    training_settings,
)
from esam_tune.domains import COUNT, SEED, Domain, check_keys, check_places
from esam_tune.errors import UNWANTED, InputError
from esam_tune.metrics import OBJECTIVES, Direction
from esam_tune.study.search_section import search_section
from esam_tune.study.spec import (
    SAMPLERS,
    STOPPING_KINDS,
    Baseline,
    Constraint,
    EarlyStopping,
    StudySpec,
    describe_params,
)
from esam_tune.yaml_file import read_value, read_yaml

_KEYS = (
    "name",
    "description",
    "task",
    "training",
    "search",
    "objectives",
    "constraints",
    "baselines",
    "trials",
    "max_concurrent",
    "seed",
    "seeds",
    "sampler",
    "early_stopping",
)
# A regular expression of JSON schemas, too: digits are ASCII's.
CONSTRAINT = r"^\s*(<=|>=)\s+[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$"
REQUIRED = ("task", "training", "search", "objectives", "trials")
SAMPLER = Domain(kind=str, choices=SAMPLERS)
EARLY_STOPPING = {
    "kind": Domain(kind=str, choices=STOPPING_KINDS),
    "grace_epochs": COUNT,
    # Closer to 1 there is a rung at every epoch; beyond, none.
    "eta": Domain(kind=float, low=1.1, high=1_000.0),
}
_SECTIONS: dict[str, Iterable[str]] = {
    "": _KEYS,
    "task": TASK,
    "training": TRAINING,
    "search": PARAMETERS,
    "objectives": OBJECTIVES,
    "constraints": OBJECTIVES,
    "early_stopping": EARLY_STOPPING,
}
_NAME_CHARACTERS = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_NAME_LENGTH = 100


def load_space(path: Path, assignments: Sequence[str] = ()) -> StudySpec:
    """Read and check a space file.

    Args:
        path: of the file.
        assignments: ``section.key=VALUE`` each, put over what the file says.

    Raises:
        InputError: for anything in it that cannot be used.
    """
    return assigned_space(read_yaml(path, "SPACE"), assignments, default_name=path.stem)


def assigned_space(
    document: dict[str, Any], assignments: Sequence[str], default_name: str
) -> StudySpec:
    """Check a space document with fields put over what it says.

    Args:
        document: of a space file; it is changed.
        assignments: ``section.key=VALUE`` each.
        default_name: of the study, where the document has none.

    Raises:
        InputError: for anything in it that cannot be used.
    """
    for assignment in assignments:
        _assign(document, assignment)
    return parse_space(document, default_name=default_name)


def _assign(document: dict[str, Any], assignment: str) -> None:
    """Set one field of a document; an empty value takes it out."""
    name, equals, text = assignment.partition("=")
    *sections, key = name.split(".")
    if not equals or not all([*sections, key]):
        raise InputError(
            "--set", f"must be FIELD=VALUE, got {assignment!r}", "write task.label_noise=0.2"
        )
    part: Any = document
    for section in sections:
        part = part.setdefault(section, {})
        if not isinstance(part, dict):
            raise InputError(
                "--set", f"{section} is no section, got {assignment!r}", "name a field of the file"
            )
    if text:
        part[key] = read_value(text, "--set")
    else:
        part.pop(key, None)


def parse_space(document: Mapping[str, Any], default_name: str) -> StudySpec:
    """Check a space document.

    Raises:
        InputError: naming the field, the bound, the value and the remedy.
    """
    check_places(document, _SECTIONS)
    check_keys("", document, _KEYS, REQUIRED)
    fixed, dimensions, conditions = search_section(document["search"])
    concurrent = document.get("max_concurrent")
    return StudySpec(
        name=check_name("name", document.get("name", default_name)),
        description=_text("description", document.get("description", "")),
        task=task_settings(document["task"]),
        training=training_settings(document["training"]),
        fixed=fixed,
        dimensions=dimensions,
        conditions=conditions,
        objectives=_objectives(document["objectives"]),
        constraints=_constraints(document.get("constraints") or {}),
        baselines=_baselines([] if document.get("baselines") is None else document["baselines"]),
        trials=int(COUNT.check("trials", document["trials"])),
        max_concurrent=None if concurrent is None else _count("max_concurrent", concurrent),
        seed=int(SEED.check("seed", document.get("seed", 0))),
        seeds=_count("seeds", document.get("seeds", 1)),
        sampler=str(SAMPLER.check("sampler", document.get("sampler", "tpe"))),
        early_stopping=_early_stopping(document.get("early_stopping") or {"kind": "none"}),
    )


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """What the command line asks instead of the space file; None leaves the file's word."""

    name: str | None = None
    trials: int | None = None
    epochs: int | None = None
    max_concurrent: int | None = None
    seed: int | None = None
    seeds: int | None = None

    def apply(self, spec: StudySpec) -> StudySpec:
        """The study with these values put over the file's.

        Raises:
            InputError: naming the option.
        """
        if self.name is not None:
            spec = replace(spec, name=check_name("--name", self.name))
        if self.trials is not None:
            spec = replace(spec, trials=_count("--trials", self.trials))
        if self.epochs is not None:
            training = replace(spec.training, epochs=_count("--epochs", self.epochs))
            spec = replace(spec, training=training)
        if self.max_concurrent is not None:
            spec = replace(spec, max_concurrent=_count("--max-concurrent", self.max_concurrent))
        if self.seed is not None:
            spec = replace(spec, seed=int(SEED.check("--seed", self.seed)))
        if self.seeds is not None:
            spec = replace(spec, seeds=_count("--seeds", self.seeds))
        return spec


def check_name(field: str, name: object) -> str:
    """Require a study name that is a plain folder name.

    Raises:
        InputError: for path separators, a leading dot and other characters.
    """
    if not isinstance(name, str) or not name or len(name) > _NAME_LENGTH:
        raise InputError(
            field, f"must be 1 to {_NAME_LENGTH} characters, got {name!r}", "choose a short name"
        )
    if name.startswith((".", "-")) or not set(name) <= _NAME_CHARACTERS:
        raise InputError(
            field,
            "may hold letters, digits, '.', '_' and '-' and must start with a letter, a digit or "
            f"'_', got {name!r}",
            "choose a name without path separators",
        )
    return name


def _count(field: str, value: object) -> int:
    return int(COUNT.check(field, value))


def _text(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise InputError(field, f"must be text, got {value!r}", "put it in quotes")
    if UNWANTED.search(value):
        raise InputError(field, f"must hold no control characters, got {value!r}", "retype it")
    return value.strip()


def _objectives(section: object) -> dict[str, Direction]:
    check_keys("objectives", section, OBJECTIVES, [])
    assert isinstance(section, Mapping)
    for key, direction in section.items():
        if direction != OBJECTIVES[key]:
            raise InputError(
                f"objectives.{key}",
                f"must be {OBJECTIVES[key]}, got {direction!r}",
                f"write `{key}: {OBJECTIVES[key]}`",
            )
    if set(section.values()) != {"max", "min"}:
        raise InputError(
            "objectives",
            f"must hold at least one metric to raise and one to lower, got {list(section)!r}",
            "write `val_accuracy: max` and `step_flops_ratio: min`",
        )
    return dict(section)


def _constraints(section: object) -> tuple[Constraint, ...]:
    check_keys("constraints", section, OBJECTIVES, [])
    assert isinstance(section, Mapping)
    return tuple(_constraint(key, text) for key, text in section.items())


def _constraint(key: str, text: object) -> Constraint:
    if isinstance(text, str) and re.match(CONSTRAINT, text, re.ASCII):
        relation, number = text.split()
        if math.isfinite(float(number)):
            return Constraint(
                metric=key, relation="<=" if relation == "<=" else ">=", bound=float(number)
            )
    example = "<= 1.4" if OBJECTIVES[key] == "min" else ">= 0.9"
    raise InputError(
        f"constraints.{key}",
        f"must be '<= NUMBER' or '>= NUMBER', got {text!r}",
        f'write `{key}: "{example}"`',
    )


def _early_stopping(section: object) -> EarlyStopping:
    check_keys("early_stopping", section, EARLY_STOPPING, ["kind"])
    assert isinstance(section, Mapping)
    given = {
        key: EARLY_STOPPING[key].check(f"early_stopping.{key}", value)
        for key, value in section.items()
        if not (key == "grace_epochs" and value is None)
    }
    return EarlyStopping(**given)  # type: ignore[arg-type]


def _baselines(section: object) -> tuple[Baseline, ...]:
    if not isinstance(section, list):
        raise InputError(
            "baselines", f"must be a list, got {section!r}", "write `- optimizer: sgd`"
        )
    baselines: list[Baseline] = []
    for index, entry in enumerate(section):
        field = f"baselines[{index}]"
        check_keys(field, entry, ["label", *PARAMETERS], ["optimizer"])
        params = complete_params(field, {k: v for k, v in entry.items() if k != "label"})
        label = _text(f"{field}.label", entry.get("label", describe_params(params)))
        if label in {baseline.label for baseline in baselines}:
            raise InputError(f"{field}.label", f"occurs twice, got {label!r}", "give it its own")
        baselines.append(Baseline(label=label, params=params))
    return tuple(baselines)
