"""A study from start to end, on times that a known model made instead of a cluster."""

import json
import os
import re
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import jsonschema
import pytest
import yaml
from made_study import MODEL, made_measurement, settings_document
from rich.console import Console
from test_scale_verb import SCHEMA

from esam_tune.cli import main
from esam_tune.errors import RunFailedError
from esam_tune.scaling.design import design
from esam_tune.scaling.study import default_name
from esam_tune.scaling.tables import print_study
from esam_tune.tracking.store import connect

NODES = [{"CPU": 4.0}]


class Cluster:
    """Four cores that answer with the model's times."""

    def __init__(self):
        self.plans, self.trainings, self.failure = [], [], None

    @contextmanager
    def connected(self, address, *, distributed):
        yield NODES

    def run_study(self, plan, trainings, placement):
        if self.failure:
            raise self.failure
        self.plans.append(plan)
        self.trainings.append(trainings)
        assert placement.threads == 1
        from esam_tune.config import trial_settings

        chosen = next(cell for cell in plan.cells if cell.method == "chosen")
        settings = trial_settings({**chosen.settings, "origin": {}})
        counts = sorted({cell.workers for cell in plan.cells})
        made = design(settings, counts, "strong")
        last = [{"val_accuracy": 0.5 + 0.1 * cell.workers} for cell in trainings]
        return made_measurement(made, rounds=plan.rounds, noise=0.01), last


@pytest.fixture
def cluster(monkeypatch):
    made = Cluster()
    monkeypatch.setattr("esam_tune.study.cluster.connected", made.connected)
    monkeypatch.setattr("esam_tune.study.cluster.local_nodes", lambda: NODES)
    monkeypatch.setattr("esam_tune.scaling.group.run_study", made.run_study)
    monkeypatch.setattr("esam_tune.study.peers.peers", lambda gpus: [])
    return made


@pytest.fixture
def scale(tmp_path, cluster, capsys):
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(settings_document()))

    def run(*arguments):
        code = main(
            ["scale", str(path), "--workers", "1,2,4", "--rounds", "3", "--storage",
             str(tmp_path / "runs"), *arguments]
        )  # fmt: skip
        return code, capsys.readouterr()

    return run


def test_the_document_follows_its_schema_and_holds_the_truth(scale, cluster):
    code, printed = scale("--accuracy", "--predict-to", "100", "--steps", "7", "--json")
    assert code == 0
    document = json.loads(printed.out)
    jsonschema.validate(document, SCHEMA)
    assert document["model"]["latency_seconds"]["value"] == pytest.approx(
        MODEL.network.latency, rel=0.1
    )
    assert [check["workers"] for check in document["model"]["leave_one_out"]] == [2, 4]
    errors = document["model"]["leave_one_out"][1]["errors"]
    assert all(abs(error) < 0.1 for error in errors.values())
    (plan,) = cluster.plans
    assert (plan.rounds, plan.steps) == (3, 7)
    for method in document["methods"]:
        assert [point["val_accuracy"] for point in method["points"]] == [0.6, 0.7, 0.9]
        predicted = [point["workers"] for point in method["predictions"]["fitted"]]
        assert predicted == [1, 2, 4, 8, 16, 32, 64, 100]
    (trainings,) = cluster.trainings
    assert [(cell.method, cell.workers) for cell in trainings] == [
        (method, workers) for workers in (1, 2, 4) for method in ("sgd", "sam", "chosen")
    ]


def test_mlflow_has_a_run_of_the_study_and_under_it_one_of_each_point(scale):
    code, printed = scale("--accuracy", "--json", "--name", "nested")
    assert code == 0
    document = json.loads(printed.out)
    client = connect(document["tracking_uri"])
    parent = client.get_run(document["parent_run_id"])
    assert (parent.info.status, parent.info.run_name) == ("FINISHED", "nested")
    kept = {file.path for file in client.list_artifacts(parent.info.run_id)}
    pictures = {Path(path).name for path in document["plots"]}
    assert {"measured.png", "predicted_fitted.png"} <= pictures
    assert kept == pictures | {"result.json", "samples.json"}
    for method in ("sgd", "sam", "chosen"):
        curve = client.get_metric_history(parent.info.run_id, f"{method}/speed_up")
        assert [metric.step for metric in curve] == [1, 2, 4]

    everything = client.search_runs([parent.info.experiment_id])
    children = {run.info.run_id: run for run in everything if run.info.run_id != parent.info.run_id}
    assert len(children) == 9
    for method in document["methods"]:
        for point in method["points"]:
            child = children.pop(point["mlflow_run_id"])
            assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
            assert child.info.status == "FINISHED"
            assert child.data.params["optimizer"] == method["params"]["optimizer"]
            assert child.data.params["workers"] == str(point["workers"])
            assert child.data.params["effective.lr"] == str(point["scaled"]["effective.lr"])
            assert child.data.metrics["val_accuracy"] == point["val_accuracy"]
            for key in ("step_seconds", "images_per_second", "speed_up", "efficiency"):
                assert child.data.metrics[key] == point[key]["value"]
                assert child.data.metrics[f"{key}.low"] == point[key]["low"]
    assert children == {}


