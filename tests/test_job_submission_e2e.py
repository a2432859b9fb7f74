"""Studies as Ray jobs on a cluster of two nodes, with token authentication and an MLflow server."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, environment, esam_tune, journal_events, tiny_space, write_space
from mlflow import MlflowClient
from mlflow_server import WITHOUT_JOBS
from ports import free_port
from training_process import predictions, write_settings

from esam_tune.config import trial_settings
from esam_tune.tasks.data import load_split

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.slow]

BIN = Path(sys.executable).parent


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.2)


@contextmanager
def running(*command: object, log: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A server for the time of the block, in a process group of its own."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            list(map(str, command)), env=env, stdout=file, stderr=file, start_new_session=True
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


@dataclass(frozen=True)
class JobCluster:
    """Two nodes of one CPU each: a trial of two workers fits only across both."""

    dashboard: str
    home: Path
    environment: dict[str, str]

    def get(self, path: str, **headers: str) -> Any:
        request = urllib.request.Request(self.dashboard + path, headers=headers)
        with urllib.request.urlopen(request, timeout=20) as reply:
            return json.load(reply)

    def get_with_token(self, path: str) -> Any:
        token = self.environment["RAY_AUTH_TOKEN"]
        return self.get(path, Authorization=f"Bearer {token}")

    def nodes(self) -> list[dict[str, Any]]:
        return list(self.get_with_token("/api/v0/nodes")["data"]["result"]["result"])

    def job(self, command: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BIN / "ray", "job", command, "--address", self.dashboard, *map(str, arguments)],
            env={
                **self.environment,
                "RAY_JOB_SUBMIT_HOOK": "esam_tune.upload.check_submission",
            },
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def sweep(self, name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Submit `jobs/sweep.py`."""
        return self.script("sweep", name, *arguments)

    def script(
        self, script: str, name: str, *arguments: object
    ) -> subprocess.CompletedProcess[str]:
        """Submit a script of `jobs/` as docs/clusters.md says."""
        options = arguments[: arguments.index("--")]
        deadline = time.monotonic() + 120
        while True:
            submitted = self.job(
                "submit",
                *("--submission-id", name, "--runtime-env", "jobs/runtime_env.yaml"),
                *("--working-dir", ".", *options, "--", "python", f"jobs/{script}.py"),
                *arguments[len(options) + 1 :],
            )
            # A node is there before its agent, which takes jobs; on a busy machine by a minute.
            early = "No available agent to submit job" in submitted.stderr + submitted.stdout
            if not early or time.monotonic() > deadline:
                return submitted
            time.sleep(2)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobCluster]:
    folder = tmp_path_factory.mktemp("cluster")
    # Ray's sockets lie below it, and the path of a socket has at most 107 characters. Each node has
    # a folder of its own, as on machines of their own: in one folder the second node to unpack a
    # job's upload would remove the first one's copy from under the running driver.
    temporary = Path(tempfile.mkdtemp(prefix="esam-"))
    gcs, dashboard = free_port(), free_port()
    variables = environment(
        HOME=str(folder),
        PATH=f"{BIN}{os.pathsep}{os.environ['PATH']}",
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN=secrets.token_hex(16),
    )
    variables.pop("RAY_ADDRESS", None)
    start = (BIN / "ray", "start", "--block", "--num-cpus", 1, "--node-ip-address", "127.0.0.1")
    head = (
        *(*start, "--head", "--port", gcs, "--temp-dir", temporary / "h", "--disable-usage-stats"),
        *("--dashboard-host", "127.0.0.1", "--dashboard-port", dashboard),
    )
    found = JobCluster(f"http://127.0.0.1:{dashboard}", folder, variables)

    def alive() -> int:
        try:
            return sum(node["state"] == "ALIVE" for node in found.nodes())
        except OSError:
            return 0

    try:
        with ExitStack() as stack:
            stack.enter_context(running(*head, log=folder / "head.log", env=variables))
            wait_for(lambda: alive() == 1, "the head")
            worker = (*start, "--address", f"127.0.0.1:{gcs}", "--temp-dir", temporary / "w")
            stack.enter_context(running(*worker, log=folder / "worker.log", env=variables))
            wait_for(lambda: alive() == 2, "the second node")
            yield found
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow")
    address = f"http://127.0.0.1:{(port := free_port())}"
    variables = environment(
        MLFLOW_BACKEND_STORE_URI=f"sqlite:///{folder / 'mlflow.db'}",
        MLFLOW_ARTIFACTS_DESTINATION=str(folder / "artifacts"),
        **WITHOUT_JOBS,
    )
    command = (BIN / "mlflow", "server", "--host", "127.0.0.1", "--port", port, "--workers", 1)

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    with running(*command, log=folder / "server.log", env=variables):
        wait_for(answers, "MLflow's server")
        yield address


