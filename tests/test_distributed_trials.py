"""Trials on the real Ray: stopped early, failing on a node, losing one, kept in a store."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from conftest import (
    REPOSITORY,
    command_line,
    environment,
    esam_tune,
    journal_events,
    write_space,
)
from mlflow import MlflowClient
from object_store import CREDENTIALS, object_store
from pyarrow.fs import FileSelector
from ray.cluster_utils import Cluster
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from study_events import WrittenStudy, study_spec

from esam_tune.checkpoint_storage import open_storage
from esam_tune.config import TaskSettings
from esam_tune.errors import InputError
from esam_tune.journal import Journal
from esam_tune.study import cluster
from esam_tune.study.agenda import SearchAgenda
from esam_tune.study.node_data import check_all_nodes_have
from esam_tune.study.proposals import Proposals
from esam_tune.study.record import StudyRecord
from esam_tune.study.runner import StudyInterrupted, run_trials
from esam_tune.study.study_run import StudyRun
from esam_tune.study.trial_record import TrialRecord
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
        SearchAgenda(record, Proposals(folder / "optuna.db", spec)),
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


@pytest.mark.long
def test_a_stopped_group_gives_its_workers_back_and_a_failed_one_says_where(tmp_path: Path) -> None:
    workers = cluster.local_cores()
    if workers < 2:
        pytest.skip("needs two cores")
    uneven = {"label": "uneven", "optimizer": "sgd", "batch_size": workers * 4 + 1}
    trials = run_study(
        tmp_path,
        # All cores: the next trial starts only when they are free again.
        {"workers": workers, "max_failures": 0},
        scheduler=StopFirst(),
        training={"epochs": 2, "batch_size": workers * 64, "lr": 0.05},
        search={"optimizer": "sgd", "lr": {"low": 0.01, "high": 0.1}},
        baselines=[SGD, uneven],
    )
    stopped, failed, complete = trials.values()
    assert (stopped.state, stopped.epochs) == ("pruned", 1)
    assert stopped.reason == "stopped early after epoch 1 of 2"
    assert (complete.state, complete.epochs) == ("complete", 2)
    assert failed.state == "failed"
    assert failed.reason is not None
    assert f"must divide evenly over the {workers} workers" in failed.reason
    assert "on node" in failed.reason
    setups = [e["setup"] for e in journal_events(tmp_path, "small") if e["event"] == "trial_start"]
    assert [setup["workers"] for setup in setups] == [workers] * 3
    assert setups[2]["rows_per_worker"] == 64


@pytest.mark.long
def test_an_elastic_group_goes_on_with_the_nodes_that_are_left(tmp_path: Path) -> None:
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = nodes.add_node(num_cpus=1)
    lost = []

    def lose_a_node(record: StudyRecord) -> None:
        if not lost and any(run.checkpoints for run in record.runs.values()):
            lost.append(second)
            nodes.remove_node(second, allow_graceful=False)

    try:
        trials = run_study(
            tmp_path,
            {"workers": 2, "min_workers": 1, "checkpoint_seconds": 0.0},
            address=nodes.address,
            on_step=lose_a_node,
            training={"epochs": 15, "batch_size": 64, "lr": 0.05},
            search={"optimizer": "sgd", "lr": {"low": 0.01, "high": 0.1}},
            baselines=[],
        )
    finally:
        nodes.shutdown()
    (trial,) = trials.values()
    assert lost
    assert (trial.state, trial.epochs) == ("complete", 15)
    events = journal_events(tmp_path, "small")
    setups = [e["setup"] for e in events if e["event"] == "workers"]
    assert [(s["workers"], s["rows_per_worker"]) for s in setups] == [(2, 32), (1, 64)]
    epochs = [e["metrics"]["epoch"] for e in events if e["event"] == "epoch"]
    assert epochs == list(range(1, 16))


@pytest.mark.long
def test_an_elastic_group_takes_in_a_node_that_comes(tmp_path: Path) -> None:
    """Ray looks once a minute; then the group begins anew, from its last checkpoint."""
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    came: list[Any] = []

    def workers() -> list[int]:
        events = journal_events(tmp_path, "small")
        return [e["setup"]["workers"] for e in events if e["event"] == "workers"]

    def let_a_node_come(record: StudyRecord) -> None:
        run = next(iter(record.runs.values()), None)
        if run is None or not run.checkpoints:
            return
        if not came:
            came.append((nodes.add_node(num_cpus=1), run.epochs))
        elif workers() == [1, 2] and run.epochs > came[0][1] + 1:
            raise StudyInterrupted

    try:
        with pytest.raises(StudyInterrupted):
            run_study(
                tmp_path,
                {"workers": 2, "min_workers": 1, "checkpoint_seconds": 0.0},
                address=nodes.address,
                on_step=let_a_node_come,
                # Longer than a minute on any machine.
                training={"epochs": 5000, "batch_size": 64, "lr": 0.05},
                search={"optimizer": "sgd", "lr": {"low": 0.01, "high": 0.1}},
                baselines=[],
            )
    finally:
        nodes.shutdown()
    events = journal_events(tmp_path, "small")
    setups = [e["setup"] for e in events if e["event"] == "workers"]
    assert [(s["workers"], s["rows_per_worker"]) for s in setups] == [(1, 64), (2, 32)]
    kinds = [e["event"] for e in events]
    assert "epoch" in kinds[kinds.index("workers", kinds.index("workers") + 1) :]
    epochs = [e["metrics"]["epoch"] for e in events if e["event"] == "epoch"]
    assert epochs == list(range(1, len(epochs) + 1))


@pytest.mark.long
def test_a_node_that_is_to_be_taken_away_leaves_a_checkpoint_first(tmp_path: Path) -> None:
    """A spot machine's notice, given as its cloud's agent would: a node is drained until a time."""
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = nodes.add_node(num_cpus=1)
    told, kept, taken = [], [], []

    def take_it_back(record: StudyRecord) -> None:
        run = next(iter(record.runs.values()), None)
        if run is None:
            return
        if not told and run.epochs >= 3:
            # None is due by the clock: only the notice brings one.
            assert not run.checkpoints
            command = [
                *(str(Path(sys.executable).parent / "ray"), "drain-node"),
                *("--address", nodes.address, "--node-id", second.node_id),
                *("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "a notice"),
                *("--deadline-remaining-seconds", "600"),
            ]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            told.append(run.epochs)
        elif told and not taken and run.checkpoints:
            kept.append(run.epochs)
            nodes.remove_node(second, allow_graceful=False)
            taken.append(second)

    try:
        trials = run_study(
            tmp_path,
            {"workers": 2, "min_workers": 1, "checkpoint_seconds": 3600.0},
            address=nodes.address,
            on_step=take_it_back,
            training={"epochs": 80, "batch_size": 64, "lr": 0.05},
            search={"optimizer": "sgd", "lr": {"low": 0.01, "high": 0.1}},
            baselines=[],
        )
    finally:
        nodes.shutdown()
    (trial,) = trials.values()
    assert taken
    assert (trial.state, trial.epochs) == ("complete", 80)
    events = journal_events(tmp_path, "small")
    setups = [e["setup"] for e in events if e["event"] == "workers"]
    assert [setup["workers"] for setup in setups] == [2, 1]
    epochs = [e["metrics"]["epoch"] for e in events if e["event"] == "epoch"]
    assert epochs == list(range(1, 81))


DRIVER = """
import sys
from pathlib import Path
from rich.console import Console
from esam_tune.study.preflight import SweepOptions
from esam_tune.study.space import Overrides, load_space
from esam_tune.study.sweep import sweep
space, storage, uri = sys.argv[1:]
options = SweepOptions(
    storage=Path(storage),
    checkpoint_storage=uri,
    checkpoint_seconds=0.0,
)
sweep(load_space(Path(space)), Overrides(), options, Console(stderr=True))
"""


@pytest.mark.long
@pytest.mark.e2e
def test_a_killed_driver_goes_on_from_an_object_store(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage = tmp_path / "storage"
    space = write_space(
        tmp_path,
        name="stored",
        training={"epochs": 12, "batch_size": 64, "lr": 0.05},
        search={"optimizer": "sgd", "lr": {"low": 0.01, "high": 0.1}},
        baselines=[],
        trials=1,
    )

    def events(kind: str) -> list[dict[str, Any]]:
        return [e for e in journal_events(storage, "stored") if e["event"] == kind]

    with object_store() as uri, caplog.at_level(logging.INFO, "werkzeug"):
        driver = subprocess.Popen(
            [sys.executable, "-c", DRIVER, space, storage, uri],
            env=environment(),
            cwd=REPOSITORY,
            stderr=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + 240
            while not events("checkpoint"):
                assert driver.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            driver.kill()
            driver.wait()
        assert not events("trial_end")
        (study,) = events("study")
        assert study["checkpoint_storage"] == uri
        prefix = f"bucket/runs/stored-{study['study_id'][:12]}/"
        assert all(e["path"].startswith(prefix) for e in events("checkpoint"))
        caplog.clear()
        run = esam_tune("sweep", space, "--storage", storage, "--resume", "--json")
        assert run.returncode == 0, run.stderr
        read = [
            record.getMessage()
            for record in caplog.records
            if "GET /bucket/" in record.getMessage()
        ]
        assert any("state-0.pt" in line for line in read)
        filesystem, root = open_storage(uri)
        left = filesystem.get_file_info(FileSelector(root, recursive=True))
        # Other tests keep theirs in the same store.
        own = [item.path for item in left if item.path.startswith(prefix)]
        assert own == []
    (trial,) = json.loads(run.stdout)["trials"]
    assert trial["state"] == "complete"
    assert [e["metrics"]["epoch"] for e in events("epoch")] == list(range(1, 13))
    secret = CREDENTIALS["AWS_SECRET_ACCESS_KEY"]
    assert secret not in run.stdout + run.stderr
    assert not [p for p in storage.rglob("*") if p.is_file() and secret.encode() in p.read_bytes()]


@pytest.mark.long
@pytest.mark.e2e
def test_two_workers_share_a_gpu_on_a_cluster_and_scale_the_batch(tmp_path: Path) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text(
        yaml.safe_dump(
            {
                "task": {"dataset": "digits", "model": "small_cnn"},
                "training": {"epochs": 2, "batch_size": 64, "lr": 0.05},
                "params": {"optimizer": "esam", "rho": 0.1},
                "origin": {"study": "s", "trial_id": "0003", "workers": 1},
            }
        )
    )
    # A GPU by name alone, which Ray hands out all the same: the workers train on the CPU.
    with object_store() as uri:
        # The nodes have the store's credentials from their own environment.
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 1})
        nodes.add_node(num_cpus=1)
        try:
            run = esam_tune(
                *("train", settings, "--storage", tmp_path / "runs", "--json"),
                *("--workers", 2, "--batch-rule", "per-worker", "--gpus-per-worker", 0.5),
                *("--address", nodes.address, "--checkpoint-storage", uri),
            )
            lacking = TaskSettings(
                dataset="folder", model="resnet18_cifar", data_dir=str(tmp_path / "none")
            )
            with cluster.connected(nodes.address, distributed=True):
                check_all_nodes_have(TaskSettings(dataset="digits", model="small_cnn"), 0.0)
                with pytest.raises(InputError, match=r"task.data_dir: on node .*none"):
                    check_all_nodes_have(lacking, 0.0)
        finally:
            nodes.shutdown()
    assert run.returncode == 0, run.stderr
    document = json.loads(run.stdout)
    scaling = document["scaling"]
    assert (scaling["batch_rule"], scaling["lr_rule"]) == ("per-worker", "linear")
    assert scaling["reference"]["batch_size"] == 64
    assert scaling["effective"] == {
        "workers": 2,
        "batch_size": 128,
        "rows_per_worker": 64,
        "lr": 0.1,
        "rho": 0.1,
    }
    assert document["settings"]["training"]["batch_size"] == 128
    logged = MlflowClient(tracking_uri=document["tracking_uri"]).get_run(document["mlflow_run_id"])
    assert logged.data.params["reference.rows_per_worker"] == "64"
    assert logged.data.params["effective.lr"] == "0.1"
    assert sorted(path.name for path in (tmp_path / "runs" / "models").iterdir()) == ["s-0003"]


@pytest.mark.long
@pytest.mark.e2e
def test_two_trials_at_a_time_share_a_gpu(tmp_path: Path) -> None:
    space = write_space(
        tmp_path,
        training={"epochs": 60, "batch_size": 64, "lr": 0.05},
        search={"optimizer": "sgd", "lr": {"low": 0.01, "high": 0.1}},
        trials=2,
    )
    storage, free = tmp_path / "runs", set()
    # A GPU by name alone, as above: what is shared out is Ray's count of it.
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 1})
    sweep = command_line(
        *("sweep", space, "--storage", storage, "--address", nodes.address, "--json"),
        *("--gpus-per-worker", 0.5),
    )
    try:
        with (
            (tmp_path / "printed").open("w+") as printed,
            subprocess.Popen(sweep, stdout=printed, env=environment(), cwd=REPOSITORY) as study,
            cluster.connected(nodes.address, distributed=False),
        ):
            try:
                while study.poll() is None:
                    free.add(ray.available_resources().get("GPU", 0.0))
                    time.sleep(0.1)
            finally:
                study.kill()
            printed.seek(0)
            document = json.load(printed)
    finally:
        nodes.shutdown()
    assert study.returncode == 0
    assert [trial["state"] for trial in document["trials"]] == ["complete"] * 4
    # Half of it for each of two trials, and at some time both halves at once.
    assert {0.0, 1.0} <= free <= {0.0, 0.5, 1.0}
    running: set[str] = set()
    most = 0
    for event in journal_events(storage, "tiny"):
        if event["event"] == "epoch":
            running.add(event["trial_id"])
        elif event["event"] == "trial_end":
            running.discard(event["trial_id"])
        most = max(most, len(running))
    assert most == 2
