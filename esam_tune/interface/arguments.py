"""Arguments that several functions share: what they may be, and what becomes of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from esam_tune.config import TrialSettings, trial_settings
from esam_tune.domains import COUNT, Domain
from esam_tune.errors import InputError
from esam_tune.study.awaited_room import OPTION, Room
from esam_tune.study.comparison import Pick
from esam_tune.study.placement import WorkerShape
from esam_tune.tracking.store import asked_uri
from esam_tune.yaml_file import read_value, read_yaml

STORAGE = "runs"
_NUMBER = Domain(kind=float)

StrPath = str | Path
# A settings file, what one holds, or what was picked from a study.
Settings = str | Path | Mapping[str, Any] | Pick


def storage_folder(storage: StrPath) -> Path:
    """The folder of all studies.

    Raises:
        InputError: for what is no path.
    """
    return Path(text("--storage", storage))


def mlflow_uri(tracking_uri: str | None) -> str | None:
    """The chosen MLflow address, or None for the store inside the storage.

    Raises:
        InputError: for what is no text.
    """
    return asked_uri(text_or_none("--tracking-uri", tracking_uri))


def run_settings(settings: Settings) -> TrialSettings:
    """The checked settings of a run.

    Raises:
        InputError: for a file that cannot be read, or a field that cannot be used.
    """
    if isinstance(settings, Pick):
        settings = settings.settings
    if isinstance(settings, Mapping):
        return trial_settings(as_in_a_file("SETTINGS", settings))
    return trial_settings(read_yaml(Path(text("SETTINGS", settings)), "SETTINGS"))


def worker_shape(cpus_per_worker: int | None, gpus_per_worker: float | None) -> WorkerShape:
    """What each worker takes.

    Raises:
        InputError: for a number of cores or GPUs that there cannot be.
    """
    cpus = 1 if cpus_per_worker is None else cpus_per_worker
    gpus = gpus_per_worker
    if gpus is not None:
        gpus = float(_NUMBER.check("--gpus-per-worker", gpus))
    return WorkerShape(cpus=int(COUNT.check("--cpus-per-worker", cpus)), gpus=gpus)


def awaited_room(await_workers: int | None, shape: WorkerShape, address: str | None) -> Room | None:
    """The room that a cluster is to make, or None to take what there is.

    Raises:
        InputError: for no count, without a cluster, or where GPUs are not spoken of.
    """
    if await_workers is None:
        return None
    return Room(workers=int(COUNT.check(OPTION, await_workers)), shape=shape, address=address)


def progress_console(asked: Console | None) -> Console:
    """Where progress goes: stderr, which a notebook shows below the cell."""
    if asked is not None:
        return asked
    return Console(stderr=True, highlight=False, markup=False, soft_wrap=not sys.stderr.isatty())


def text(option: str, value: object) -> str:
    """The checked text, or path as text, of an option.

    Raises:
        InputError: naming the option.
    """
    if isinstance(value, str | Path):
        return str(value)
    raise InputError(option, f"must be a text, got {value!r}", "put it in quotes")


def text_or_none(option: str, value: object) -> str | None:
    """The same of an option that need not be given."""
    return None if value is None else text(option, value)


def as_in_a_file(what: str, document: Mapping[str, Any]) -> Any:
    """A copy of a mapping, which may hold what a file may hold, and nothing else.

    Raises:
        InputError: naming what it is.
    """
    return read_value(yaml_text(what, dict(document)), what)


def yaml_text(option: str, value: object) -> str:
    """A value as YAML spells it, which reads JSON.

    Raises:
        InputError: for what a file cannot hold.
    """
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        problem, remedy = f"holds what no space file can ({error})", "use texts, numbers and lists"
        raise InputError(option, problem, remedy) from None
