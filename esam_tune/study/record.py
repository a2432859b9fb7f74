"""What is known about a study: rebuilt from its journal, without Ray, Optuna or MLflow."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from esam_tune import journal, pareto_front
from esam_tune.errors import InputError, escaped, one_line
from esam_tune.intervals import Interval
from esam_tune.journal import Event
from esam_tune.metrics import METRICS
from esam_tune.pareto_front import Rule
from esam_tune.study.space import parse_space
from esam_tune.study.spec import StudySpec
from esam_tune.study.trial_record import RunRecord, TrialRecord
from esam_tune.tracking.store import local_uri
from esam_tune.worker_scaling import ORIGIN_WORKERS

_Spread = TypeVar("_Spread", float, Interval)

_UNBOUNDED: Mapping[str, float] = MappingProxyType({})


class StudyRecord:
    """The state of a study after the events seen so far.

    Args:
        spec: the study as asked for.
        workers_per_trial: of every trial.
        tracking_uri: where its runs are logged, without credentials.
    """

    def __init__(self, spec: StudySpec, workers_per_trial: int, tracking_uri: str) -> None:
        self.spec = spec
        self.workers_per_trial = workers_per_trial
        self.tracking_uri = tracking_uri
        self.trials: dict[str, TrialRecord] = {}
        self.runs: dict[str, RunRecord] = {}

    @classmethod
    def from_journal(cls, path: Path) -> "StudyRecord":
        """Read a study back.

        Raises:
            JournalError: when the journal is damaged or does not begin with the study.
        """
        record: StudyRecord | None = None
        for event, end in journal.read(path):
            try:
                if record is None:
                    record = cls._begun_by(event, path)
                record.apply(event)
            except InputError:
                raise
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise journal.JournalError(
                    path,
                    f"holds something that no study writes, before byte {end} "
                    f"({type(error).__name__}: {error})",
                ) from error
        if record is None:
            raise journal.JournalError(path, "is empty")
        return record

    @classmethod
    def _begun_by(cls, event: Event, path: Path) -> "StudyRecord":
        """The study that a journal's first event tells of."""
        if event["event"] != journal.STUDY:
            raise journal.JournalError(path, "does not begin with a study")
        spec = parse_space(event["space"], default_name=path.parent.name)
        uri = event["tracking_uri"] or local_uri(path.parent.parent)
        return cls(spec, event["workers_per_trial"], uri)

    def apply(self, event: Event) -> None:
        """Take one event in."""
        kind = event["event"]
        if kind == journal.BUDGET:
            self.spec = parse_space(event["space"], default_name=self.spec.name)
        elif kind == journal.TRIAL_START:
            self.trials[event["trial_id"]] = TrialRecord(
                trial_id=event["trial_id"],
                # A folder may have come from elsewhere, and a terminal acts on what it shows.
                label=escaped(event["label"]),
                params=event["params"],
                baseline=event["baseline"],
                optuna_number=event["optuna_number"],
                seeds=self.spec.seeds,
                runs=[self._begun(event, event["trial_id"])],
            )
        elif kind == journal.REPLICATE_START:
            self.trials[event["of"]].runs.append(self._begun(event, event["of"]))
        elif kind == journal.EPOCH:
            run = self.runs[event["trial_id"]]
            run.metrics, run.epochs = event["metrics"], int(event["metrics"]["epoch"])
            # An epoch that is told again, after a checkpoint before it, takes its place; for one
            # that was lost with a worker group's driver the next one stands in.
            reached = event["metrics"].get(self.spec.accuracy_metric)
            del run.accuracies[run.epochs - 1 :]
            run.accuracies += [reached] * (run.epochs - len(run.accuracies))
            run.workers = run.group
        elif kind == journal.WORKERS:
            self.runs[event["trial_id"]].group = event["setup"]["workers"]
        elif kind == journal.CHECKPOINT:
            self.runs[event["trial_id"]].checkpoints.append(event["path"])
        elif kind == journal.TRIAL_END:
            run = self.runs[event["trial_id"]]
            reason = event["reason"]
            run.state, run.reason = event["state"], reason and one_line(reason)

    def _begun(self, event: Event, trial_id: str) -> RunRecord:
        run = RunRecord(
            run_id=event["trial_id"],
            trial_id=trial_id,
            # Journals of before there were several seeds do not say it.
            seed=event.get("seed", self.spec.seed),
        )
        self.runs[run.run_id] = run
        return run

    @property
    def finished(self) -> list[TrialRecord]:
        """Trials that have ended, in the order they started."""
        return [trial for trial in self.trials.values() if trial.state != "running"]

    @property
    def complete(self) -> list[TrialRecord]:
        """Trials trained to the end with finite objectives, in the order they started."""
        return [trial for trial in self.trials.values() if trial.state == "complete"]

    @property
    def remaining(self) -> int:
        """Search trials of the budget that have not started."""
        return self.spec.trials - sum(not trial.baseline for trial in self.trials.values())

    def front(
        self,
        maximum: Mapping[str, float] = _UNBOUNDED,
        minimum: Mapping[str, float] = _UNBOUNDED,
    ) -> list[TrialRecord]:
        """Non-dominated trials among the complete ones that keep the constraints, by cost.

        Args:
            maximum: metric -> upper bound, in place of the study's own for that metric.
            minimum: metric -> lower bound, likewise.

        Raises:
            ValueError: for a constraint on an unknown metric.
        """
        trials = self.complete
        costs, mask = self._front(trials, maximum, minimum)
        column = list(self.spec.objectives).index(self.spec.cost_metric)
        rows = sorted(np.flatnonzero(mask), key=lambda row: (costs[row, column], row))
        return [trials[row] for row in rows]

    def pick(
        self,
        rule: Rule,
        maximum: Mapping[str, float] = _UNBOUNDED,
        minimum: Mapping[str, float] = _UNBOUNDED,
    ) -> TrialRecord | None:
        """The front's trial that the rule chooses, or None when the front is empty."""
        trials = self.complete
        costs, mask = self._front(trials, maximum, minimum)
        names = list(self.spec.objectives)
        # A pick weighs accuracy against cost, whatever else the front was made of.
        columns = [names.index(self.spec.accuracy_metric), names.index(self.spec.cost_metric)]
        row = pareto_front.pick(costs[:, columns], mask, rule, accuracy=0, cost=1)
        return None if row is None else trials[row]

    def bounds(
        self,
        maximum: Mapping[str, float] = _UNBOUNDED,
        minimum: Mapping[str, float] = _UNBOUNDED,
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Upper and lower bounds in force: the study's own under those that were asked for now."""
        own = [c for c in self.spec.constraints if c.metric not in {*maximum, *minimum}]
        upper = {c.metric: c.bound for c in own if c.relation == "<="}
        lower = {c.metric: c.bound for c in own if c.relation == ">="}
        return {**upper, **maximum}, {**lower, **minimum}

    def tied_with(self, trial: TrialRecord) -> list[TrialRecord]:
        """Complete trials whose accuracy cannot be told apart from a trial's, by 95 % intervals.

        Each comparison stands alone: of twenty truly equal settings, about one is told apart.
        """
        metric = self.spec.accuracy_metric
        others = (other for other in self.complete if other is not trial)
        return [other for other in others if trial.tied_with(other, metric)]

    def infeasible(self, trial: TrialRecord) -> list[str]:
        """The study's constraints that a trial breaks, in words; empty when it keeps them."""
        return [
            f"{c.metric} {c}"
            for c in self.spec.constraints
            if c.excess(trial.values([c.metric])[0]) > 0
        ]

    def _front(
        self,
        trials: list[TrialRecord],
        maximum: Mapping[str, float],
        minimum: Mapping[str, float],
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        objectives = self.spec.objectives
        values = np.array([trial.values(objectives) for trial in trials], dtype=float)
        costs = pareto_front.minimised(
            values.reshape(len(trials), len(objectives)), list(objectives.values())
        )
        columns = {key: np.array([trial.values([key])[0] for trial in trials]) for key in METRICS}
        upper, lower = self.bounds(maximum, minimum)
        mask = pareto_front.feasible(columns, upper, lower)
        # Constraints come first: what they exclude must not dominate what they allow.
        costs = np.where(mask[:, None], costs, np.nan)
        return costs, pareto_front.front(costs)

    def document(
        self,
        *,
        storage: Path,
        run_ids: Mapping[str, str],
        parent_run_id: str | None,
        front: list[TrialRecord],
        chosen: TrialRecord | None,
    ) -> dict[str, Any]:
        """The JSON document that ``sweep`` and ``pareto`` print."""
        return {
            "study": self.spec.name,
            "storage": str(storage),
            "tracking_uri": self.tracking_uri,
            "parent_run_id": parent_run_id,
            "objectives": dict(self.spec.objectives),
            "constraints": {c.metric: str(c) for c in self.spec.constraints},
            "trials": [
                {
                    "trial_id": trial.trial_id,
                    "state": trial.state,
                    "baseline": trial.baseline,
                    "label": trial.label,
                    "reason": trial.reason,
                    "params": trial.params,
                    "metrics": trial.metrics,
                    "stderr": self._spread(trial, trial.stderr),
                    "interval": self._spread(trial, trial.interval),
                    "runs": [
                        {
                            "run_id": run.run_id,
                            "seed": run.seed,
                            "state": run.state,
                            "reason": run.reason,
                            "metrics": run.metrics,
                            "mlflow_run_id": run_ids.get(run.run_id),
                        }
                        for run in trial.runs
                    ],
                    "infeasible": self.infeasible(trial) if trial.state == "complete" else None,
                    "mlflow_run_id": run_ids.get(trial.trial_id),
                }
                for trial in self.finished
            ],
            "front": [trial.trial_id for trial in front],
            "chosen": chosen and self.chosen_document(chosen),
            "tied_with_chosen": chosen and [trial.trial_id for trial in self.tied_with(chosen)],
        }

    def _spread(
        self, trial: TrialRecord, of: Callable[[str], _Spread | None]
    ) -> dict[str, _Spread] | None:
        """What the seeds say of each objective's mean; None with fewer than two of them."""
        spread = {key: of(key) for key in self.spec.objectives}
        return {key: value for key, value in spread.items() if value is not None} or None

    def chosen_document(self, trial: TrialRecord) -> dict[str, Any]:
        """A trial with the settings document that trains it."""
        origin = {
            "study": self.spec.name,
            "trial_id": trial.trial_id,
            ORIGIN_WORKERS: trial.workers or self.workers_per_trial,
            "metrics": {key: trial.metrics.get(key) for key in self.spec.objectives},
        }
        settings = self.spec.settings(trial.params, origin).to_dict()
        return {"trial_id": trial.trial_id, "settings": settings}
