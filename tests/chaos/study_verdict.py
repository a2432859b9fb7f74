"""What a disturbed study has lost, or holds twice: in its journal, in MLflow, in Optuna."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna

from esam_tune import metrics as keys
from esam_tune.journal import Event
from esam_tune.study.spec import StudySpec
from esam_tune.tracking.store import connect, experiment, points

_TIMES = {keys.STEP_TIME_RATIO, keys.IMAGES_PER_SECOND, keys.EPOCH_SECONDS}
# Ids that a server draws at random, and places.
_PLACES = {"mlflow_run_id", "parent_run_id", "storage", "tracking_uri"}
# Of a trial's seeds, beside the history of its first run.
_OF_SEEDS = ("_mean", "_stderr")


@dataclass
class Verdict:
    """Counts, each of which is 0 for a study that lost nothing and repeated nothing.

    Args:
        trials_lost: runs that were asked for and not begun, or begun and not ended.
        trials_repeated: runs that begun or ended again, and settings that were searched again.
        metrics_missing: values of epochs that a run has been through and the journal lacks, and
            values of the journal that MLflow lacks.
        metrics_repeated: those that are there again.
        tracked_lost: runs without one of MLflow's, or with one in the wrong place or state.
        tracked_repeated: runs with a second one.
        sampler_off: trials that Optuna's study lacks, holds again, or holds as running.
    """

    trials_lost: int = 0
    trials_repeated: int = 0
    metrics_missing: int = 0
    metrics_repeated: int = 0
    tracked_lost: int = 0
    tracked_repeated: int = 0
    sampler_off: int = 0

    def figures(self) -> dict[str, int]:
        """The counts by name."""
        return {name.replace("_", " "): count for name, count in asdict(self).items()}


def verdict(spec: StudySpec, events: list[Event], uri: str, optuna_file: Path) -> Verdict:
    """Count what a finished study lacks or repeats.

    Args:
        spec: as asked for.
        events: of its journal.
        uri: of MLflow's store.
        optuna_file: SQLite database of the sampler.
    """
    found = Verdict()
    count_trials(found, spec, events)
    count_epochs(found, spec, events)
    count_tracked(found, events, uri)
    count_sampled(found, events, optuna_file)
    return found


def without_times(value: Any) -> Any:
    """A study's document without what depends on the clock, on a place, or on drawn ids."""
    if isinstance(value, dict):
        left_out = _TIMES | _PLACES
        return {key: without_times(item) for key, item in value.items() if key not in left_out}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def run_ids(spec: StudySpec, events: list[Event]) -> list[str]:
    """The runs that a finished study consists of: more seeds only of what its first completed."""
    trials = [f"{index:04d}" for index in range(spec.trials + len(spec.baselines))]
    complete = {
        event["trial_id"]
        for event in events
        if event["event"] == "trial_end" and event["state"] == "complete"
    }
    further = [f"{t}-s{seed}" for t in trials if t in complete for seed in range(1, spec.seeds)]
    return trials + further


def _extra(counted: Counter[Any]) -> int:
    return sum(count - 1 for count in counted.values() if count > 1)


def _ids(events: list[Event], *kinds: str) -> Counter[str]:
    return Counter(event["trial_id"] for event in events if event["event"] in kinds)


def count_trials(found: Verdict, spec: StudySpec, events: list[Event]) -> None:
    """Count runs that the journal lacks or repeats."""
    asked = set(run_ids(spec, events))
    begun, ended = _ids(events, "trial_start", "replicate_start"), _ids(events, "trial_end")
    found.trials_lost = len(asked - begun.keys()) + len(begun.keys() - ended.keys())
    searched = Counter(
        str(sorted(event["params"].items()))
        for event in events
        if event["event"] == "trial_start" and not event["baseline"]
    )
    unasked = len(begun.keys() - asked)
    found.trials_repeated = _extra(begun) + _extra(ended) + _extra(searched) + unasked


