"""Several studies on one front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from esam_tune.errors import InputError
from esam_tune.interface.arguments import STORAGE, StrPath, storage_folder, text
from esam_tune.interface.calls import taking
from esam_tune.pareto_front import Rule
from esam_tune.study.comparison import Comparison
from esam_tune.study.folder import StudyFolder, study_folder
from esam_tune.study.results import DEFAULT_RULE

_UNBOUNDED: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class FrontRequest:
    """A front to compute.

    Args:
        folders: of the studies.
        rule: of the pick.
        maximum: metric -> upper bound.
        minimum: metric -> lower bound.
        export: of the picked settings, or None.
    """

    folders: Sequence[StudyFolder]
    rule: Rule
    maximum: Mapping[str, float]
    minimum: Mapping[str, float]
    export: Path | None


def front_request(
    *studies: str,
    max: Mapping[str, float] = _UNBOUNDED,  # noqa: A002 - the option's name
    min: Mapping[str, float] = _UNBOUNDED,  # noqa: A002
    pick: Rule = DEFAULT_RULE,
    export: StrPath | None = None,
    storage: StrPath = STORAGE,
) -> FrontRequest:
    """What ``pareto`` is asked.

    Args:
        studies: names; several are put on one front.
        max: metric -> upper bound, in place of the studies' own for that metric.
        min: metric -> lower bound, likewise.
        pick: ``accuracy``, ``cost`` or ``knee``.
        export: where to write the picked settings, a YAML file.
        storage: folder of all studies.

    Raises:
        InputError: for what cannot be used.
    """
    if not studies:
        raise InputError("STUDY", "there is no study to look at", "name one at least")
    where = storage_folder(storage)
    return FrontRequest(
        folders=[study_folder(where, name) for name in studies],
        rule=pick,
        maximum=max,
        minimum=min,
        export=None if export is None else Path(text("--export", export)),
    )


def front_of(request: FrontRequest) -> Comparison:
    """The front, with its pick exported where that was asked for.

    Raises:
        InputError: for studies that cannot be compared, constraints that cannot be used, and a
            file that cannot be written.
    """
    comparison = Comparison(
        request.folders, rule=request.rule, maximum=request.maximum, minimum=request.minimum
    )
    if request.export is not None:
        comparison.export(request.export)
    return comparison


@taking(front_request)
def pareto(request: FrontRequest) -> Comparison:
    """The front of one study or of several, under constraints, with a pick.

    Returns:
        Its ``front`` and ``trials`` (rows, each with its study), ``chosen``, ``document()`` and
        ``export(path)``; a notebook shows the table.

    Raises:
        InputError: for studies that are not there or cannot be compared, constraints that cannot
            be used, and a file that cannot be written.
    """
    return front_of(request)
