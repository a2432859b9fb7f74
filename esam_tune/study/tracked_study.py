"""A study as its runs on the tracking server show it, and the tracker that ships it there."""

from __future__ import annotations

from esam_tune import journal
from esam_tune.journal import Event
from esam_tune.study.description import describe_study
from esam_tune.study.folder import StudyFolder
from esam_tune.study.record import StudyRecord
from esam_tune.study.results import DEFAULT_RULE
from esam_tune.study.space import parse_space
from esam_tune.tracking.cursor import cursor_for
from esam_tune.tracking.spool import Tracker
from esam_tune.tracking.store import artifact_root


class TrackedStudy:
    """A record of its own, which follows the journal as it is shipped.

    The tracker's thread reads it while the study's own record changes in another.
    """

    def __init__(self) -> None:
        self._record: StudyRecord | None = None

    @property
    def record(self) -> StudyRecord:
        """The study so far; the journal's first event makes it."""
        assert self._record is not None
        return self._record

    def apply(self, event: Event) -> None:
        """Take the journal's next event in."""
        if event["event"] == journal.STUDY:
            spec = parse_space(event["space"], default_name=event["space"]["name"])
            self._record = StudyRecord(spec, event["workers_per_trial"], "")
        self.record.apply(event)

    def description(self) -> str:
        """The study for people, in Markdown."""
        return describe_study(self.record, DEFAULT_RULE)

    def marks(self) -> dict[str, dict[str, str]]:
        """Trial id -> where it stands: ``pareto`` front, dominated or infeasible; ``chosen``."""
        record = self.record
        front = {trial.trial_id for trial in record.front()}
        chosen = record.pick(DEFAULT_RULE)
        marks = {}
        for trial in record.complete:
            place = "infeasible" if record.infeasible(trial) else "dominated"
            marks[trial.trial_id] = {"pareto": "front" if trial.trial_id in front else place}
        if chosen is not None:
            marks[chosen.trial_id]["chosen"] = "true"
        return marks

    def spread(self, trial_id: str) -> tuple[int, dict[str, float]] | None:
        """Seeds, means and standard errors of a trial's objectives, once no seed is running."""
        trial = self.record.trials[trial_id]
        if any(run.state == "running" for run in trial.runs):
            return None
        found: dict[str, float] = {}
        for key in self.record.spec.objectives:
            mean, error = trial.metrics.get(key), trial.stderr(key)
            if mean is not None and error is not None:
                found |= {f"{key}_mean": mean, f"{key}_stderr": error}
        return (len(trial.complete_runs), found) if found else None


def tracker_of(folder: StudyFolder, own_uri: str, uri: str) -> Tracker:
    """The tracker of a study.

    Args:
        folder: of the study.
        own_uri: of the server that the study belongs to.
        uri: of the server that is shipped to, with its credentials.
    """
    return Tracker(
        uri,
        artifact_root(folder.storage, uri),
        folder.journal,
        cursor_for(folder.cursor, own_uri, uri),
        TrackedStudy(),
    )
