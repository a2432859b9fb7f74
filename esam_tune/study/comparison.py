"""Trials of one stored study, or of several that can be compared, on one front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.table import Table

from esam_tune.errors import InputError, choose_from
from esam_tune.pareto_front import RULES, Rule
from esam_tune.study.common_record import check_comparable, on_one_front, study_and_trial
from esam_tune.study.folder import StudyFolder
from esam_tune.study.front_table import front_table
from esam_tune.study.html_table import html_table
from esam_tune.study.record import StudyRecord
from esam_tune.study.results import (
    DEFAULT_RULE,
    check_bounds,
    export_settings,
    summarise,
    trial_row,
)
from esam_tune.study.trial_record import TrialRecord


@dataclass(frozen=True, kw_only=True)
class Pick:
    """A setting to carry on with.

    Args:
        study: it is of.
        trial_id: in that study.
        label: for people.
        rule: by which it was picked.
        params: complete.
        metrics: of the last epoch, means over the seeds, each in its own unit.
        interval: the 95 % interval of each objective's mean; empty for one seed.
        tied: trials whose accuracy cannot be told apart from its own, by 95 % intervals of the
            difference over common seeds; of several studies, each as ``STUDY/TRIAL``.
        settings: the document that trains it, as a settings file holds it.
    """

    study: str
    trial_id: str
    label: str
    rule: Rule
    params: Mapping[str, Any]
    metrics: Mapping[str, float | None]
    interval: Mapping[str, tuple[float, float]]
    tied: Sequence[str]
    settings: Mapping[str, Any]


class Comparison:
    """Stored studies' trials on one front, under constraints, with a pick.

    Each study's own constraints hold for all of them, the tightest where several bound a metric;
    ``maximum`` and ``minimum`` take their place for the metrics that they name. Runs of one seed
    share initial weights and batches across studies of one task and training, so that ties are
    told seed by seed as within one study.

    Args:
        folders: of the studies, one at least.
        rule: of the pick.
        maximum: metric -> upper bound, in the metric's unit.
        minimum: metric -> lower bound, likewise.

    Raises:
        InputError: for a study that is not there or is named twice, studies of other objectives,
            tasks or training, an unknown rule, and constraints that cannot be used.
    """

    def __init__(
        self,
        folders: Sequence[StudyFolder],
        *,
        rule: Rule = DEFAULT_RULE,
        maximum: Mapping[str, float] = MappingProxyType({}),
        minimum: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        if rule not in RULES:
            raise InputError("--pick", f"unknown rule {rule!r}", choose_from(RULES, rule))
        check_bounds(maximum, minimum)
        self.rule: Rule = rule
        self._maximum, self._minimum = maximum, minimum
        self._folders = tuple(folders)
        self._records: dict[str, StudyRecord] = {}
        for folder in self._folders:
            if folder.name in self._records:
                raise InputError("STUDY", f"{folder.name!r} is named twice", "name it once")
            self._records[folder.name] = folder.record()
        check_comparable(self._records)
        self.record = on_one_front(self._records)
        self._check_constraints()

    @property
    def studies(self) -> list[str]:
        """Names, in the order given."""
        return list(self._records)

    @property
    def several(self) -> bool:
        """Whether trials are of more than one study, and named ``STUDY/TRIAL``."""
        return len(self._records) > 1

    @cached_property
    def members(self) -> list[TrialRecord]:
        """The front's trials, by cost."""
        return self.record.front(self._maximum, self._minimum)

    @cached_property
    def _member_ids(self) -> set[str]:
        return {trial.trial_id for trial in self.members}

    @cached_property
    def picked(self) -> TrialRecord | None:
        """The trial that the rule picks; None when no complete one keeps the constraints."""
        return self.record.pick(self.rule, self._maximum, self._minimum)

    @property
    def tied(self) -> list[TrialRecord]:
        """Trials whose accuracy cannot be told apart from the picked one's."""
        return [] if self.picked is None else self.record.tied_with(self.picked)

    @property
    def chosen(self) -> Pick | None:
        """The picked trial with its settings, or None."""
        if self.picked is None:
            return None
        study, trial = self._origin(self.picked)
        intervals = {key: trial.interval(key) for key in self.record.spec.objectives}
        return Pick(
            study=study,
            trial_id=trial.trial_id,
            label=trial.label,
            rule=self.rule,
            params=dict(trial.params),
            metrics=dict(trial.metrics),
            interval={key: value for key, value in intervals.items() if value is not None},
            tied=[other.trial_id for other in self.tied],
            settings=self._records[study].chosen_document(trial)["settings"],
        )

    @property
    def front(self) -> list[dict[str, Any]]:
        """The front by cost, a flat row a trial, as ``pandas.DataFrame`` takes it."""
        return [self._row(trial) for trial in self.members]

    @property
    def trials(self) -> list[dict[str, Any]]:
        """All trials in the order they started, study by study; rows as in :attr:`front`."""
        return [self._row(trial) for trial in self.record.trials.values()]

    def table(self) -> Table:
        """The front and the baselines that are not on it, the picked trial marked."""
        return front_table(self.record, baselines=True, front=self.members, chosen=self.picked)

    def verdict(self) -> str:
        """What is picked and what cannot be told apart from it, on one line."""
        if self.picked is None:
            return "no complete trial keeps the constraints"
        line = f"pick by {self.rule}: trial {self.picked.trial_id}, {self.picked.label}"
        if self.tied:
            others = ", ".join(trial.trial_id for trial in self.tied)
            line += f"; tied with it in accuracy, by the seeds both ran: {others}"
        return line

    def __repr__(self) -> str:
        """Name the studies and the pick."""
        return f"<front of {', '.join(self.studies)}: {self.verdict()}>"

    def _repr_html_(self) -> str:
        """The table, as a notebook shows it."""
        caption = f"Pareto front of {', '.join(self.studies)}, then baselines that are not on it"
        return html_table(self.table(), caption, f"* {self.verdict()}")

    def document(self) -> dict[str, Any]:
        """What ``esam-tune pareto --json`` prints.

        Of one study, the document that ``sweep`` prints, too. Of several, ``studies`` holds that
        document of each, with its own front and pick under the same constraints; ``front``,
        ``chosen`` and ``tied_with_chosen`` are those of all together and name the study of each
        trial; ``constraints`` are those in force.
        """
        bounds = {"maximum": self._maximum, "minimum": self._minimum}
        documents = [
            summarise(folder, self._records[folder.name], rule=self.rule, **bounds)
            for folder in self._folders
        ]
        if not self.several:
            return documents[0]
        upper, lower = self.record.bounds(self._maximum, self._minimum)
        chosen = self.chosen
        return {
            "studies": documents,
            "objectives": dict(self.record.spec.objectives),
            "constraints": {"max": upper, "min": lower},
            "front": [self._named(trial) for trial in self.members],
            "chosen": chosen
            and {
                "study": chosen.study,
                "trial_id": chosen.trial_id,
                "settings": dict(chosen.settings),
            },
            "tied_with_chosen": chosen and [self._named(trial) for trial in self.tied],
        }

    def export(self, path: Path) -> Path:
        """Write the picked trial's settings file; its path.

        Args:
            path: of a YAML file; nothing else is written over.

        Raises:
            InputError: when there is no trial to export, or the file cannot be written.
        """
        if path.suffix not in (".yaml", ".yml"):
            problem = f"must end in .yaml or .yml, got {str(path)!r}"
            raise InputError("--export", problem, "choose another name")
        if self.picked is None:
            raise InputError("--export", "there is no trial to export", "loosen --max and --min")
        study, trial = self._origin(self.picked)
        try:
            export_settings(self._records[study], trial, path)
        except OSError as error:
            raise InputError(
                "--export",
                f"cannot write {str(path)!r} ({error.strerror})",
                "choose another path",
            ) from None
        return path

    def _origin(self, trial: TrialRecord) -> tuple[str, TrialRecord]:
        """The study that a trial on the common front is of, and the trial as it is known there."""
        if not self.several:
            (name,) = self._records
            return name, trial
        name, trial_id = study_and_trial(trial.trial_id)
        return name, self._records[name].trials[trial_id]

    def _named(self, trial: TrialRecord) -> dict[str, str]:
        study, own = self._origin(trial)
        return {"study": study, "trial_id": own.trial_id}

    def _row(self, trial: TrialRecord) -> dict[str, Any]:
        study, own = self._origin(trial)
        on_front = trial.trial_id in self._member_ids
        return {"study": study, **trial_row(self._records[study], own, on_front=on_front)}

    def _check_constraints(self) -> None:
        upper, lower = self.record.bounds(self._maximum, self._minimum)
        for key in upper.keys() & lower.keys():
            if lower[key] > upper[key]:
                raise InputError(
                    "--max",
                    f"{key} cannot be at least {lower[key]:g} and at most {upper[key]:g}, as the "
                    "constraints of the studies and those asked for have it together",
                    f"give {key} a --max and a --min of its own",
                )
