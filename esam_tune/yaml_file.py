"""Reading and writing the YAML files users edit: safely, and with errors that say where."""

import os
import re
import tempfile
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from esam_tune.errors import InputError

MAX_BYTES = 100_000
MAX_DEPTH = 20

# YAML 1.1 reads 5e-4 as a string; everyone who writes it means the number.
_FLOAT = re.compile(
    r"^[-+]?(\d+\.\d*|\.\d+|\d+)([eE][-+]?\d+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"
)
_INT = re.compile(r"^[-+]?(0|[1-9]\d*)$")


class _Loader(yaml.SafeLoader):
    """Safe loader that refuses repeated keys, aliases and deep nesting."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if getattr(self.peek_event(), "tag", None) is not None:  # type: ignore[no-untyped-call]
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="tags are not read", problem_mark=mark)
        if self.check_event(yaml.events.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases are not read", problem_mark=mark)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(
                problem=f"nested deeper than {MAX_DEPTH} levels", problem_mark=mark
            )
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.MarkedYAMLError(
                    problem=f"keys must be words, found {key!r}", problem_mark=key_node.start_mark
                )
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key!r} occurs twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


# Only words, numbers, true/false and null: a date or a sexagesimal number is never meant here.
_Loader.yaml_implicit_resolvers = {}
for _first in "-+.0123456789":
    _Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, [_first])
    _Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, [_first])
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:null", re.compile(r"^(~|null|Null|NULL|)$"), ["~", "n", "N", ""]
)


class _Dumper(yaml.SafeDumper):
    """Safe dumper that quotes every text which the loader would take for something else."""


# A trial id such as 0008 is text to YAML 1.1, which the dumper speaks, but a number to the loader.
_Dumper.yaml_implicit_resolvers = {
    first: [
        *_Loader.yaml_implicit_resolvers.get(first, []),
        *yaml.SafeDumper.yaml_implicit_resolvers.get(first, []),
    ]
    for first in {*_Loader.yaml_implicit_resolvers, *yaml.SafeDumper.yaml_implicit_resolvers}
}


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """Read the mapping at the top of a YAML file.

    Args:
        path: the file.
        what: the argument's name, for messages.

    Raises:
        InputError: when the file is missing, unreadable, too large, not YAML, or not a mapping.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise InputError(what, f"no such file {str(path)!r}", "check the path") from None
    except OSError as error:
        raise InputError(
            what, f"cannot read {str(path)!r} ({error.strerror})", "check its permissions"
        ) from None
    if len(raw) > MAX_BYTES:
        raise InputError(
            what, f"{str(path)!r} is larger than {MAX_BYTES} bytes", "name the right file"
        )
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(what, f"{str(path)!r} is not UTF-8 text", "name a YAML file") from None
    document = _load(text, what, str(path))
    if not isinstance(document, dict):
        raise InputError(
            what,
            f"{str(path)!r} must hold a mapping, found {type(document).__name__}",
            "write `key: value` lines",
        )
    return document


def read_value(text: str, what: str) -> Any:
    """The value that a piece of YAML spells, such as ``0.5``, ``true`` or ``{low: 1, high: 4}``.

    Raises:
        InputError: naming ``what`` when it is too long or not YAML.
    """
    if len(text) > MAX_BYTES:
        raise InputError(what, f"is longer than {MAX_BYTES} characters", "use a file")
    return _load(text, what, text)


def _load(text: str, what: str, shown: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - derives from SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InputError(
            what, f"{shown!r}{where} is not readable as YAML: {problem}", "mend that line"
        ) from None


def write_yaml(path: Path, document: dict[str, Any], comment: str) -> None:
    """Write ``document`` under a comment line; readers see the old file or the new one.

    Raises:
        OSError: when the folder cannot be written.
    """
    text = f"# {comment}\n" + yaml.dump(document, Dumper=_Dumper, sort_keys=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
