"""Outages of a real MLflow server while a study runs: killed, stopped, started again.

``make chaos`` runs twenty of them; a study's own process is killed and goes on now and then, too.
Afterwards the server holds each of the study's epochs once: metrics missing 0, duplicated 0.
"""

import json
import multiprocessing
import os
import random
import signal
import time
from collections import Counter

import pytest
from mlflow_server import MlflowServer
from study_events import WrittenStudy, study_spec

from esam_tune import journal
from esam_tune.study.tracked_study import TrackedStudy
from esam_tune.tracking.spool import Tracker
from esam_tune.tracking.store import connect

KEYS = ("val_accuracy", "step_flops_ratio")
SEED = int(os.environ.get("ESAM_TUNE_CHAOS_SEED", "0"))


def ship(uri, path, cursor):
    """A study's process, as far as MLflow is concerned: it ships until it is killed."""
    tracker = Tracker(uri, None, path, cursor, TrackedStudy())
    tracker.start()
    while True:
        time.sleep(60)


class Driver:
    """The process that ships, killed and started again."""

    def __init__(self, *arguments):
        self._arguments = arguments
        self._process = None
        self.start()

    def start(self):
        spawn = multiprocessing.get_context("spawn")
        self._process = spawn.Process(target=ship, args=self._arguments, daemon=True)
        self._process.start()

    def kill(self):
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.join()


def write_some(study, dice, running, epochs):
    """A trial that begins, or the next epoch of one that runs, with values of its own."""
    if not running or dice.random() < 0.2:
        running.append([study.start(number=study._count), 0])
        return
    trial = dice.choice(running)
    trial[1] += 1
    accuracy = dice.random()
    metrics = dict(zip(KEYS, (accuracy, 1.0 + accuracy), strict=True))
    epochs += [(trial[0], key, trial[1], value) for key, value in metrics.items()]
    study.epoch(trial[0], trial[1], **metrics)
    if trial[1] == study.spec.training.epochs:
        study.end(trial[0])
        running.remove(trial)


def outages_of(folder, count, longest, seed):
    """Run a study through outages; (trial, metric, epoch, value) as written, and as the server has
    them."""
    dice = random.Random(seed)
    spec = study_spec(training={"epochs": 5, "batch_size": 64, "lr": 0.05})
    study = WrittenStudy(folder / "journal.jsonl", spec)
    cursor = folder / "tracking.json"
    epochs, running = [], []

    def go_on(seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            write_some(study, dice, running, epochs)
            time.sleep(0.05)

    with MlflowServer(folder) as server:
        driver = Driver(server.uri, study.path, cursor)
        for _ in range(count):
            go_on(dice.uniform(0.2, 2.0))
            how = dice.choice(["killed", "stopped"])
            (server.kill if how == "killed" else server.stop)()
            go_on(dice.uniform(0.2, longest))
            if dice.random() < 0.5:
                driver.kill()
                study.writer.append(journal.STUDY_RESUME)
                driver.start()
            (server.start if how == "killed" else server.go_on)()
        go_on(1.0)
        for trial_id, _ in running:
            study.end(trial_id, "failed", "the study ended")
        study.writer.append(journal.STUDY_END, state="done", artifacts=[])
        driver.kill()
        last = Tracker(server.uri, None, study.path, cursor, TrackedStudy())
        last.ship_all()
        assert last.arrived
        return epochs, *held(server.uri)


def held(uri):
    """What a server has of the only study on it: values, and how often each trial has a run."""
    client = connect(uri)
    experiment = client.get_experiment_by_name("esam-tune")
    found, runs = [], Counter()
    for run in client.search_runs([experiment.experiment_id], max_results=5000):
        trial_id = run.data.tags.get("esam_tune.trial_id", "the study")
        runs[trial_id] += 1
        assert run.info.status in ("FINISHED", "FAILED")
        for key in KEYS:
            history = client.get_metric_history(run.info.run_id, key)
            found += [(trial_id, key, point.step, point.value) for point in history]
    return found, runs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "longest"),
    [pytest.param(1, 2.0, id="short"), pytest.param(20, 20.0, id="full", marks=pytest.mark.long)],
)
def test_every_metric_arrives_once_through_outages(tmp_path, count, longest, record_property):
    started = time.monotonic()
    written, found, runs = outages_of(tmp_path, count, longest, SEED)
    missing, extra = Counter(written) - Counter(found), Counter(found) - Counter(written)
    figures = {
        "seed": SEED,
        "outages": count,
        "longest outage, seconds": longest,
        "trials": len(runs) - 1,
        "metrics": len(written),
        "missing": missing.total(),
        "duplicated": extra.total(),
        "runs twice": sum(number > 1 for number in runs.values()),
        "seconds": round(time.monotonic() - started),
    }
    print(json.dumps(figures))  # noqa: T201 - shown by pytest -s
    record_property("figures", figures)
    assert len(written) > 20 * len(KEYS) * count
    assert (missing, extra) == (Counter(), Counter())
    assert set(runs.values()) == {1}
    assert {trial for trial, *_ in written} <= runs.keys()
