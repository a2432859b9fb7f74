"""What a scaling study compares: methods, worker counts, and how the batch follows the count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

from esam_tune.config import TRIAL_TRAINING, TrialSettings, complete_params
from esam_tune.domains import COUNT, Value
from esam_tune.errors import InputError, choose_from
from esam_tune.scaling.records import Cell
from esam_tune.worker_scaling import (
    FIXED_GLOBAL,
    PER_WORKER,
    ScaledSettings,
    WorkerRule,
    check_shares,
    scale_settings,
)

Mode = Literal["strong", "weak"]

SGD, SAM, CHOSEN = "sgd", "sam", "chosen"
_OPTION = "--workers"


@dataclass(frozen=True, kw_only=True)
class Design:
    """What is measured.

    Args:
        methods: key -> settings; ``sgd``, ``sam`` and, unless it is one of them, ``chosen``.
        counts: worker counts, ascending, from 1.
        mode: ``strong`` shares one batch out among the workers, ``weak`` gives each its own.
        rule: what becomes of batch and learning rate.
    """

    methods: Mapping[str, TrialSettings]
    counts: Sequence[int]
    mode: Mode
    rule: WorkerRule

    @property
    def chosen(self) -> str:
        """Key of the method whose settings the study was given."""
        return list(self.methods)[-1]

    def scaled(self, method: str, workers: int) -> ScaledSettings:
        """A method's settings at a count."""
        return scale_settings(self.methods[method], workers, self.rule)

    def batch_size(self, workers: int) -> int:
        """Rows of a step, over all workers."""
        return self._batch_of_one if self.mode == "strong" else self._batch_of_one * workers

    @cached_property
    def _batch_of_one(self) -> int:
        return self.scaled(self.chosen, 1).effective.batch_size

    def rows(self, workers: int) -> float:
        """Rows of each worker; a fraction where a batch cannot be shared out evenly."""
        return self.batch_size(workers) / workers

    def reachable(self, workers: int) -> bool:
        """Whether every worker has a row to work on."""
        return self.rows(workers) >= 1

    def cells(self) -> list[Cell]:
        """What is timed: every method at every count, and one worker at every count's rows."""
        cells = []
        for method in self.methods:
            solo: set[int] = set()
            for workers in self.counts:
                settings = self.scaled(method, workers).settings.to_dict()
                rows = int(self.rows(workers))
                for count in {workers, 1} if rows not in solo else {workers}:
                    if count == 1:
                        solo.add(rows)
                    cells.append(Cell(method=method, workers=count, rows=rows, settings=settings))
        return cells

    def trainings(self) -> list[Cell]:
        """Every method at every count, to be trained to its end."""
        return [
            Cell(
                method=method,
                workers=workers,
                rows=int(self.rows(workers)),
                settings=self.scaled(method, workers).settings.to_dict(),
            )
            for workers in self.counts
            for method in self.methods
        ]


def design(
    settings: TrialSettings, counts: Sequence[int], mode: str, lr_rule: str | None = None
) -> Design:
    """Lay out a study of a setting.

    Args:
        settings: the chosen setting.
        counts: worker counts.
        mode: ``strong`` or ``weak``.
        lr_rule: how the learning rate follows the batch, see :class:`WorkerRule`.

    Raises:
        InputError: for counts or a batch that do not fit together.
    """
    if mode not in get_args(Mode):
        modes = get_args(Mode)
        raise InputError(
            "--mode", f"must be {' or '.join(modes)}, got {mode!r}", choose_from(modes, mode)
        )
    ordered = check_counts(counts)
    if mode == "strong" and lr_rule not in (None, "none"):
        raise InputError(
            "--lr-rule",
            f"must be none where the global batch stays (--mode strong), got {lr_rule!r}",
            "use --mode weak, or leave --lr-rule out",
        )
    rule = WorkerRule(batch=FIXED_GLOBAL if mode == "strong" else PER_WORKER, lr=lr_rule)
    made = Design(
        methods=_methods(settings), counts=ordered, mode="strong" if mode == "strong" else "weak",
        rule=rule,
    )  # fmt: skip
    if mode == "strong":
        check_shares(settings.training.batch_size, ordered)
    made.cells()
    return made


def check_counts(counts: Sequence[int]) -> tuple[int, ...]:
    """The worker counts in order.

    Raises:
        InputError: when one is there twice, or one worker or any other count is missing.
    """
    for count in counts:
        COUNT.check(_OPTION, count)
    ordered = tuple(sorted(counts))
    shown = ",".join(map(str, counts))
    if len(set(ordered)) < len(ordered):
        raise InputError(_OPTION, f"must hold each count once, got {shown}", "leave one out")
    if 1 not in ordered or len(ordered) < 2:
        raise InputError(
            _OPTION,
            f"must hold 1, which speed-up is measured against, and a larger count, got {shown}",
            "write something like 1,2,4",
        )
    return ordered


def _methods(settings: TrialSettings) -> dict[str, TrialSettings]:
    """SGD, SAM at the setting's own rho, and the setting, each once."""
    kept = {key: value for key, value in settings.params.items() if key in TRIAL_TRAINING}
    rho = {key: settings.params[key] for key in ("rho",) if key in settings.params}

    def other(params: Mapping[str, Value]) -> TrialSettings:
        return replace(settings, params=complete_params("params", {**params, **kept}))

    methods = {
        SGD: other({"optimizer": "sgd"}),
        SAM: other({"optimizer": "sam", **rho}),
        CHOSEN: settings,
    }
    for key in (SGD, SAM):
        if methods[key].params == settings.params:
            # The chosen setting comes last: what the study is about.
            del methods[key]
            methods[key] = methods.pop(CHOSEN)
            break
    return methods
