"""The journal's way to MLflow: in a thread of its own, resumable, nothing twice.

A server that is slow or away delays the pictures, never the study.
"""

import json
import logging
import os
import threading
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from esam_tune import journal
from esam_tune.journal import Event
from esam_tune.tracking.store import (
    BATCH,
    VALUE_LENGTH,
    connect,
    error_text,
    experiment,
    log_params,
    points,
    without_credentials,
)

_log = logging.getLogger(__name__)

_STUDY_TAG = "esam_tune.study_id"
_TRIAL_TAG = "esam_tune.trial_id"
_POLL_SECONDS = 1.0
_LONGEST_WAIT = 30.0


@dataclass(kw_only=True)
class Cursor:
    """How far the journal has been shipped, and the runs made so far.

    Args:
        offset: bytes of the journal that the server has.
        parent_run_id: of the study's run.
        run_ids: trial id -> run id.
    """

    offset: int = 0
    parent_run_id: str | None = None
    run_ids: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> "Cursor":
        """Read a cursor; a fresh one when there is none or it is torn.

        Starting over is safe: runs are found again by their tags.
        """
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return cls()

    def save(self, path: Path) -> None:
        """Replace the file in one go."""
        scratch = path.with_suffix(".tmp")
        with scratch.open("w", encoding="utf-8") as file:
            json.dump(asdict(self), file)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)


