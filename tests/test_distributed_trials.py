"""Trials of several workers on the real Ray: stopped early, failing on a node, losing one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import journal_events
from ray.cluster_utils import Cluster
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from study_events import WrittenStudy, study_spec

from esam_tune.journal import Journal
from esam_tune.study import cluster
from esam_tune.study.proposals import Proposals
from esam_tune.study.record import StudyRecord, TrialRecord
from esam_tune.study.runner import run_trials
from esam_tune.study.study_run import StudyRun
from esam_tune.trial import RunRequest

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SGD = {"label": "SGD", "optimizer": "sgd"}


class StopFirst(FIFOScheduler):
    """Stops the study's first trial after its first epoch."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        first = trial.config["run_id"] == "0000"
        return str(TrialScheduler.STOP if first and result.get("epoch") == 1 else "CONTINUE")


def run_study(
    folder: Path,
    request: dict[str, Any],
    *,
    address: str | None = None,
    scheduler: TrialScheduler | None = None,
    on_step: Callable[[StudyRecord], None] = lambda record: None,
    **changes: Any,
) -> dict[str, TrialRecord]:
    """Run a study of baselines alone, without the command line's checks; its trials by label."""
    spec = study_spec(trials=1, **changes)
    path = folder / "small" / "journal.jsonl"
    WrittenStudy(path, spec).writer.close()
    writer = Journal(path)
    record = StudyRecord.from_journal(path)
    run = StudyRun(
        record,
        writer,
        Proposals(folder / "optuna.db", spec),
        RunRequest(settings={}, run_id="", storage=str(folder / "tune" / "groups"), **request),
    )
    with cluster.connected(address, distributed=True):
        run_trials(
            run,
            folder / "tune" / "000",
            max_concurrent=1,
            on_step=lambda: on_step(record),
            scheduler=scheduler,
        )
    writer.close()
    return {trial.label: trial for trial in StudyRecord.from_journal(path).trials.values()}


def test_a_stopped_group_gives_its_workers_back_and_a_failed_one_says_where(tmp_path: Path) -> None:
    if cluster.local_cores() < 2:
        pytest.skip("needs two cores")
    wild = {"label": "wild", "optimizer": "sgd", "batch_size": 63}
    trials = run_study(
        tmp_path,
        # Both cores of a two-core machine: the next trial starts only when they are free again.
        {"workers": cluster.local_cores(), "max_failures": 0},
        scheduler=StopFirst(),
        training={
            "epochs": 3,
            "batch_size": 256 if cluster.local_cores() < 64 else 1024,
            "lr": 0.05,
        },
        baselines=[SGD, {"label": "SAM", "optimizer": "sam", "rho": 0.2}, wild],
    )
    stopped, complete, failed = trials["SGD"], trials["SAM"], trials["wild"]
    assert (stopped.state, stopped.epochs) == ("pruned", 1)
    assert stopped.reason == "stopped early after epoch 1 of 3"
    assert (complete.state, complete.epochs) == ("complete", 3)
    assert failed.state == "failed"
    assert failed.reason is not None
    assert "batch_size" in failed.reason
    assert "on node" in failed.reason
    (begun,) = [
        e["setup"]
        for e in journal_events(tmp_path, "small")
        if e["event"] == "trial_start" and e["label"] == "SAM"
    ]
    assert begun["rows_per_worker"] * begun["workers"] == begun["batch_size"]


def test_an_elastic_group_goes_on_with_the_nodes_that_are_left(tmp_path: Path) -> None:
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = nodes.add_node(num_cpus=1)
    lost = []

    def lose_a_node(record: StudyRecord) -> None:
        if not lost and any(trial.checkpoints for trial in record.trials.values()):
            lost.append(second)
            nodes.remove_node(second, allow_graceful=False)

    try:
        trials = run_study(
            tmp_path,
            {"workers": 2, "min_workers": 1, "checkpoint_seconds": 0.0},
            address=nodes.address,
            on_step=lose_a_node,
            training={"epochs": 30, "batch_size": 64, "lr": 0.05},
            search={"optimizer": "sgd", "lr": {"low": 0.01, "high": 0.1}},
            baselines=[],
        )
    finally:
        nodes.shutdown()
    (trial,) = trials.values()
    assert lost
    assert (trial.state, trial.epochs) == ("complete", 30)
    events = journal_events(tmp_path, "small")
    setups = [e["setup"] for e in events if e["event"] == "workers"]
    assert [(s["workers"], s["rows_per_worker"]) for s in setups] == [(2, 32), (1, 64)]
    epochs = [e["metrics"]["epoch"] for e in events if e["event"] == "epoch"]
    assert epochs == list(range(1, 31))
