"""A study with a secret in every address and variable: none of them is anywhere afterwards."""

import json
import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from conftest import REPOSITORY, command_line, environment, write_space
from mlflow_double import MlflowDouble, serving
from training_process import write_settings

from esam_tune import step_timer
from esam_tune.cli import main

VARIABLES = {
    "AWS_ACCESS_KEY_ID": "SECRET-aws-id",
    "AWS_SECRET_ACCESS_KEY": "SECRET-aws-key",
    "AWS_SESSION_TOKEN": "SECRET-aws-session",
    "MLFLOW_TRACKING_TOKEN": "SECRET-mlflow-token",
    "RAY_AUTH_TOKEN": "SECRET-ray-token-" + "0" * 32,
    "POSTGRES_PASSWORD": "SECRET-postgres",
    "GITHUB_TOKEN": "SECRET-github",
    "SOMETHING_ELSE": "SECRET-unknown",
}
LOGIN = "SECRET-user:SECRET-password"


def holding(folder):
    """Files below a folder whose name or content has a secret."""
    content = {
        path: path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        for path in Path(folder).rglob("*")
    }
    return [path for path, held in content.items() if b"SECRET-" in os.fsencode(path.name) + held]


@pytest.mark.e2e
@pytest.mark.ray
@pytest.mark.slow
def test_no_secret_is_printed_stored_or_sent(tmp_path, capsys, monkeypatch):
    space = write_space(tmp_path, trials=1, training={"epochs": 1, "batch_size": 256, "lr": 0.05})
    storage, optuna = tmp_path / "runs", tmp_path / "optuna.log"
    double = MlflowDouble(login=LOGIN)
    given = ["--optuna-storage", f"journal:///{optuna}?password=SECRET-optuna"]
    with serving(double) as uri, tempfile.TemporaryDirectory(prefix="esam-") as scratch:
        # Ray keeps its logs, and what it knows of its processes, below it.
        secrets = {**VARIABLES, "MLFLOW_TRACKING_URI": uri, "TMPDIR": scratch}
        study = subprocess.run(
            command_line("sweep", space, "--storage", storage, "--json", *given),
            env=environment(**secrets),
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert study.returncode == 0, study.stderr
        for name, value in secrets.items():
            monkeypatch.setenv(name, value)
        chosen, page = tmp_path / "chosen.yaml", tmp_path / "page"
        assert main(["pareto", "tiny", "--storage", str(storage), "--export", str(chosen)]) == 0
        assert main(["report", "tiny", "--storage", str(storage), "--out", str(page)]) == 0
        assert main(["sync", "tiny", "--storage", str(storage)]) == 0
        assert holding(scratch) == []
    printed = capsys.readouterr()
    assert "SECRET-" not in study.stdout + study.stderr + printed.out + printed.err
    assert json.loads(study.stdout)["parent_run_id"]
    assert len(double.snapshot()) >= 3
    assert "SECRET-" not in json.dumps(double.snapshot())
    for content in double.artifacts.values():
        assert b"SECRET-" not in (content if isinstance(content, bytes) else content.encode())
    assert (page / "report.html").exists()
    assert holding(tmp_path) == []
    # The search finds what is there.
    (tmp_path / "planted").write_text(f"token={VARIABLES['GITHUB_TOKEN']}")
    assert holding(tmp_path) == [tmp_path / "planted"]


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("tracked", ["on a server", "in the storage"])
def test_no_secret_is_in_what_a_training_leaves(tmp_path, capfd, caplog, monkeypatch, tracked):
    monkeypatch.setattr(step_timer, "_PAIRS", 2)
    settings = write_settings(
        tmp_path / "settings.yaml", training={"epochs": 1, "batch_size": 256, "lr": 0.05}
    )
    storage, double = tmp_path / "runs", MlflowDouble(login=LOGIN)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    with serving(double) as uri:
        if tracked == "on a server":
            monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        options = ["--storage", str(storage), "--name", "chosen", "--register", "chosen", "--json"]
        code = main(["train", str(settings), *options])
    printed = capfd.readouterr()
    assert "SECRET-" not in printed.out + printed.err + caplog.text
    document = json.loads(printed.out)
    if tracked == "on a server":
        # It keeps runs and no models, so that what is said of those it does not take is read too.
        assert code == 1
        assert "MLflow did not take the model" in caplog.text
        assert len(double.snapshot()) == 1
        assert "SECRET-" not in json.dumps(double.snapshot())
        assert list(double.artifacts.values())
        assert not any(b"SECRET-" in content for content in double.artifacts.values())
    else:
        assert code == 0
        assert document["registered"] == {"name": "chosen", "version": 1}
        assert list(storage.rglob("model.pt2"))
    assert holding(tmp_path) == []


@pytest.mark.parametrize(
    "wrong",
    [
        f"postgresql://{LOGIN}@127.0.0.1:9/db",
        f"postgresql://127.0.0.1:9/db?password={LOGIN}",
        f"http://{LOGIN}@[bad",
        f"http://{LOGIN}@127.0.0.1:9",
        f"{LOGIN}@127.0.0.1",
        f"s3://{LOGIN}@bucket/x?secret_key=SECRET-query",
    ],
)
@pytest.mark.parametrize("option", ["--tracking-uri", "--optuna-storage", "--checkpoint-storage"])
def test_what_is_wrong_with_an_address_is_told_without_what_it_hides(
    tmp_path, capsys, monkeypatch, option, wrong
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if option == "--checkpoint-storage" and "://" not in wrong:
        pytest.skip("a folder's name")
    space = write_space(tmp_path)
    storage = tmp_path / "runs"
    assert main(["sweep", str(space), "--storage", str(storage), option, wrong]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert option in line
    assert "SECRET-" not in line
