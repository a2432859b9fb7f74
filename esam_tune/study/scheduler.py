"""Early stopping in a running study: Tune's scheduler that asks the study's rungs."""

from __future__ import annotations

from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from esam_tune.metrics import EPOCH
from esam_tune.study.study_rungs import StudyRungs


class RungScheduler(FIFOScheduler):
    """Starts trials in their order and stops those that the rungs stop.

    Args:
        rungs: of the study.
    """

    def __init__(self, rungs: StudyRungs) -> None:
        super().__init__()
        self._rungs = rungs

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Tune's question after each report."""
        if EPOCH not in result or self._rungs.report(trial.config["run_id"], result):
            return str(TrialScheduler.CONTINUE)
        return str(TrialScheduler.STOP)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the rungs out of Tune's own snapshots, which are never read."""
        return {}