def test_what_is_printed(scale):
    code, printed = scale("--accuracy", "--network", "latency=1us,bandwidth=100Gbit")
    assert code == 0
    lines = printed.out.splitlines()
    for words in (
        "Strong scaling, medians of 3 rounds",
        "validation accuracy",
        "leaving out 4 workers: SGD ",
        "predicted for 128 workers on the fitted network",
        "predicted for 128 workers on the described network",
        "Compute for each byte sent: a step of ESAM",
        "Throughput is another matter",
        "predicted_described.png",
    ):
        assert any(words in line for line in lines), words
    rows = [line.split() for line in lines]
    assert sum(row[:1] == ["4"] and len(row) == 12 for row in rows) == 3
    assert "measuring 3 methods on 1, 2, 4 workers" in printed.err


def test_columns_never_touch(scale, capsys):
    _, printed = scale("--json", "--network", "latency=1us,bandwidth=100Gbit")
    document = json.loads(printed.out)
    for method in document["methods"]:
        for rows in (method["points"], method["predictions"]["described"]):
            for row in rows:
                for key in ("value", "low", "high"):
                    row["images_per_second"][key] *= 1e9
    print_study(document, Console(highlight=False, markup=False, soft_wrap=True, width=200))
    lines = capsys.readouterr().out.splitlines()
    cells = [re.split(r"\s{2,}", line.strip()) for line in lines]
    assert [row[0] for row in cells if len(row) == 8] == ["workers", *["1", "2", "4"] * 3]
    predicted = [row for row in cells if len(row) == 3]
    assert len(predicted) == 2 * (1 + len(document["methods"]))
    assert all(re.search(r"\d,\d{3}$|\)$|images/s$", row[-1]) for row in predicted)


def test_an_unreachable_tracking_server_loses_nothing(scale, tmp_path, monkeypatch):
    def fail(*_args, **_options):
        raise ConnectionError("away")

    monkeypatch.setattr("esam_tune.scaling.study.log_scaling", fail)
    code, printed = scale("--json", "--name", "kept")
    assert code == 0
    document = json.loads(printed.out)
    assert document["parent_run_id"] is None
    kept = tmp_path / "runs" / "scaling" / "kept"
    assert json.loads((kept / "result.json").read_text()) == document
    jsonschema.validate(document, SCHEMA)


def test_a_failed_study_says_so_and_leaves_nothing(scale, cluster, tmp_path):
    cluster.failure = RunFailedError("the study failed: DivergedError: sgd")
    code, printed = scale()
    assert code == 1
    assert printed.err.splitlines()[-1] == "esam-tune: the study failed: DivergedError: sgd"
    assert printed.out == ""
    assert not (tmp_path / "runs" / "scaling").exists()


def test_a_signal_ends_it_with_its_code_and_one_line(scale, cluster, tmp_path, monkeypatch):
    def interrupted(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    monkeypatch.setattr("esam_tune.scaling.group.run_study", interrupted)
    code, printed = scale()
    assert code == 143
    assert printed.err.splitlines()[-1] == "esam-tune: SIGTERM ended the scaling study"
    assert not (tmp_path / "runs" / "scaling").exists()


def test_names_count_up(tmp_path):
    assert default_name(tmp_path, "weak") == "weak"
    for name in ("weak", "weak-2"):
        (tmp_path / "scaling" / name).mkdir(parents=True)
    assert default_name(tmp_path, "weak") == "weak-3"
    assert default_name(tmp_path, "strong") == "strong"
