"""A study's runs on a tracking server: a parent, a child a trial, a grandchild a further seed.

Whatever is sent twice arrives once: runs are found again by their tags, MLflow keeps one copy of a
metric with the same step, time and value, and all else replaces what was there.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from esam_tune import journal
from esam_tune.journal import Event
from esam_tune.tracking.cursor import Cursor
from esam_tune.tracking.page import StudyPage, log_artifact
from esam_tune.tracking.store import (
    REASON_TAG,
    experiment,
    log_dataset,
    log_metrics,
    log_params,
    log_tags,
    points,
)
from esam_tune.tracking.view import View

_STUDY_TAG = "esam_tune.study_id"
_TRIAL_TAG = "esam_tune.trial_id"
_KIND_TAG = "esam_tune.kind"
_STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
_STUDY_STATUS = {"done": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


class NoRunError(Exception):
    """An event's run was never made, as the server refused to."""


class StudyRuns:
    """Turns events into runs.

    Args:
        client: of MLflow.
        cursor: names the runs; kept up to date.
        artifact_root: where artifacts go, or None for the server's own choice.
        folder: of the study, where relative paths of artifacts begin.
        view: of the study, as far as it has been read.
    """

    def __init__(
        self, client: Any, cursor: Cursor, artifact_root: Path | None, folder: Path, view: View
    ) -> None:
        self._client = client
        self.cursor = cursor
        self._artifact_root = artifact_root
        self._folder = folder
        self._view = view
        self._started: Event = {}
        self._space: dict[str, Any] = {}
        self._ended: Event | None = None
        self._params: dict[str, dict[str, Any]] = {}
        self._of: dict[str, str] = {}
        self._spreads: dict[str, tuple[int, dict[str, float]] | None] = {}
        self._experiment_id = ""
        self._page = StudyPage(client)

    def observe(self, event: Event) -> None:
        """Take an event in without sending it: each of the journal, once, in order."""
        kind = event["event"]
        if kind == journal.STUDY:
            self._started, self._space = event, event["space"]
        elif kind == journal.BUDGET:
            self._space = event["space"]
        elif kind == journal.TRIAL_START:
            self._params[event["trial_id"]] = event["params"]
        elif kind == journal.REPLICATE_START:
            self._of[event["trial_id"]] = event["of"]
        elif kind == journal.STUDY_RESUME:
            self._ended = None
        elif kind == journal.STUDY_END:
            self._ended = event
        self._view.apply(event)
        if kind == journal.TRIAL_END:
            # As it is at this event, whenever that is sent.
            trial_id = self._trial_of(event)
            self._spreads[event["trial_id"]] = self._view.spread(trial_id)

    def find(self) -> None:
        """Learn what the server holds; of a run that it made twice, remove the second.

        A request whose answer was lost may have been carried out, or may still be, after another
        one in its place.
        """
        self._experiment_id = experiment(self._client, self._artifact_root)
        condition = f"tags.`{_STUDY_TAG}` = '{self._started['study_id']}'"
        found = list(self._search(condition))
        studies = [run for run in found if run.data.tags.get(_KIND_TAG) == "study"]
        above = [run.data.tags.get("mlflow.parentRunId") for run in found]
        if self.cursor.parent_run_id not in [run.info.run_id for run in studies]:
            # The one that has children, if another process was here first. None is left where the
            # server has lost its database: then the study is sent anew.
            studies.sort(key=lambda run: (-above.count(run.info.run_id), run.info.run_id))
            if self.cursor.parent_run_id is not None:
                self.cursor.forget()
            self.cursor.parent_run_id = studies[0].info.run_id if studies else None
        children: dict[str, list[Any]] = {}
        for run in sorted(found, key=lambda run: str(run.info.run_id)):
            if run not in studies:
                children.setdefault(run.data.tags[_TRIAL_TAG], []).append(run)
        second = [run for run in studies if run.info.run_id != self.cursor.parent_run_id]
        for trial_id, runs in children.items():
            ids = [run.info.run_id for run in runs]
            known = self.cursor.run_ids.get(trial_id)
            kept = ids[0] if known is None or known not in ids else known
            self.cursor.run_ids[trial_id] = kept
            second += [run for run in runs if run.info.run_id != kept]
        for run in second:
            self._client.delete_run(run.info.run_id)
        self._page.forget()
        for run in found:
            self._page.know(str(run.info.run_id), run.info.status, run.data.tags)

    def _trial_of(self, event: Event) -> str:
        run = str(event["trial_id"])
        return self._of.get(run, run)

    def run_of(self, event: Event) -> str:
        """The run that an event belongs to.

        Raises:
            NoRunError: when it was never made.
        """
        try:
            return self.cursor.run_ids[event["trial_id"]]
        except KeyError:
            raise NoRunError(f"run {event['trial_id']} was refused") from None

    def send(self, event: Event) -> None:
        """Send one event, of any kind but epochs, which are sent many at a time."""
        kind = event["event"]
        if kind == journal.STUDY:
            self._start_study(event)
        elif kind == journal.BUDGET:
            self._send_space()
        elif kind in (journal.TRIAL_START, journal.REPLICATE_START):
            self._start_trial(event)
        elif kind == journal.WORKERS:
            log_tags(self._client, self.run_of(event), _setup_tags(event))
        elif kind == journal.TRIAL_END:
            self._end_trial(event)
        elif kind == journal.STUDY_END:
            for path in event["artifacts"]:
                log_artifact(self._client, str(self.cursor.parent_run_id), self._folder, path)

    def send_metrics(self, events: Iterable[Event]) -> None:
        """Send the metrics of epochs."""
        metrics: dict[str, list[tuple[str, float, int, int]]] = {}
        for event in events:
            logged = points(event["metrics"], _milliseconds(event))
            metrics.setdefault(self.run_of(event), []).extend(logged)
        for run_id, listed in metrics.items():
            log_metrics(self._client, run_id, listed)

    def send_view(self) -> None:
        """Bring up to date what may change: the parent's state and description, and all marks."""
        parent, ended = str(self.cursor.parent_run_id), self._ended
        self._page.show_status(
            parent,
            "RUNNING" if ended is None else _STUDY_STATUS[ended["state"]],
            None if ended is None else _milliseconds(ended),
        )
        marks = self._view.marks()
        for trial_id, run_id in self.cursor.run_ids.items():
            self._page.show_tags(run_id, marks.get(trial_id, {}))
        chosen = [trial_id for trial_id, tags in marks.items() if "chosen" in tags]
        self._page.show_tags(parent, {"chosen": chosen[0]} if chosen else {})
        artifacts = () if ended is None else ended["artifacts"]
        self._page.show_description(parent, self._view.description(), artifacts)

    def write_probe(self, text: str) -> None:
        """Write a tag of no consequence: what fails while this succeeds, fails for its content."""
        self._client.set_tag(self.cursor.parent_run_id, "esam_tune.last_trouble", text)

    def _search(self, condition: str) -> Iterable[Any]:
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment_id], filter_string=condition, page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return

    def _start_study(self, event: Event) -> None:
        space = event["space"]
        dataset = event.get("dataset")
        if self.cursor.parent_run_id is None:
            tags = {
                _STUDY_TAG: event["study_id"],
                _KIND_TAG: "study",
                "study": space["name"],
                "task": space["task"]["dataset"],
                "model": space["task"]["model"],
                "seed": str(space["seed"]),
                "device": event.get("device"),
                "git_commit": event.get("git_commit"),
                "mlflow.source.name": "esam-tune sweep",
                "mlflow.source.git.commit": event.get("git_commit"),
                **{f"version.{name}": number for name, number in event["versions"].items()},
            }
            self.cursor.parent_run_id = self._create(event, space["name"], tags)
        params = {
            **{f"task.{key}": value for key, value in space["task"].items()},
            **{f"training.{key}": value for key, value in space["training"].items()},
            **{f"objective.{key}": value for key, value in space["objectives"].items()},
            **{f"search.{key}": json.dumps(value) for key, value in space["search"].items()},
            "seed": space["seed"],
            "workers_per_trial": event["workers_per_trial"],
        }
        log_params(self._client, self.cursor.parent_run_id, params)
        if dataset is not None:
            log_dataset(self._client, self.cursor.parent_run_id, dataset)
        self._send_space()

    def _send_space(self) -> None:
        """The space in force, whichever event asks for it: an older one is not to come back."""
        self._client.log_dict(self.cursor.parent_run_id, self._space, "space.yaml")
        trials = {"esam_tune.trials": str(self._space["trials"])}
        log_tags(self._client, str(self.cursor.parent_run_id), trials)

    def _start_trial(self, event: Event) -> None:
        trial_id = str(event["trial_id"])
        params, setup = self._params[self._trial_of(event)], _setup_tags(event)
        if trial_id not in self.cursor.run_ids:
            tags: dict[str, str | None] = {
                _STUDY_TAG: self._started["study_id"],
                _TRIAL_TAG: trial_id,
                "study": self._space["name"],
                "seed": str(event["seed"]) if "seed" in event else None,
            }
            if event["event"] == journal.REPLICATE_START:
                name = f"seed {event['seed']}"
                above: str | None = self.run_of({"trial_id": event["of"]})
                tags[_KIND_TAG] = "seed"
            else:
                name, above = event["label"], self.cursor.parent_run_id
                tags[_KIND_TAG] = "baseline" if event["baseline"] else "search"
                if event["baseline"]:
                    tags["baseline"] = "true"
            tags["mlflow.parentRunId"] = above
            self.cursor.run_ids[trial_id] = self._create(event, name, tags | setup)
        else:
            log_tags(self._client, self.cursor.run_ids[trial_id], setup)
        log_params(self._client, self.cursor.run_ids[trial_id], params)

    def _create(self, event: Event, name: str, tags: Mapping[str, str | None]) -> str:
        given = {key: value for key, value in tags.items() if value is not None}
        start = _milliseconds(event)
        run = self._client.create_run(
            self._experiment_id, start_time=start, run_name=name, tags=given
        )
        return str(run.info.run_id)

    def _end_trial(self, event: Event) -> None:
        run_id = self.run_of(event)
        tags = {"esam_tune.state": event["state"]}
        if event["state"] == "pruned":
            tags["pruned"] = "true"
        if event["reason"]:
            tags[REASON_TAG] = event["reason"]
        log_tags(self._client, run_id, tags)
        self._client.set_terminated(run_id, _STATUS[event["state"]], end_time=_milliseconds(event))
        spread = self._spreads[event["trial_id"]]
        if spread is not None:
            seeds, values = spread
            logged = [(key, value, _milliseconds(event), seeds) for key, value in values.items()]
            log_metrics(self._client, self.run_of({"trial_id": self._trial_of(event)}), logged)


def _setup_tags(event: Event) -> dict[str, str]:
    """What a trial's worker count makes of it: tags, as the count may change."""
    setup = event.get("setup") or {}
    return {f"esam_tune.{key}": str(value) for key, value in setup.items() if value is not None}


def _milliseconds(event: Event) -> int:
    return int(event["time"] * 1000)
