"""What earlier studies found, brought to a new one's sampler.

Results count only where they are of the same scale: the same data, network and training. Under
other ones every earlier trial might look better, or worse, than all new ones, and the sampler,
which ranks them together, would learn that and nothing else. Of such a study the settings of its
front are taken, without their values, and tried first (the usual warm start across tasks: Feurer et
al., Initializing Bayesian Hyperparameter Optimization via Meta-Learning, AAAI 2015).

What is brought is written into the journal of the new study, so that it does not depend on the
earlier one any more.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from esam_tune.config import (
    DATASETS,
    TRIAL_TRAINING,
    TaskSettings,
    TrainingSettings,
    complete_params,
)
from esam_tune.domains import Value
from esam_tune.errors import InputError, choose_from
from esam_tune.study.folder import StudyFolder
from esam_tune.study.record import StudyRecord
from esam_tune.study.spec import StudySpec, coordinates
from esam_tune.study.trial_record import TrialRecord

OPTION = "--warm-start"
# Samplers that take no notice of results.
_DEAF = ("random", "qmc", "grid")
# Of the budget, at most one in so many trials is spent on the settings of studies of another task.
_FIRST = 2
_OUTSIDE, _NO_RESULT = "outside the search space", "without a result"


@dataclass(frozen=True, kw_only=True)
class WarmTrial:
    """An earlier trial, as a trial of the new study would have it.

    Args:
        trial_id: in its own study.
        params: complete.
        state: ``complete``, or ``pruned`` for one that was stopped early.
        metrics: those that the new study needs, means over the seeds.
    """

    trial_id: str
    params: Mapping[str, Value]
    state: Literal["complete", "pruned"]
    metrics: Mapping[str, float]

    def values(self, metrics: Iterable[str]) -> list[float]:
        """Values of metrics in their own units; NaN where missing."""
        return [self.metrics.get(key, math.nan) for key in metrics]


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """What is taken of one earlier study.

    Args:
        study: its name.
        study_id: its id.
        differs: in what it is of another task; empty where its results count.
        trials: whose results the sampler is told, or, where ``differs`` is not empty, whose
            settings are tried first.
        left_out: trials that are not taken, by reason.
    """

    study: str
    study_id: str
    differs: tuple[str, ...]
    trials: tuple[WarmTrial, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the journal."""
        return asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> WarmStart:
        """Read :meth:`to_dict`'s values back."""
        trials = tuple(WarmTrial(**trial) for trial in document["trials"])
        return cls(**{**document, "differs": tuple(document["differs"]), "trials": trials})

    def notice(self, sampler: str) -> str:
        """What a user is told of it, as one line."""
        rest = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items())
        left = f"; left out: {rest}" if rest else ""
        count = f"{len(self.trials)} trial{'s' * (len(self.trials) != 1)}"
        if self.differs:
            return (
                f"warm start from {self.study}: another scale of values "
                f"({'; '.join(self.differs)}), so its values are not used: the settings of "
                f"{count} of its front are tried first{left}"
            )
        deaf = f", but sampler {sampler} learns nothing from results" * (sampler in _DEAF)
        return f"warm start from {self.study}: {count} told to the sampler{deaf}{left}"


def warm_starts(asked: Sequence[str], spec: StudySpec, own: StudyFolder) -> tuple[WarmStart, ...]:
    """What studies that the user names know for a new one.

    Args:
        asked: names of studies in the new one's storage, or paths of studies' folders.
        spec: the new study.
        own: the new study's folder.

    Raises:
        InputError: naming ``--warm-start``, for a study that is not there, that is the new one
            itself or is named twice, or of which nothing can be used.
    """
    found = [_of(_folder(name, own), spec) for name in asked]
    names = Counter(start.study_id for start in found)
    for start in found:
        if names[start.study_id] > 1:
            raise InputError(OPTION, f"names study {start.study!r} twice", "name it once")
    return tuple(found)


def kept_warm_starts(
    started: Mapping[str, Any], asked: Sequence[str], own: StudyFolder
) -> tuple[WarmStart, ...]:
    """What a stored study was started with.

    Args:
        started: the first event of its journal.
        asked: as ``--resume`` names it again, or nothing.
        own: its folder.

    Raises:
        InputError: when other studies are named than at the start.
    """
    kept = tuple(WarmStart.from_dict(document) for document in started.get("warm_start") or ())
    known = {start.study: start.study_id for start in kept}
    # A study that was moved or removed since is known by its name.
    ids = {known.get(name) or _study_id(_folder(name, own)) for name in asked}
    if asked and ids != {start.study_id for start in kept}:
        before = ", ".join(known) or "nothing"
        raise InputError(
            OPTION,
            f"differs from that of the stored study {own.name!r}: it was {before}, "
            f"got {', '.join(asked)}",
            "resume without it, or choose another --name without --resume",
        )
    return kept