def count_epochs(found: Verdict, spec: StudySpec, events: list[Event]) -> None:
    """Count metrics that the journal lacks or repeats."""
    states = {e["trial_id"]: e["state"] for e in events if e["event"] == "trial_end"}
    reported: dict[str, list[Event]] = defaultdict(list)
    # What any run reports after an epoch, all do; some metrics come after the last epoch only.
    names: dict[int, set[str]] = defaultdict(set)
    for event in events:
        if event["event"] == "epoch":
            reported[event["trial_id"]].append(event["metrics"])
            names[int(event["metrics"][keys.EPOCH])] |= event["metrics"].keys()
    for run_id, state in states.items():
        counted = Counter(int(metrics[keys.EPOCH]) for metrics in reported[run_id])
        last = spec.training.epochs if state == "complete" else max(counted, default=1)
        for epoch in range(1, last + 1):
            found.metrics_missing += 0 if counted[epoch] else max(1, len(names[epoch]))
            found.metrics_repeated += max(0, counted[epoch] - 1) * len(names[epoch])
        for metrics in reported[run_id]:
            found.metrics_missing += len(names[int(metrics[keys.EPOCH])] - metrics.keys())


def count_tracked(found: Verdict, events: list[Event], uri: str) -> None:
    """Count runs and metrics of the journal that MLflow lacks or repeats."""
    client = connect(uri)
    runs = list(client.search_runs([experiment(client, None)], max_results=5000))
    by_kind = Counter(run.data.tags["esam_tune.kind"] for run in runs)
    found.tracked_repeated += by_kind["study"] - 1
    parents = [r for r in runs if r.data.tags["esam_tune.kind"] == "study"]
    found.tracked_lost += sum(run.info.status != "FINISHED" for run in parents)
    children = [run for run in runs if run not in parents]
    ids = {run.data.tags["esam_tune.trial_id"]: run.info.run_id for run in children}
    found.tracked_repeated += len(children) - len(ids)
    above = {e["trial_id"]: e.get("of") for e in events if e["event"].endswith("_start")}
    found.tracked_lost += len(above.keys() - ids.keys())
    ends = {e["trial_id"]: e["state"] for e in events if e["event"] == "trial_end"}
    statuses = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
    for run in children:
        trial_id = run.data.tags["esam_tune.trial_id"]
        of = above.get(trial_id)
        place = parents[0].info.run_id if of is None else ids.get(of)
        nested = run.data.tags.get("mlflow.parentRunId") == place
        found.tracked_lost += not (nested and run.info.status == statuses.get(ends[trial_id]))
    written = Counter(
        (event["trial_id"], key, step, value)
        for event in events
        if event["event"] == "epoch"
        for key, value, _, step in points(event["metrics"], 0)
    )
    held = Counter(_held(client, children))
    found.metrics_missing += (written - held).total()
    found.metrics_repeated += (held - written).total()


def _held(client: Any, runs: Iterable[Any]) -> Iterable[tuple[str, str, int, float]]:
    for run in runs:
        for key in run.data.metrics:
            if not key.endswith(_OF_SEEDS):
                for point in client.get_metric_history(run.info.run_id, key):
                    trial_id = run.data.tags["esam_tune.trial_id"]
                    yield trial_id, key, point.step, point.value


def count_sampled(found: Verdict, events: list[Event], file: Path) -> None:
    """Count search trials that Optuna's study lacks, repeats or has not been told the end of."""
    (name,) = optuna.get_all_study_names(f"sqlite:///{file}")
    study = optuna.load_study(study_name=name, storage=f"sqlite:///{file}")
    stored = [t for t in study.get_trials() if "esam_tune.turned_down" not in t.user_attrs]
    known = Counter(trial.user_attrs["esam_tune.trial_id"] for trial in stored)
    searched = {
        event["trial_id"]
        for event in events
        if event["event"] == "trial_start" and not event["baseline"]
    }
    running = sum(not trial.state.is_finished() for trial in study.get_trials())
    found.sampler_off = len(searched - known.keys()) + _extra(known) + running
