"""The JSON schema of space files, for editors, made from the bounds that the parser checks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Any

from esam_tune.config import OPTIMIZERS, PARAMETERS, TASK, TRAINING, TaskSettings, TrainingSettings
from esam_tune.domains import COUNT, SEED, Domain
from esam_tune.metrics import METRICS, OBJECTIVES
from esam_tune.study.space import CONSTRAINT, EARLY_STOPPING, REQUIRED, SAMPLER

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}


def space_schema() -> Schema:
    """What a space file may hold, as a JSON schema of draft 2020-12.

    It accepts every file that the parser accepts. What joins several fields, such as low < high,
    the parser alone checks.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Search space of an esam-tune study",
        "$defs": {"when": _when()},
        **_object(
            {
                "name": {**_TEXT, "description": "of the study; default: the file's"},
                "description": {**_TEXT, "description": "what the study asks, for people"},
                "task": _settings(TaskSettings, TASK),
                "training": _settings(TrainingSettings, TRAINING),
                "search": _object(
                    {key: _searched(key, domain) for key, domain in PARAMETERS.items()},
                    ["optimizer"],
                ),
                "objectives": _object(
                    {
                        key: {"const": direction, "description": METRICS[key].description}
                        for key, direction in OBJECTIVES.items()
                    }
                ),
                "constraints": _or_null(
                    _object({key: {**_TEXT, "pattern": CONSTRAINT} for key in OBJECTIVES})
                ),
                "baselines": _or_null({"type": "array", "items": _baseline()}),
                "trials": {**_value(COUNT), "description": "budget, baselines not counted"},
                "max_concurrent": _or_null(_value(COUNT)),
                "seed": _value(SEED),
                "seeds": {**_value(COUNT), "description": "runs of each setting; default: 1"},
                "sampler": _value(SAMPLER),
                "early_stopping": _or_null(
                    _object(
                        {key: _or_null(_value(domain)) for key, domain in EARLY_STOPPING.items()},
                        ["kind"],
                    )
                ),
            },
            REQUIRED,
        ),
    }


def _object(properties: Mapping[str, Schema], required: Iterable[str] = ()) -> Schema:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(required),
        "properties": dict(properties),
    }


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _value(domain: Domain) -> Schema:
    if domain.choices:
        return {"enum": list(domain.choices)}
    schema: Schema = {
        "type": {float: "number", int: "integer", bool: "boolean", str: "string"}[domain.kind]
    }
    if domain.low > float("-inf"):
        schema["exclusiveMinimum" if domain.low_open else "minimum"] = domain.low
    if domain.high < float("inf"):
        schema["exclusiveMaximum" if domain.high_open else "maximum"] = domain.high
    return schema


def _settings(cls: Any, domains: Mapping[str, Domain]) -> Schema:
    """A section that fills a settings class; what is None by default may be null."""
    required = [f.name for f in fields(cls) if f.default is MISSING]
    nullable = {f.name for f in fields(cls) if f.default is None}
    return _object(
        {
            key: _or_null(_value(domain)) if key in nullable else _value(domain)
            for key, domain in domains.items()
        },
        required,
    )


def _searched(key: str, domain: Domain) -> Schema:
    """A parameter of the search: a fixed value, choices, or for a number a range."""
    value = _value(domain)
    choices = {"type": "array", "items": value, "minItems": 1, "uniqueItems": True}
    condition = (
        {} if key == "optimizer" else {"when": {"$ref": "#/$defs/when"}, "default": _or_null(value)}
    )
    ways = [value, _dimension({"choices": choices}, condition, ["choices"])]
    if domain.kind in (int, float) and not domain.choices:
        ends = {"low": value, "high": value, "log": {"type": "boolean"}}
        ways.append(_dimension(ends, condition, ["low", "high"]))
    readers = [name for name, kind in OPTIMIZERS.items() if key in kind.defaults]
    read = {"description": f"read by {', '.join(readers)}"} if readers else {}
    return {**read, "anyOf": ways}


def _dimension(own: Schema, condition: Schema, required: Iterable[str]) -> Schema:
    schema = _object({**own, **condition}, required)
    return {**schema, "dependentRequired": {"default": ["when"]}} if condition else schema


def _when() -> Schema:
    """The values of other parameters under which one is searched."""
    values = {
        key: {"anyOf": [value, {"type": "array", "items": value, "minItems": 1}]}
        for key, value in ((key, _value(domain)) for key, domain in PARAMETERS.items())
    }
    return {
        **_object(values),
        "minProperties": 1,
        "description": "searched only where all of these have one of their values",
    }


def _baseline() -> Schema:
    parameters = {key: _value(domain) for key, domain in PARAMETERS.items()}
    return _object({"label": _TEXT, **parameters}, ["optimizer"])
