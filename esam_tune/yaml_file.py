"""Reading and writing the YAML files users edit: safely, and with errors that say where."""

import errno
import os
import re
import stat
import uuid
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from esam_tune.errors import UNWANTED, InputError

MAX_BYTES = 100_000
MAX_DEPTH = 20
# The loader takes a tenth of a millisecond for each.
MAX_VALUES = 10_000

# YAML 1.1 reads 5e-4 as a string; everyone who writes it means the number.
_FLOAT = re.compile(
    r"^[-+]?(\d+\.\d*|\.\d+|\d+)([eE][-+]?\d+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"
)
_INT = re.compile(r"^[-+]?(0|[1-9]\d*)$")


class _Loader(yaml.SafeLoader):
    """Safe loader that refuses repeated keys, aliases, control characters, and much of anything."""

    depth = 0
    values = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if getattr(self.peek_event(), "tag", None) is not None:  # type: ignore[no-untyped-call]
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="tags are not read", problem_mark=mark)
        if self.check_event(yaml.events.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases are not read", problem_mark=mark)
        self.depth += 1
        self.values += 1
        if self.depth > MAX_DEPTH or self.values > MAX_VALUES:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            problem = (
                f"nested deeper than {MAX_DEPTH} levels"
                if self.depth > MAX_DEPTH
                else f"holds more than {MAX_VALUES} values"
            )
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        node = super().compose_node(parent, index)
        if isinstance(node, yaml.ScalarNode) and (found := UNWANTED.search(node.value)):
            raise yaml.MarkedYAMLError(
                problem=f"the character U+{ord(found[0]):04X} is not read",
                problem_mark=node.start_mark,
            )
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
        raw = _beginning(path)
    except FileNotFoundError:
        raise InputError(what, f"no such file {str(path)!r}", "check the path") from None
    except OSError as error:
        raise InputError(
            what, f"cannot read {str(path)!r} ({error.strerror})", "check its permissions"
        ) from None
    except ValueError as error:
        raise InputError(what, f"{str(path)!r} is no path ({error})", "check the path") from None
    if raw is None:
        raise InputError(
            what, f"{str(path)!r} is no file but a pipe or a device", "name a file that stays"
        )
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


def _beginning(path: Path) -> bytes | None:
    """A file's bytes, one more than may be read at most; None for what is no file."""
    # Without it, opening a pipe that nobody writes to would never end.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        kind = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(kind):
            return None
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(MAX_BYTES + 1)
    finally:
        os.close(descriptor)


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


def yaml_text(document: dict[str, Any]) -> str:
    """The document as a file holds it: :func:`read_yaml` reads it back."""
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False)
    return text


def write_yaml(path: Path, document: dict[str, Any], comment: str) -> None:
    """Write ``document`` under a comment line; readers see the old file or the new one.

    Who may read it is the umask's say. A link in the place of the file is replaced, not followed.

    Raises:
        OSError: when the folder cannot be written.
    """
    text = f"# {' '.join(comment.split())}\n"
    text += yaml_text(document)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with scratch.open("x", encoding="utf-8") as file:
            file.write(text)
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