def _folder(name: str, own: StudyFolder) -> StudyFolder:
    """The folder of a study that is named, or whose path is given."""
    here = StudyFolder(storage=own.storage, name=name)
    plain = Path(name).name == name and name not in (".", "..")
    # Path.resolve raises for links that lead in a circle.
    path = Path(os.path.realpath(name))
    folder = here if plain and here.exists() else StudyFolder(storage=path.parent, name=path.name)
    if name == own.name or os.path.realpath(folder.path) == os.path.realpath(own.path):
        raise InputError(OPTION, "a study cannot start from itself", "name an earlier one")
    if not folder.exists():
        known = [p.parent.name for p in own.storage.glob("*/journal.jsonl")]
        others = [study for study in known if study != own.name]
        remedy = choose_from(others, name) if others else "name the folder of one"
        raise InputError(OPTION, f"no study {name!r} in {str(own.storage)!r}", remedy)
    return folder


def _study_id(folder: StudyFolder) -> str:
    return str(folder.started_with()["study_id"])


def _of(folder: StudyFolder, spec: StudySpec) -> WarmStart:
    record = folder.record()
    name = folder.name
    if not record.complete:
        raise InputError(
            OPTION, f"no trial of study {name!r} has finished", "wait for it, or leave it out"
        )
    differs = scale_differences(record.spec, spec)
    left_out: Counter[str] = Counter()
    usable: list[WarmTrial] = []
    for trial in record.front() if differs else record.trials.values():
        reason, warm = _warm_trial(trial, record, spec)
        if warm is None:
            left_out[reason] += 1
        else:
            usable.append(warm)
    if not any(trial.state == "complete" for trial in usable):
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise InputError(
            OPTION, f"no trial of study {name!r} can be used ({reasons})", "leave it out"
        )
    return WarmStart(
        study=name,
        study_id=_study_id(folder),
        differs=differs,
        trials=tuple(_spread(usable, spec.trials // _FIRST or 1) if differs else usable),
        left_out=dict(left_out),
    )


def _warm_trial(
    trial: TrialRecord, record: StudyRecord, spec: StudySpec
) -> tuple[str, WarmTrial | None]:
    if trial.state not in ("complete", "pruned"):
        return _NO_RESULT, None
    # What the earlier study trained all its trials with belongs to the setting.
    trained = {key: getattr(record.spec.training, key) for key in TRIAL_TRAINING}
    try:
        params = complete_params("params", {**trained, **trial.params})
    except InputError:
        # A parameter or a value that this version does not know.
        return _OUTSIDE, None
    point = coordinates(spec, params)
    if point is None:
        return _OUTSIDE, None
    needed = [*spec.objectives, *(constraint.metric for constraint in spec.constraints)]
    known = dict(zip(needed, trial.values(needed), strict=True))
    for key in spec.objectives:
        if trial.state == "complete" and not math.isfinite(known[key]):
            return f"without {key}", None
    return "", WarmTrial(
        trial_id=trial.trial_id,
        params=spec.completed(point),
        state="pruned" if trial.state == "pruned" else "complete",
        metrics={key: value for key, value in known.items() if math.isfinite(value)},
    )


def _spread(trials: list[WarmTrial], most: int) -> list[WarmTrial]:
    """At most so many trials of a front in its order, its ends among them."""
    if len(trials) <= most:
        return trials
    if most == 1:
        return trials[-1:]
    return [trials[round(i * (len(trials) - 1) / (most - 1))] for i in range(most)]


def scale_differences(before: StudySpec, now: StudySpec) -> tuple[str, ...]:
    """What makes the values of two studies' trials another scale."""
    pairs = [
        *((f"task.{key}", *values) for key, values in _task(before.task, now.task)),
        *((f"training.{key}", *values) for key, values in _training(before.training, now.training)),
    ]
    return tuple(f"{key} was {then!r}, is {is_!r}" for key, then, is_ in pairs if then != is_)


def _task(before: TaskSettings, now: TaskSettings) -> Iterable[tuple[str, tuple[object, object]]]:
    keys = [
        key for key in asdict(now) if key != "data_dir" or now.dataset in ("imagenet", "folder")
    ]

    def value(task: TaskSettings, key: str) -> object:
        return task.reads(key) if key in DATASETS[task.dataset] else getattr(task, key)

    return [(key, (value(before, key), value(now, key))) for key in keys]


def _training(
    before: TrainingSettings, now: TrainingSettings
) -> Iterable[tuple[str, tuple[object, object]]]:
    keys = [key for key in asdict(now) if key not in TRIAL_TRAINING]
    return [(key, (getattr(before, key), getattr(now, key))) for key in keys]
