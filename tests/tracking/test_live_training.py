"""A final training's run: shown while it goes on, complete in the end, and one whatever happens."""

import logging
import signal
import threading
import time
from dataclasses import replace

import pytest
from ports import free_port

from esam_tune.errors import RunFailedError
from esam_tune.study.signals import Stopped
from esam_tune.tracking import live_training
from esam_tune.tracking.final import TRAINING_TAG, TrainingStart, log_training, open_run
from esam_tune.tracking.live_training import LiveRun
from esam_tune.tracking.store import artifact_root, connect, local_uri

START = TrainingStart(
    name="small: sam rho=0.05",
    training_id="a1",
    time=1e9,
    dataset={"name": "digits", "digest": "d1", "profile": {"classes": 10}},
    versions={"torch": "2"},
    params={"task.dataset": "digits", "optimizer": "sam", "rho": 0.05, "seed": 4, "workers": 2},
    lineage={"study": "small", "trial_id": "0003"},
)
FIRST = ({"epoch": 1, "val_accuracy": 0.5}, 1e9 + 1)
LAST = ({"epoch": 2, "val_accuracy": 0.6, "test_accuracy": 0.55}, 1e9 + 2.5)
DOCUMENT = {"weights_digest": "5f"}


class Store:
    """MLflow's store in a folder, and what it has of the training."""

    def __init__(self, folder):
        self.folder = folder
        self.uri = local_uri(folder)
        self.root = artifact_root(folder, self.uri)
        self.client = connect(self.uri)

    def live(self, epochs=()):
        return LiveRun(self.uri, self.root, START, epochs)

    def finish(self, epochs=(FIRST, LAST)):
        weights = self.folder / "weights.pt"
        weights.write_bytes(b"weights")
        return log_training(
            self.uri,
            self.root,
            START,
            document=DOCUMENT,
            epochs=epochs,
            artifacts=[weights],
            model=None,
        )

    def runs(self):
        known = self.client.get_experiment_by_name("esam-tune")
        return [] if known is None else self.client.search_runs([known.experiment_id])

    def run(self):
        (run,) = self.runs()
        return run

    def accuracies(self, key="val_accuracy"):
        history = self.client.get_metric_history(self.run().info.run_id, key)
        return sorted((point.step, point.value, point.timestamp) for point in history)

    def wait_for_epochs(self, count):
        deadline = time.monotonic() + 60
        while len(self.runs()) != 1 or len(self.accuracies()) < count:
            assert time.monotonic() < deadline, "the epochs do not arrive"
            time.sleep(0.05)


@pytest.fixture
def store(tmp_path, empty_store, monkeypatch):
    monkeypatch.setattr(live_training, "_POLL_SECONDS", 0.02)
    monkeypatch.setattr(live_training, "_LONGEST_WAIT", 0.1)
    (tmp_path / "mlflow.db").write_bytes(empty_store)
    return Store(tmp_path)


def test_a_final_training_is_a_run_of_its_own(store):
    for _ in range(2):
        logged = store.finish()
    assert logged.model_id is None
    run = store.run()
    assert run.info.run_id == logged.run_id
    assert (run.info.run_name, run.info.status) == ("small: sam rho=0.05", "FINISHED")
    assert (run.info.start_time, run.info.end_time) == (int(1e12), int(1e12) + 2500)
    assert run.data.params == {key: str(value) for key, value in START.params.items()}
    assert run.data.tags["esam_tune.origin.trial_id"] == "0003"
    assert run.data.tags["esam_tune.weights_digest"] == "5f"
    assert run.data.tags["version.torch"] == "2"
    assert [used.dataset.digest for used in run.inputs.dataset_inputs] == ["d1"]
    assert store.accuracies() == [(1, 0.5, int(1e12) + 1000), (2, 0.6, int(1e12) + 2500)]
    assert run.data.metrics["test_accuracy"] == 0.55
    assert [item.path for item in store.client.list_artifacts(run.info.run_id)] == ["weights.pt"]


