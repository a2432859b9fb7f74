"""The verb ``scale``: its answer to wrong input, and a whole study on two workers."""

import json
from pathlib import Path

import jsonschema
import pytest
import torch
import yaml
from conftest import esam_tune
from made_study import settings_document
from ray.cluster_utils import Cluster

from esam_tune.cli import main
from esam_tune.scaling.communication import Network
from esam_tune.scaling.described_network import described_network
from esam_tune.tracking.store import connect

SCHEMA = json.loads(Path(__file__).with_name("scale.schema.json").read_text())


@pytest.fixture
def settings_file(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(settings_document()))
    return path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workers", "2"], ["--workers", "must hold 1", "got 2"]),
        (["--workers", "1"], ["--workers", "and a larger count", "got 1"]),
        (["--workers", "1,2,2"], ["--workers", "each count once"]),
        (["--workers", "1,two"], ["--workers", "integer in [1, 1000000]", "1,2,4"]),
        (["--workers", "0,1"], ["--workers", "integer in [1, 1000000]", "got 0"]),
        (["--workers", "1,3"], ["training.batch_size", "3 workers", "129"]),
        (["--workers", "1,256"], ["training.batch_size", "256 workers"]),
        (["--workers", "1,4096", "--mode", "weak"], ["--workers", "CPU cores of this machine"]),
        (["--workers", "1,2", "--mode", "medium"], ["--mode", "strong", "weak"]),
        (["--workers", "1,2", "--lr-rule", "linear"], ["--lr-rule", "must be none"]),
        (["--workers", "1,2", "--rounds", "2"], ["--rounds", ">= 3", "got 2"]),
        (["--workers", "1,2", "--steps", "0"], ["--steps", "in [1, 1000000]"]),
        (["--workers", "1,2", "--predict-to", "1e9"], ["--predict-to", "65536"]),
        (["--workers", "1,2", "--network", "fast"], ["--network", "latency=20us,bandwidth=10Gbit"]),
        (
            ["--workers", "1,2", "--network", "latency=5,bandwidth=1Gbit"],
            ["latency", "us", "got '5'"],
        ),
        (
            ["--workers", "1,2", "--network", "latency=5us,bandwidth=0Gbit"],
            ["bandwidth must be > 0"],
        ),
        (
            ["--workers", "1,2", "--network", "latency=1us,latency=2us"],
            ["latency=20us,bandwidth=10Gbit"],
        ),
        (["--workers", "1,2", "--name", "a/b"], ["--name"]),
        (["--workers", "1,2", "--address", "127.0.0.1:9"], ["--address", "no Ray cluster"]),
        (["--workers", "1,2", "--tracking-uri", "ftp://x"], ["--tracking-uri"]),
        ([], ["--workers"]),
    ],
)
def test_wrong_input_is_one_line_and_starts_nothing(
    settings_file, tmp_path, capsys, monkeypatch, arguments, words
):
    def started(*_args, **_options):
        raise AssertionError("wrong input must not start Ray")

    monkeypatch.setattr("esam_tune.study.cluster.connected", started)
    monkeypatch.chdir(tmp_path)
    code = main(["scale", str(settings_file), *arguments])
    printed = capsys.readouterr()
    assert code == 2
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    for word in words:
        assert word in printed.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["settings.yaml"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine offers fp16")
def test_a_precision_that_the_workers_do_not_offer_is_refused(settings_file, tmp_path, capsys):
    document = settings_document()
    document["training"]["precision"] = "fp16"
    settings_file.write_text(yaml.safe_dump(document))
    arguments = ["--workers", "1,2", "--storage", str(tmp_path / "runs")]
    assert main(["scale", str(settings_file), *arguments]) == 2
    assert "training.precision: fp16 needs a CUDA GPU" in capsys.readouterr().err


def test_a_study_is_not_overwritten(settings_file, tmp_path, capsys):
    folder = tmp_path / "runs" / "scaling" / "mine"
    folder.mkdir(parents=True)
    arguments = ["--workers", "1,2", "--name", "mine", "--storage", str(tmp_path / "runs")]
    assert main(["scale", str(settings_file), *arguments]) == 2
    assert "a scaling study 'mine' exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "latency", "bandwidth"),
    [
        ("latency=20us,bandwidth=10Gbit", 2e-5, 1.25e9),
        ("bandwidth=100MB,latency=1.5ms", 1.5e-3, 1e8),
    ],
)
def test_a_described_network_is_read_with_its_units(text, latency, bandwidth):
    found = described_network(text)
    assert isinstance(found, Network)
    assert found.latency == pytest.approx(latency)
    assert found.bandwidth == pytest.approx(bandwidth)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.e2e
