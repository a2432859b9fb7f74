"""Prints docs/reference.md: verbs, files and metrics, read from the code that they come from.

python docs/reference.py > docs/reference.md
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from esam_tune.cli import build_parser
from esam_tune.cli.arguments import EXIT_CODES, INTERRUPTED, WRONG_INPUT
from esam_tune.config import (
    DATASETS,
    HYPERPARAMETERS,
    MODELS,
    OPTIMIZERS,
    PARAMETERS,
    TASK,
    TRAINING,
    TaskSettings,
    TrainingSettings,
    TrialSettings,
)
from esam_tune.domains import Domain
from esam_tune.metrics import METRICS, OBJECTIVES
from esam_tune.study.space import EARLY_STOPPING
from esam_tune.study.space_schema import space_schema
from esam_tune.study.spec import EarlyStopping, StudySpec

_HEAD = """# Reference

Written by `python docs/reference.py` from the parser of the command line, the bounds that files
are checked against and the table of metrics; a test fails when it is not what the code says. The
same is told by `esam-tune VERB --help` and, to editors, by `search_spaces/space.schema.json`.
"""

_SEARCH = """One entry a parameter, in one of these forms:

    beta: 0.6                                 # the same in every trial
    every: {choices: [1, 2, 4]}               # a few values without order
    rho: {low: 0.02, high: 1.0, log: true}    # a range, both ends included
    beta: {low: 0.2, high: 1.0, when: {every: [2, 4]}, default: 0.6}    # searched under a condition

`optimizer` must be there. What a trial's optimizer does not read it does not get."""

_CONSTRAINTS = """`constraints` bounds any of them, as `step_flops_ratio: "<= 1.4"` or
`val_accuracy: ">= 0.9"`."""

_SETTINGS = (
    """What `esam-tune train` and `esam-tune scale` read and `esam-tune pareto --export` writes."""
)


def reference() -> str:
    """The whole document."""
    parts = [_HEAD, *_verbs(), *_space_file(), *_settings_file(), *_metrics()]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _verbs() -> Iterable[str]:
    parser = build_parser()
    (chosen,) = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    yield "## Verbs"
    yield f"Exit codes: {_exit_codes()}. Logs and progress go to stderr, results to stdout."
    yield "Options that must be given are **bold**, those that may be given several times say so."
    for name, verb in chosen.choices.items():
        shown = [a for a in verb._actions if not isinstance(a, argparse._HelpAction)]
        actions = sorted(shown, key=lambda a: bool(a.option_strings))
        positional = [_placeholder(a) for a in actions if not a.option_strings]
        yield f"### `esam-tune {' '.join([name, *positional])}`"
        yield f"{verb.description[:1].upper()}{verb.description[1:]}."
        formatter = verb._get_formatter()
        rows = [
            (_key(_written(a), bool(a.option_strings) and a.required), formatter._expand_help(a))
            for a in actions
            if a.help
        ]
        yield _table(("argument", "meaning"), rows)


def _exit_codes() -> str:
    words = {
        EXIT_CODES["done"]: "done",
        EXIT_CODES["failed"]: "the study, the run or the delivery failed",
        WRONG_INPUT: "the input is wrong and nothing was started",
        INTERRUPTED: "interrupted by Ctrl-C, the state saved",
        EXIT_CODES["terminated"]: "ended by SIGTERM, the state saved",
    }
    return "; ".join(f"{code} {text}" for code, text in words.items())


def _placeholder(action: argparse.Action) -> str:
    name = str(action.metavar or action.dest)
    several = {"*": f"[{name} ...]", "+": f"{name} [{name} ...]"}
    return several.get(str(action.nargs), name)


def _written(action: argparse.Action) -> str:
    if not action.option_strings:
        return _placeholder(action)
    if action.nargs == 0:
        return ", ".join(action.option_strings)
    value = action.metavar or "|".join(map(str, action.choices or [action.dest.upper()]))
    return f"{', '.join(action.option_strings)} {value}"