class Tracker:
    """Ships a study's journal to MLflow in the background.

    What is sent twice after a crash arrives once: runs are found again by their tags, and MLflow
    keeps one copy of a metric with the same step, time and value.

    Args:
        uri: of the tracking server or store.
        artifact_root: where artifacts go, or None for the server's own choice.
        journal_path: of the study's journal.
        cursor_path: where to remember what was sent.
    """

    def __init__(
        self, uri: str, artifact_root: Path | None, journal_path: Path, cursor_path: Path
    ) -> None:
        self.cursor = Cursor.load(cursor_path)
        self._uri = uri
        self._artifact_root = artifact_root
        self._journal_path = journal_path
        self._cursor_path = cursor_path
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="tracker", daemon=True)
        self._client: Any = None
        # Whether the server may have runs that the cursor does not name.
        self._unsure = True
        self._complained = False

    def start(self) -> None:
        """Begin shipping."""
        self._thread.start()

    def close(self, timeout: float) -> bool:
        """Ship what is left and stop; whether all of it arrived within ``timeout`` seconds."""
        self._closing.set()
        self._thread.join(timeout)
        return not self._thread.is_alive() and self.cursor.offset == self._journal_size()

    def _journal_size(self) -> int:
        return self._journal_path.stat().st_size

    def _loop(self) -> None:
        wait = _POLL_SECONDS
        while True:
            last = self._closing.is_set()
            try:
                self._ship()
                wait, self._complained = _POLL_SECONDS, False
            except Exception as error:  # noqa: BLE001 - tracking must never end a study
                self._unsure = True
                if not self._complained:
                    _log.warning(
                        "MLflow at %s does not take records (%s); they are kept and sent later",
                        without_credentials(self._uri),
                        error_text(error, self._uri),
                    )
                self._complained = True
                wait = min(2 * wait, _LONGEST_WAIT)
            if last:
                return
            self._closing.wait(wait)

    def _ship(self) -> None:
        events = list(journal.read(self._journal_path, self.cursor.offset))
        if not events:
            return
        self._connect()
        metrics: dict[str, list[Any]] = defaultdict(list)
        for event, offset in events:
            if event["event"] == journal.EPOCH:
                metrics[self.cursor.run_ids[event["trial_id"]]] += points(
                    event["metrics"], _milliseconds(event)
                )
                continue
            self._send_metrics(metrics)
            self._send(event)
            self.cursor.offset = offset
            self.cursor.save(self._cursor_path)
        self._send_metrics(metrics)
        self.cursor.offset = events[-1][1]
        self.cursor.save(self._cursor_path)

    def _connect(self) -> None:
        if self._client is None:
            self._client = connect(self._uri)
        if self._unsure:
            self._find_runs()
            self._unsure = False

    def _find_runs(self) -> None:
        """Learn of children that were created without being noted down: a death or a lost reply."""
        if self.cursor.parent_run_id is None:
            return
        parent = self._client.get_run(self.cursor.parent_run_id)
        for run in self._search(
            parent.info.experiment_id, f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
        ):
            self.cursor.run_ids.setdefault(run.data.tags[_TRIAL_TAG], run.info.run_id)

    def _search(self, experiment_id: str, condition: str) -> Iterable[Any]:
        token = None
        while True:
            page = self._client.search_runs(
                [experiment_id], filter_string=condition, page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return

    def _send(self, event: Event) -> None:
        kind = event["event"]
        if kind == journal.STUDY:
            self._start_study(event)
        elif kind == journal.TRIAL_START:
            self._start_trial(event)
        elif kind == journal.WORKERS:
            self._tag_setup(event)
        elif kind == journal.TRIAL_END:
            self._end_trial(event)
        elif kind == journal.STUDY_RESUME:
            self._client.update_run(self.cursor.parent_run_id, status="RUNNING")
        elif kind == journal.BUDGET:
            self._client.log_dict(self.cursor.parent_run_id, event["space"], "space.yaml")
            self._client.set_tag(
                self.cursor.parent_run_id, "esam_tune.trials", str(event["space"]["trials"])
            )
        elif kind == journal.STUDY_END:
            self._end_study(event)

    def _start_study(self, event: Event) -> None:
        experiment_id = experiment(self._client, self._artifact_root)
        condition = f"tags.`{_STUDY_TAG}` = '{event['study_id']}'"
        earlier = next(iter(self._search(experiment_id, condition)), None)
        space = event["space"]
        if earlier is None:
            earlier = self._client.create_run(
                experiment_id,
                start_time=_milliseconds(event),
                run_name=space["name"],
                tags={
                    _STUDY_TAG: event["study_id"],
                    "esam_tune.study": space["name"],
                    "esam_tune.kind": "study",
                    "mlflow.note.content": space["description"],
                    **{f"esam_tune.{key}": value for key, value in event["versions"].items()},
                },
            )
        self.cursor.parent_run_id = earlier.info.run_id
        self._find_runs()
        params = {
            **{f"task.{key}": value for key, value in space["task"].items()},
            **{f"training.{key}": value for key, value in space["training"].items()},
            **{f"objective.{key}": value for key, value in space["objectives"].items()},
            **{f"search.{key}": json.dumps(value) for key, value in space["search"].items()},
            "trials": space["trials"],
            "seed": space["seed"],
            "workers_per_trial": event["workers_per_trial"],
        }
        log_params(self._client, self.cursor.parent_run_id, params)
        self._client.log_dict(self.cursor.parent_run_id, space, "space.yaml")

    def _start_trial(self, event: Event) -> None:
        trial_id = event["trial_id"]
        if trial_id not in self.cursor.run_ids:
            parent = self._client.get_run(self.cursor.parent_run_id)
            run = self._client.create_run(
                parent.info.experiment_id,
                start_time=_milliseconds(event),
                run_name=event["label"],
                tags={
                    "mlflow.parentRunId": parent.info.run_id,
                    _TRIAL_TAG: trial_id,
                    "esam_tune.study": parent.data.tags["esam_tune.study"],
                    "esam_tune.kind": "baseline" if event["baseline"] else "search",
                },
            )
            self.cursor.run_ids[trial_id] = run.info.run_id
        self._tag_setup(event)
        log_params(self._client, self.cursor.run_ids[trial_id], event["params"])

    def _tag_setup(self, event: Event) -> None:
        """Tag a trial with what its worker count makes of it; a tag, as the count may change."""
        for key, value in event.get("setup", {}).items():
            if value is not None:
                run_id = self.cursor.run_ids[event["trial_id"]]
                self._client.set_tag(run_id, f"esam_tune.{key}", str(value))

    def _end_trial(self, event: Event) -> None:
        run_id = self.cursor.run_ids[event["trial_id"]]
        self._client.set_tag(run_id, "esam_tune.state", event["state"])
        if event["reason"]:
            self._client.set_tag(run_id, "esam_tune.reason", event["reason"][:VALUE_LENGTH])
        status = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}[event["state"]]
        self._client.set_terminated(run_id, status, end_time=_milliseconds(event))

    def _end_study(self, event: Event) -> None:
        parent = self.cursor.parent_run_id
        for path in event["artifacts"]:
            self._client.log_artifact(parent, path)
        for trial_id, run_id in self.cursor.run_ids.items():
            for place in ("front", "dominated"):
                if trial_id in event[place]:
                    self._client.set_tag(run_id, "esam_tune.pareto", place)
        if event["chosen"]:
            self._client.set_tag(parent, "esam_tune.chosen", event["chosen"])
        status = {"done": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}[event["state"]]
        self._client.set_terminated(parent, status, end_time=_milliseconds(event))

    def _send_metrics(self, metrics: dict[str, list[Any]]) -> None:
        for run_id, listed in metrics.items():
            for start in range(0, len(listed), BATCH):
                self._client.log_batch(run_id, metrics=listed[start : start + BATCH])
        metrics.clear()


def _milliseconds(event: Event) -> int:
    return int(event["time"] * 1000)