def test_a_study_on_two_workers(settings_file, tmp_path):
    storage = tmp_path / "runs"
    answer = esam_tune(
        "scale", settings_file, "--workers", "1,2", "--mode", "weak", "--rounds", "3",
        "--steps", "2", "--network", "latency=20us,bandwidth=10Gbit", "--accuracy",
        "--storage", storage, "--json",
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    document = json.loads(answer.stdout)
    jsonschema.validate(document, SCHEMA)
    assert [method["method"] for method in document["methods"]] == ["sgd", "sam", "chosen"]
    sizes = set()
    for method in document["methods"]:
        one, two = method["points"]
        assert (one["workers"], two["workers"]) == (1, 2)
        assert (one["batch_size"], two["batch_size"]) == (128, 256)
        assert (one["rows_per_worker"], two["rows_per_worker"]) == (128, 128)
        assert two["scaled"]["effective.lr"] == pytest.approx(2 * one["scaled"]["effective.lr"])
        assert one["speed_up"]["value"] == 1.0
        assert 0.1 < two["speed_up"]["value"] < 3.0
        assert two["step_seconds"]["low"] <= two["step_seconds"]["value"]
        assert two["all_reduce_seconds"]["value"] > 0
        assert 0.0 < two["val_accuracy"] < 1.0
        assert one["all_reduce_bytes"] == 0
        sizes.add(two["all_reduce_bytes"])
        for network in ("fitted", "described"):
            assert method["predictions"][network][-1]["workers"] == 1024
    # Four bytes for each weight, and the same for every method.
    assert sizes == {4 * 56_554}
    (check,) = document["model"]["leave_one_out"]
    assert "measure a third count" in check["reason"]

    folder = storage / "scaling" / "weak"
    assert json.loads((folder / "result.json").read_text()) == document
    samples = json.loads((folder / "samples.json").read_text())["samples"]
    assert {sample["round"] for sample in samples} == {0, 1, 2}
    for path in document["plots"]:
        assert Path(path).read_bytes().startswith(b"\x89PNG")

    client = connect(document["tracking_uri"])
    parent = client.get_run(document["parent_run_id"])
    assert parent.info.status == "FINISHED"
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} >= {
        "measured.png",
        "result.json",
    }
    curve = client.get_metric_history(parent.info.run_id, "chosen/efficiency")
    assert [metric.step for metric in curve] == [1, 2]
    children = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    )
    points = [point for method in document["methods"] for point in method["points"]]
    assert {run.info.run_id for run in children} == {point["mlflow_run_id"] for point in points}
    for point in points:
        run = client.get_run(point["mlflow_run_id"])
        assert run.data.metrics["speed_up"] == point["speed_up"]["value"]
        assert run.data.metrics["speed_up.low"] == point["speed_up"]["low"]
        assert run.data.metrics["val_accuracy"] == point["val_accuracy"]
        assert run.data.params["effective.batch_size"] == str(point["batch_size"])
        assert run.data.params["workers"] == str(point["workers"])


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.e2e
def test_each_of_three_real_counts_is_told_from_the_other_two(settings_file, tmp_path):
    """Four workers share this machine's cores, however few: the node says that it has four."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4})
    try:
        answer = esam_tune(
            "scale", settings_file, "--workers", "1,2,4", "--mode", "strong", "--rounds", "3",
            "--steps", "2", "--storage", tmp_path / "runs", "--name", "three",
            "--address", cluster.address,
        )  # fmt: skip
    finally:
        cluster.shutdown()
    assert answer.returncode == 0, answer.stderr
    document = json.loads((tmp_path / "runs" / "scaling" / "three" / "result.json").read_text())
    model = document["model"]
    assert [line.partition(":")[0] for line in model["not_told"]][-1] == "steps of few rows"
    assert not any(line.startswith("growth with the count") for line in model["not_told"])
    assert [check["workers"] for check in model["leave_one_out"]] == [2, 4]
    labels = {method["method"]: method["label"] for method in document["methods"]}
    for check in model["leave_one_out"]:
        assert check["errors"].keys() == labels.keys()
        assert all(error > -1 for error in check["errors"].values())
        (line,) = (
            line
            for line in answer.stdout.splitlines()
            if line.startswith(f"leaving out {check['workers']} workers: ")
        )
        for method, error in check["errors"].items():
            assert f"{labels[method]} {100 * error:+.1f} %" in line
    assert (tmp_path / "runs" / "scaling" / "three" / "measured.png").exists()
