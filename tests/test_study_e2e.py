"""Tiny studies through the real Ray, Optuna and MLflow, run as a user runs them."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import optuna
import pytest
import yaml
from conftest import (
    TEST_DATA,
    command_line,
    environment,
    esam_tune,
    journal_events,
    tiny_space,
    write_space,
)
from host_processes import MARK, processes_of_the_host
from mlflow import MlflowClient
from ray.cluster_utils import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.slow]


class Finished:
    """A study that has run, and what it printed."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.storage = folder / "storage"
        self.space = write_space(folder, **changes)
        self.spec = tiny_space(**changes)
        self.run = esam_tune("sweep", self.space, "--storage", self.storage, "--json")
        assert self.run.returncode == 0, self.run.stderr
        self.document = json.loads(self.run.stdout)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return Finished(tmp_path_factory.mktemp("study"))


def by_label(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {trial["label"]: trial for trial in document["trials"]}


def brute_force_front(trials: list[dict[str, Any]]) -> set[str]:
    """Ids of complete trials that no other complete trial beats in one objective and ties in the
    other, by comparing every pair."""
    points = [
        (t["trial_id"], t["metrics"]["val_accuracy"], t["metrics"]["step_flops_ratio"])
        for t in trials
        if t["state"] == "complete"
    ]
    return {
        name
        for name, accuracy, cost in points
        if not any(a >= accuracy and c <= cost and (a > accuracy or c < cost) for _, a, c in points)
    }


def test_sweep_prints_one_document_that_keeps_the_contract(study: Finished) -> None:
    schema = json.loads((TEST_DATA / "study.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(study.document, schema)
    assert study.document["study"] == "tiny"
    assert study.document["objectives"] == {"val_accuracy": "max", "step_flops_ratio": "min"}


def test_baselines_run_first_and_on_top_of_the_budget(study: Finished) -> None:
    trials = study.document["trials"]
    assert [t["trial_id"] for t in trials] == [f"{i:04d}" for i in range(5)]
    assert [t["baseline"] for t in trials] == [True, True, False, False, False]
    assert {t["state"] for t in trials} == {"complete"}
    assert trials[0]["params"] == {"optimizer": "sgd"}


def test_counted_costs_of_the_baselines(study: Finished) -> None:
    trials = by_label(study.document)
    assert trials["SGD"]["metrics"]["step_flops_ratio"] == 1.0
    assert trials["SAM"]["metrics"]["step_flops_ratio"] == pytest.approx(2.0, rel=0.01)
    assert all(t["metrics"]["step_time_ratio"] > 0 for t in trials.values())


def test_search_trials_lie_in_the_space_and_differ(study: Finished) -> None:
    searched = [t["params"] for t in study.document["trials"] if not t["baseline"]]
    for params in searched:
        assert params["optimizer"] == "esam"
        for key in ("beta", "gamma", "rho"):
            assert study.spec["search"][key]["low"] <= params[key]
            assert params[key] <= study.spec["search"][key]["high"]
    assert len({json.dumps(params) for params in searched}) == len(searched)


def test_front_equals_a_brute_force_front(study: Finished) -> None:
    assert set(study.document["front"]) == brute_force_front(study.document["trials"])
    assert study.document["chosen"]["trial_id"] in study.document["front"]


def test_no_trial_of_a_search_reads_the_test_split(study: Finished) -> None:
    assert not [key for t in study.document["trials"] for key in t["metrics"] if "test" in key]


def test_mlflow_holds_a_parent_and_a_nested_child_a_trial(study: Finished) -> None:
    client = MlflowClient(tracking_uri=study.document["tracking_uri"])
    parent = client.get_run(study.document["parent_run_id"])
    assert parent.info.status == "FINISHED"
    assert parent.info.run_name == "tiny"
    children = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    )
    trials = {t["mlflow_run_id"]: t for t in study.document["trials"]}
    assert {child.info.run_id for child in children} == set(trials)
    for child in children:
        trial = trials[child.info.run_id]
        assert child.info.status == "FINISHED"
        assert child.data.params == {k: str(v) for k, v in trial["params"].items()}
        for key, value in trial["metrics"].items():
            assert child.data.metrics[key] == pytest.approx(value)
        history = client.get_metric_history(child.info.run_id, "val_accuracy")
        assert [point.step for point in history] == [1, 2]


def test_mlflow_parent_keeps_space_front_and_settings(study: Finished) -> None:
    client = MlflowClient(tracking_uri=study.document["tracking_uri"])
    names = {item.path for item in client.list_artifacts(study.document["parent_run_id"])}
    assert {"space.yaml", "front.csv", "front.png", "chosen.yaml"} <= names


def test_pareto_recomputes_what_sweep_printed(study: Finished) -> None:
    run = esam_tune("pareto", "tiny", "--storage", study.storage, "--json")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == study.document


def test_pareto_keeps_constraints_and_exports_what_train_accepts(
    study: Finished, tmp_path: Path
) -> None:
    exported = tmp_path / "settings.yaml"
    run = esam_tune(
        *("pareto", "tiny", "--storage", study.storage, "--json"),
        *("--max", "step_flops_ratio=1.99", "--min", "step_flops_ratio=1.01"),
        *("--pick", "accuracy", "--export", exported),
    )
    assert run.returncode == 0, run.stderr
    document = json.loads(run.stdout)
    allowed = [t for t in document["trials"] if 1.01 <= t["metrics"]["step_flops_ratio"] <= 1.99]
    assert set(document["front"]) == brute_force_front(allowed)
    best = max(t["metrics"]["val_accuracy"] for t in allowed)
    chosen = {t["trial_id"]: t for t in allowed}[document["chosen"]["trial_id"]]
    assert chosen["metrics"]["val_accuracy"] == best
    assert yaml.safe_load(exported.read_text()) == document["chosen"]["settings"]

    trained = esam_tune("train", exported, "--storage", study.storage, "--json")
    assert trained.returncode == 0, trained.stderr
    result = json.loads(trained.stdout)
    # The same seed, data and steps as in the search: the test split is all that is new.
    assert result["metrics"]["val_accuracy"] == chosen["metrics"]["val_accuracy"]
    assert 0.0 <= result["metrics"]["test_accuracy"] <= 1.0
    assert [m["epoch"] for m in result["history"]] == [1, 2]
    assert Path(result["weights"]).stat().st_size > 100_000
    client = MlflowClient(tracking_uri=result["tracking_uri"])
    logged = client.get_run(result["mlflow_run_id"]).data
    assert logged.metrics["test_accuracy"] == result["metrics"]["test_accuracy"]
    assert logged.tags["esam_tune.origin.trial_id"] == chosen["trial_id"]
    assert logged.tags["esam_tune.origin.trial_run_id"] == chosen["mlflow_run_id"]
    assert logged.tags["esam_tune.origin.study_run_id"] == study.document["parent_run_id"]
    model = client.get_logged_model(result["model_uri"].removeprefix("models:/"))
    assert model.tags["esam_tune.origin.trial_run_id"] == chosen["mlflow_run_id"]


def test_pareto_reads_as_a_table(study: Finished) -> None:
    run = esam_tune("pareto", "tiny", "--storage", study.storage)
    assert run.returncode == 0
    assert "SGD" in run.stdout
    assert "pick by knee" in run.stdout


def test_an_existing_study_is_refused_without_resume(study: Finished) -> None:
    run = esam_tune("sweep", study.space, "--storage", study.storage)
    assert run.returncode == 2
    assert "--resume" in run.stderr
    assert "--name" in run.stderr


def test_resume_with_a_larger_budget_adds_only_the_difference(study: Finished) -> None:
    run = esam_tune(
        "sweep", study.space, "--storage", study.storage, "--resume", "--trials", 4, "--json"
    )
    assert run.returncode == 0, run.stderr
    document = json.loads(run.stdout)
    assert document["trials"][:5] == study.document["trials"]
    assert [t["baseline"] for t in document["trials"]] == [True, True, False, False, False, False]
    assert document["parent_run_id"] == study.document["parent_run_id"]


def test_resume_with_another_space_is_refused(study: Finished, tmp_path: Path) -> None:
    other = write_space(tmp_path, training={"epochs": 2, "batch_size": 256, "lr": 0.1})
    run = esam_tune("sweep", other, "--storage", study.storage, "--resume")
    assert run.returncode == 2
    assert "training" in run.stderr
    assert "0.1" in run.stderr


def stop_and_resume(
    tmp_path: Path, stops: Sequence[signal.Signals], **changes: Any
) -> tuple[list[int], Finished]:
    """Stop a study again and again, each time one trial later, and resume it to its end.

    SIGINT goes to the whole process group, as a terminal's Ctrl-C does. Whoever is not killed ends
    all processes of his.

    Returns:
        The exit codes of those that were stopped, and what came of the study.
    """
    space, storage = write_space(tmp_path, **changes), tmp_path / "storage"
    codes = []
    for count, stop in enumerate(stops, start=1):
        resuming = ["--resume"] if codes else []
        process = subprocess.Popen(
            command_line("sweep", space, "--storage", storage, *resuming),
            env=environment(**{MARK: str(tmp_path)}),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            before = ended(storage)
            wait_for(lambda before=before: ended(storage) > before, process)
            if stop == signal.SIGINT:
                os.killpg(process.pid, stop)
            else:
                process.send_signal(stop)
            codes.append(process.wait(60))
        finally:
            process.kill()
        if stop != signal.SIGKILL:
            assert left_after(tmp_path) == {}
        assert count <= ended(storage) < 5
    resumed = Finished.__new__(Finished)
    resumed.storage, resumed.space, resumed.spec = storage, space, tiny_space(**changes)
    resumed.run = esam_tune("sweep", space, "--storage", storage, "--resume", "--json")
    assert resumed.run.returncode == 0, resumed.run.stderr
    resumed.document = json.loads(resumed.run.stdout)
    return codes, resumed


def left_after(mark: Path, seconds: float = 30) -> dict[int, str]:
    """The marked processes that are there still after as long."""
    deadline = time.monotonic() + seconds
    while (left := processes_of_the_host(str(mark))) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def ended(storage: Path) -> int:
    return sum(e["event"] == "trial_end" for e in journal_events(storage, "tiny"))


def wait_for(
    condition: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 120
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the process ended before the condition held"
        assert time.monotonic() < deadline, "the condition did not come to hold"
        time.sleep(0.05)


def without_times(value: Any) -> Any:
    """A document's trials without what depends on the clock or on MLflow's random ids."""
    timed = ("step_time_ratio", "epoch_seconds", "images_per_second", "mlflow_run_id")
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in timed}
    return [without_times(item) for item in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return Finished(tmp_path_factory.mktemp("undisturbed"), max_concurrent=1)


@pytest.mark.parametrize(
    ("stops", "codes"),
    [
        pytest.param([signal.SIGINT], [130], marks=pytest.mark.long, id="SIGINT"),
        pytest.param([signal.SIGTERM, signal.SIGKILL], [143, -9], id="SIGTERM and SIGKILL"),
    ],
)
def test_a_stopped_study_resumes_to_what_it_would_have_been(
    tmp_path: Path, undisturbed: Finished, stops: list[signal.Signals], codes: list[int]
) -> None:
    exited, resumed = stop_and_resume(tmp_path, stops, max_concurrent=1)
    assert exited == codes
    trials = resumed.document["trials"]
    assert without_times(trials) == without_times(undisturbed.document["trials"])

    epochs = defaultdict(list)
    for event in journal_events(resumed.storage, "tiny"):
        if event["event"] == "epoch":
            epochs[event["trial_id"]].append(event["metrics"]["epoch"])
    assert dict(epochs) == {f"{i:04d}": [1, 2] for i in range(5)}

    client = MlflowClient(tracking_uri=resumed.document["tracking_uri"])
    runs = client.search_runs([client.get_experiment_by_name("esam-tune").experiment_id])
    assert len(runs) == 1 + 5
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_a_diverging_trial_fails_alone_and_says_why(tmp_path: Path) -> None:
    wild = {"label": "wild", "optimizer": "sgd", "lr": 1e30}
    finished = Finished(tmp_path, baselines=[wild, {"optimizer": "sgd"}], trials=1)
    trials = by_label(finished.document)
    assert trials["wild"]["state"] == "failed"
    assert "epoch 1" in trials["wild"]["reason"]
    assert [t["state"] for label, t in trials.items() if label != "wild"] == ["complete"] * 2
    assert trials["wild"]["trial_id"] not in finished.document["front"]
    client = MlflowClient(tracking_uri=finished.document["tracking_uri"])
    run = client.get_run(trials["wild"]["mlflow_run_id"])
    assert run.info.status == "FAILED"
    assert run.data.tags["esam_tune.reason"] == trials["wild"]["reason"]


def test_a_study_whose_trials_all_fail_exits_1(tmp_path: Path) -> None:
    space = write_space(
        tmp_path,
        training={"epochs": 1, "batch_size": 256, "lr": 1e30},
        baselines=[],
        trials=1,
    )
    run = esam_tune("sweep", space, "--storage", tmp_path / "storage", "--json")
    assert run.returncode == 1
    document = json.loads(run.stdout)
    assert [t["state"] for t in document["trials"]] == ["failed"]
    assert document["front"] == []
    assert document["chosen"] is None
    # The sampler is told, in the database that a study has in its folder by default.
    database = tmp_path / "storage" / "tiny" / "optuna.db"
    (stored,) = optuna.load_study(study_name="tiny", storage=f"sqlite:///{database}").get_trials()
    assert stored.state == optuna.trial.TrialState.FAIL
    (trial,) = document["trials"]
    assert stored.user_attrs["esam_tune.trial_id"] == trial["trial_id"]
    assert stored.user_attrs["esam_tune.reason"] == trial["reason"]


@pytest.mark.long
def test_two_workers_train_the_same_loop_on_a_worker_group(tmp_path: Path) -> None:
    space = write_space(tmp_path, baselines=[{"label": "SGD", "optimizer": "sgd"}], trials=1)
    storage = tmp_path / "storage"
    run = esam_tune("sweep", space, "--storage", storage, "--workers-per-trial", 2, "--json")
    assert run.returncode == 0, run.stderr
    document = json.loads(run.stdout)
    assert [t["state"] for t in document["trials"]] == ["complete", "complete"]
    assert document["trials"][0]["metrics"]["step_flops_ratio"] == 1.0
    client = MlflowClient(tracking_uri=document["tracking_uri"])
    for trial in document["trials"]:
        history = client.get_metric_history(trial["mlflow_run_id"], "val_accuracy")
        assert [point.step for point in history] == [1, 2]


@pytest.mark.long
def test_train_on_two_workers_reads_the_test_split_once(study: Finished, tmp_path: Path) -> None:
    settings = study.storage / "tiny" / "chosen.yaml"
    run = esam_tune("train", settings, "--storage", tmp_path / "runs", "--workers", 2, "--json")
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["workers"] == 2
    assert [("test_accuracy" in metrics) for metrics in result["history"]] == [False, True]
    assert Path(result["weights"]).exists()


def test_a_training_that_diverges_exits_1_and_leaves_nothing(
    study: Finished, tmp_path: Path
) -> None:
    settings = yaml.safe_load((study.storage / "tiny" / "chosen.yaml").read_text())
    settings["training"]["lr"] = settings["params"]["lr"] = 1e30
    (tmp_path / "wild.yaml").write_text(yaml.safe_dump(settings))
    run = esam_tune("train", tmp_path / "wild.yaml", "--storage", tmp_path / "runs", "--json")
    assert run.returncode == 1
    assert run.stdout == ""
    assert run.stderr.splitlines()[-1].startswith("esam-tune: training failed: training loss is")
    assert not (tmp_path / "runs" / "models").exists()


def test_a_running_cluster_is_used_and_its_size_respected(tmp_path: Path) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    try:
        space = write_space(tmp_path, baselines=[], trials=1)
        where = ("--storage", tmp_path / "storage", "--address", cluster.address)
        run = esam_tune("sweep", space, *where, "--json", RAY_ADDRESS="127.0.0.1:9")
        assert run.returncode == 0, run.stderr
        assert [t["state"] for t in json.loads(run.stdout)["trials"]] == ["complete"]
        run = esam_tune("sweep", space, *where, "--name", "wide", "--workers-per-trial", 4)
        assert run.returncode == 2
        assert "--workers-per-trial: must be at most 2" in run.stderr
        assert not (tmp_path / "storage" / "wide").exists()
        run = esam_tune("sweep", space, *where, "--name", "planned", "--dry-run")
        assert run.returncode == 0, run.stderr
        assert re.search(r"1 x \(1 CPU, \d GPU\) of 2 CPU and \d+ GPU on 1 node", run.stdout)
        assert not (tmp_path / "storage" / "planned").exists()
    finally:
        cluster.shutdown()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def served(storage: Path) -> Iterator[str]:
    """`esam-tune ui` on a storage for the time of the block; its address."""
    port = free_port()
    process = subprocess.Popen(
        command_line("ui", "--storage", storage, "--port", port),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=2) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    try:
        wait_for(answers, process)
        yield address
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


@pytest.mark.long
def test_ui_serves_the_store_and_a_sweep_logs_to_a_server(study: Finished, tmp_path: Path) -> None:
    with served(study.storage) as address:
        client = MlflowClient(tracking_uri=address)
        assert client.get_run(study.document["parent_run_id"]).info.run_name == "tiny"

        space = write_space(tmp_path, name="remote", baselines=[], trials=1)
        storage = tmp_path / "storage"
        run = esam_tune("sweep", space, "--storage", storage, "--json", MLFLOW_TRACKING_URI=address)
        assert run.returncode == 0, run.stderr
        document = json.loads(run.stdout)
        assert document["tracking_uri"] == address
        assert not (storage / "mlflow.db").exists()
        (trial,) = document["trials"]
        history = client.get_metric_history(trial["mlflow_run_id"], "val_accuracy")
        assert [point.step for point in history] == [1, 2]
        names = {item.path for item in client.list_artifacts(document["parent_run_id"])}
        assert {"space.yaml", "front.csv", "front.png", "chosen.yaml"} <= names