def _space_file() -> Iterable[str]:
    schema = space_schema()
    said = _arguments(StudySpec) | {
        "search": "parameters: fixed, or with what is to be searched",
        "description": schema["properties"]["description"]["description"],
    }
    yield "## Space files"
    yield "A study, in YAML. Keys that a file must hold are **bold**."
    rows = [
        (_key(key, key in schema["required"]), _form(part), said[key])
        for key, part in schema["properties"].items()
    ]
    yield _table(("key", "value", "meaning"), rows)
    yield "### `task`"
    yield _section_table(TaskSettings, TASK)
    yield "Each data set reads these beside the settings that all read, with its own defaults:"
    yield _table(
        ("data set", "reads"),
        [
            (
                f"`{name}`",
                ", ".join(f"`{k}`" + ("" if v is None else f" ({v})") for k, v in reads.items()),
            )
            for name, reads in DATASETS.items()
        ],
    )
    yield f"Networks: {_code(MODELS)}. [data.md](data.md) says what the data sets hold."
    yield "### `training`"
    yield _section_table(TrainingSettings, TRAINING)
    yield "### `search`"
    yield _SEARCH
    yield _table(
        ("parameter", "value", "read by, with its default"),
        [(f"`{key}`", str(domain), _readers(key)) for key, domain in PARAMETERS.items()],
    )
    yield "Optimizers, with what each reads beside the parameters that all read:"
    yield _table(
        ("optimizer", "in tables", "reads"),
        [(f"`{name}`", kind.label, _code(kind.defaults)) for name, kind in OPTIMIZERS.items()],
    )
    yield "`baselines` is a list: each entry fixes such parameters, and may have a `label`."
    yield "### `objectives` and `constraints`"
    yield "`objectives` names at least one metric to raise and one to lower:"
    yield _table(
        ("metric", "direction", "meaning"),
        [
            (f"`{key}`", direction, METRICS[key].description)
            for key, direction in OBJECTIVES.items()
        ],
    )
    yield _CONSTRAINTS
    yield "### `early_stopping`"
    yield _section_table(EarlyStopping, EARLY_STOPPING)
    yield "[search.md](search.md) has samplers, conditions, seeds and early stopping in full."


def _settings_file() -> Iterable[str]:
    yield "## Settings files"
    yield _SETTINGS
    said = _arguments(TrialSettings)
    required = [f.name for f in fields(TrialSettings) if _is_required(f)]
    yield _table(
        ("key", "meaning"), [(_key(key, key in required), text) for key, text in said.items()]
    )


def _metrics() -> Iterable[str]:
    yield "## Metrics"
    yield "As they are named in space files, JSON, `front.csv` and MLflow."
    rows = [
        (f"`{metric.key}`", metric.unit, metric.better or "", metric.description)
        for metric in METRICS.values()
    ]
    yield _table(("key", "unit", "better", "meaning"), rows)


def _section_table(cls: Any, domains: Mapping[str, Domain]) -> str:
    said = _arguments(cls)
    rows = []
    for field in fields(cls):
        default = "" if _is_required(field) or field.default is None else _plain(field.default)
        name = _key(field.name, _is_required(field))
        rows.append((name, str(domains[field.name]), default, said[field.name]))
    return _table(("key", "value", "default", "meaning"), rows)


def _readers(parameter: str) -> str:
    if parameter not in HYPERPARAMETERS:
        return "" if parameter == "optimizer" else "all; default: `training`'s"
    return ", ".join(
        f"`{name}` ({_plain(kind.defaults[parameter])})"
        for name, kind in OPTIMIZERS.items()
        if parameter in kind.defaults
    )


def _form(schema: Mapping[str, Any]) -> str:
    """What a top-level key of a space file takes."""
    if "anyOf" in schema:
        return _form(schema["anyOf"][0])
    if "enum" in schema:
        return "one of " + ", ".join(schema["enum"])
    kind = schema["type"]
    if kind == "integer":
        high = f" and <= {schema['maximum']}" if "maximum" in schema else ""
        return f"an integer >= {schema['minimum']}{high}"
    return {"string": "text", "array": "a list", "object": "a section, see below"}[kind]


def _arguments(cls: Any) -> dict[str, str]:
    """What a class's docstring says of each of its arguments."""
    (section,) = re.findall(r"\nArgs:\n((?:    .*\n?|\n)+)", inspect.getdoc(cls) or "")
    found = re.findall(r"^    (\w+): (.*(?:\n     +.*)*)", section, re.MULTILINE)
    return {name: _for_files(" ".join(text.split())) for name, text in found}


def _for_files(text: str) -> str:
    """A docstring's words, as one who writes YAML reads them."""
    text = text.rstrip(".").replace("``", "`").replace("None", "null")
    # The names of our own tables say nothing beside the values that a row lists anyway.
    return re.sub(r",? one of `[A-Z_]+`", "", text)


def _is_required(field: Any) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _key(name: str, required: bool) -> str:
    return f"**`{name}`**" if required else f"`{name}`"


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    cells = ([cell.replace("|", r"\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


if __name__ == "__main__":
    sys.stdout.write(reference())