def test_a_submitted_study_runs_across_nodes_and_reads_back(
    mlflow_server: str, cluster: JobCluster, tmp_path: Path
) -> None:
    training = {**tiny_space()["training"], "epochs": 1}
    space = write_space(
        tmp_path, training=training, baselines=[{"label": "SGD", "optimizer": "sgd"}], trials=1
    )
    submitted = cluster.sweep(
        "across",
        *("--", space, "--workers-per-trial", 2, "--tracking-uri", mlflow_server),
    )
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    assert "upload: " in submitted.stderr

    # The head's home, since no --storage was given.
    read = esam_tune("pareto", "tiny", "--storage", cluster.home / "runs", "--json")
    assert read.returncode == 0, read.stderr
    document = json.loads(read.stdout)
    assert [trial["state"] for trial in document["trials"]] == ["complete", "complete"]
    assert document["chosen"]["trial_id"] in document["front"]
    assert document["tracking_uri"] == mlflow_server

    client = MlflowClient(tracking_uri=mlflow_server)
    parent = client.get_run(document["parent_run_id"])
    assert parent.info.status == "FINISHED"
    names = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert {"space.yaml", "front.csv", "front.png", "chosen.yaml"} <= names
    for trial in document["trials"]:
        run = client.get_run(trial["mlflow_run_id"])
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.metrics["val_accuracy"] == trial["metrics"]["val_accuracy"]

    actors = cluster.get_with_token("/api/v0/actors?detail=1&limit=1000")["data"]["result"]
    groups: dict[str, set[str]] = {}
    for actor in actors["result"]:
        if actor["class_name"] == "RayTrainWorker":
            groups.setdefault(actor["placement_group_id"], set()).add(actor["node_id"])
    nodes = {
        n["node_id"] for n in cluster.get_with_token("/api/v0/nodes")["data"]["result"]["result"]
    }
    assert len(nodes) == 2
    assert list(groups.values()) == [nodes] * 2


def test_nobody_gets_in_without_the_token(cluster: JobCluster) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        cluster.get("/api/jobs/")
    assert refused.value.code == 401
    with pytest.raises(urllib.error.HTTPError) as refused:
        cluster.get("/api/jobs/", Authorization=f"Bearer {secrets.token_hex(16)}")
    assert refused.value.code == 403


@pytest.mark.long
def test_a_wrong_input_shows_in_the_status_of_its_job(cluster: JobCluster, tmp_path: Path) -> None:
    space = write_space(tmp_path, name="unstarted", trials=-1)
    submitted = cluster.sweep("wrong", "--", space)
    assert submitted.returncode == 1
    job = cluster.get_with_token("/api/jobs/wrong")
    assert job["status"] == "FAILED"
    assert job["driver_exit_code"] == 2
    assert "esam-tune: error: trials: must be" in job["message"]
    assert not (cluster.home / "runs" / "unstarted").exists()


@pytest.mark.long
def test_a_stopped_job_saves_its_study(cluster: JobCluster, tmp_path: Path) -> None:
    space = write_space(tmp_path, name="stopped", trials=200)
    storage = tmp_path / "storage"
    submitted = cluster.sweep("stopped", "--no-wait", "--", space, "--storage", storage)
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr

    def ended() -> int:
        events = journal_events(storage, "stopped")
        return sum(event["event"] == "trial_end" for event in events)

    wait_for(lambda: ended() >= 2, "the second trial's end")
    stopped = cluster.job("stop", "stopped")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert cluster.get_with_token("/api/jobs/stopped")["status"] == "STOPPED"
    last = journal_events(storage, "stopped")[-1]
    assert (last["event"], last["state"]) == ("study_end", "interrupted")
    read = esam_tune("pareto", "stopped", "--storage", storage, "--json")
    assert read.returncode == 0
    states = [trial["state"] for trial in json.loads(read.stdout)["trials"]]
    assert states.count("complete") >= 2


@pytest.mark.long
def test_a_setting_is_trained_and_scaled_by_jobs(
    mlflow_server: str, cluster: JobCluster, tmp_path: Path
) -> None:
    settings = write_settings(
        tmp_path / "settings.yaml", training={"epochs": 2, "batch_size": 128, "lr": 0.05}
    )
    common = ("--tracking-uri", mlflow_server)
    trained = cluster.script(
        "train",
        "trained",
        *("--", settings, "--name", "across", "--workers", 2, "--register", "across", *common),
    )
    assert trained.returncode == 0, trained.stdout + trained.stderr
    # The head's home, since no --storage was given.
    folder = cluster.home / "runs" / "models" / "across"
    document = json.loads((folder / "result.json").read_text())
    assert (document["workers"], document["metrics"]["epoch"]) == (2, 2)
    assert document["registered"] == {"name": "across", "version": 1}
    task = trial_settings(document["settings"]).task
    images, labels = load_split(task, "test").first(10_000)
    found = predictions(document, "models:/across/1", images.numpy(), tmp_path)
    right = float((found["served"].argmax(1) == labels.numpy()).mean())
    assert right == pytest.approx(document["metrics"]["test_accuracy"])

    again = cluster.script(
        "train", "again", "--", settings, "--name", "across", "--resume", *common
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert "epoch 1/2" not in again.stdout + again.stderr

    scaled = cluster.script(
        "scale",
        "scaled",
        *("--", settings, "--name", "jobs", "--workers", "1,2", "--rounds", 3, "--steps", 2),
        *common,
    )
    assert scaled.returncode == 0, scaled.stdout + scaled.stderr
    measured = json.loads((cluster.home / "runs" / "scaling" / "jobs" / "result.json").read_text())
    assert measured["workers"] == [1, 2]