def test_an_epoch_is_there_while_the_training_goes_on(store):
    with store.live() as live:
        live.add(FIRST)
        store.wait_for_epochs(1)
        run = store.run()
        assert run.info.status == "RUNNING"
        assert run.data.params["optimizer"] == "sam"
        live.add(LAST)
        store.wait_for_epochs(2)
    # What is missing yet, the weights and the model, comes with the end.
    assert store.run().info.status == "RUNNING"
    assert store.finish().run_id == run.info.run_id
    assert store.run().info.status == "FINISHED"
    assert [step for step, _, _ in store.accuracies()] == [1, 2]


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (RunFailedError("training failed: lost a node"), "FAILED", "training failed: lost a node"),
        (KeyboardInterrupt(), "KILLED", "interrupted"),
        (Stopped(signal.SIGTERM), "KILLED", "interrupted"),
    ],
)
def test_a_training_that_was_ended_says_so_and_goes_on_in_the_same_run(
    store, error, status, reason
):
    with pytest.raises(type(error)), store.live() as live:  # noqa: PT012 - as trainings do
        live.add(FIRST)
        raise error
    ended = store.run()
    assert ended.info.status == status
    assert ended.data.tags["esam_tune.reason"] == reason
    assert [step for step, _, _ in store.accuracies()] == [1]

    with store.live([FIRST]) as live:
        live.add(LAST)
        store.wait_for_epochs(2)
        again = store.run()
    assert (again.info.run_id, again.info.status) == (ended.info.run_id, "RUNNING")
    assert "esam_tune.reason" not in again.data.tags
    assert [step for step, _, _ in store.accuracies()] == [1, 2]


def test_one_that_is_stopped_between_its_last_epoch_and_its_model_says_so(store):
    with pytest.raises(KeyboardInterrupt), store.live() as live:  # noqa: PT012 - as trainings do
        live.add(FIRST)
        live.add(LAST)
        live.rest()
        raise KeyboardInterrupt
    assert store.run().info.status == "KILLED"
    assert [step for step, _, _ in store.accuracies()] == [1, 2]
    store.finish()
    run = store.run()
    assert run.info.status == "FINISHED"
    assert "esam_tune.reason" not in run.data.tags


def test_what_is_complete_stays_so_whatever_ends_the_process_then(store):
    with pytest.raises(KeyboardInterrupt), store.live() as live:  # noqa: PT012 - as trainings do
        live.add(LAST)
        live.rest()
        store.finish()
        raise KeyboardInterrupt
    run = store.run()
    assert run.info.status == "FINISHED"
    assert "esam_tune.reason" not in run.data.tags


def test_what_fails_before_its_first_epoch_leaves_no_run(store):
    with pytest.raises(RunFailedError), store.live():
        raise RunFailedError("no")
    assert store.runs() == []


def test_a_training_of_seconds_asks_nothing_of_the_server(store, monkeypatch):
    monkeypatch.setattr(live_training, "_POLL_SECONDS", 60.0)
    before = threading.active_count()
    with store.live() as live:
        live.add(FIRST)
        live.add(LAST)
    assert threading.active_count() == before
    assert store.runs() == []


def test_a_server_that_is_away_is_told_of_once_and_keeps_nothing_up(store, caplog, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    asked = []
    monkeypatch.setattr(
        live_training, "connect", lambda uri: asked.append(uri) or connect(uri, retries=0)
    )
    uri = f"http://me:secret@127.0.0.1:{free_port()}"
    began = time.monotonic()
    with (  # noqa: PT012 - as trainings do
        caplog.at_level(logging.WARNING),
        pytest.raises(KeyboardInterrupt),
        LiveRun(uri, None, START) as live,
    ):
        live.add(FIRST)
        while not caplog.records:
            assert time.monotonic() - began < 60
            time.sleep(0.02)
        live.add(LAST)
        time.sleep(0.5)
        raise KeyboardInterrupt
    assert asked
    (told,) = caplog.records
    assert "does not take the training's epochs" in told.message
    assert "secret" not in told.message


def test_a_run_that_was_made_twice_is_left_once(store):
    open_run(store.client, store.root, START)
    run = store.run()
    twin = store.client.create_run(run.info.experiment_id, tags={TRAINING_TAG: "a1"})
    other = open_run(store.client, store.root, replace(START, training_id="b2"))
    kept = open_run(store.client, store.root, START)
    assert {found.info.run_id for found in store.runs()} == {
        kept.info.run_id,
        other.info.run_id,
    }
    assert kept.info.run_id in (run.info.run_id, twin.info.run_id)


def test_of_two_runs_the_finished_one_stays(store):
    logged = store.finish()
    run = store.run()
    for _ in range(3):
        store.client.create_run(run.info.experiment_id, tags={TRAINING_TAG: "a1"})
    assert store.finish().run_id == logged.run_id
    assert store.run().info.run_id == logged.run_id
