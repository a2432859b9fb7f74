"""A study with a secret in every address and variable: none of them is anywhere afterwards."""

import json
import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from conftest import REPOSITORY, command_line, environment, write_space
from mlflow_double import MlflowDouble, serving

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.slow]

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


def test_no_secret_is_printed_stored_or_sent(tmp_path):
    space = write_space(tmp_path, trials=1, training={"epochs": 1, "batch_size": 256, "lr": 0.05})
    storage, optuna = tmp_path / "runs", tmp_path / "optuna.log"
    double = MlflowDouble(login=LOGIN)
    said = []

    with serving(double) as uri, tempfile.TemporaryDirectory(prefix="esam-") as scratch:
        secrets = {**VARIABLES, "MLFLOW_TRACKING_URI": uri, "TMPDIR": scratch}

        def run(*arguments, code=0, **variables):
            done = subprocess.run(
                command_line(*arguments, "--storage", storage),
                env=environment(**{**secrets, **variables}),
                cwd=REPOSITORY,
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            said.append(done.stdout + done.stderr)
            assert done.returncode == code, done.stderr
            return done

        given = ["--optuna-storage", f"journal:///{optuna}?password=SECRET-optuna"]
        document = json.loads(run("sweep", space, "--json", *given).stdout)
        run("sweep", space, "--resume", "--trials", "2", "--tracking-uri", uri, *given)
        run("pareto", "tiny", "--export", tmp_path / "chosen.yaml")
        run("report", "tiny", "--out", tmp_path / "page")
        run("sync", "tiny")
        # What is wrong with an address is told without what it hides.
        for option in ("--tracking-uri", "--optuna-storage", "--checkpoint-storage"):
            for wrong in (
                f"postgresql://{LOGIN}@127.0.0.1:9/db",
                f"http://{LOGIN}@[bad",
                f"{LOGIN}@127.0.0.1",
                f"s3://{LOGIN}@bucket/x?secret_key=SECRET-query",
            ):
                if option != "--checkpoint-storage" or "://" in wrong:
                    run("sweep", space, "--name", "other", option, wrong, code=2)
        assert holding(scratch) == []

    assert document["parent_run_id"]
    assert len(double.snapshot()) >= 3
    for text in said:
        assert "SECRET-" not in text
    assert "SECRET-" not in json.dumps(double.snapshot())
    for content in double.artifacts.values():
        assert b"SECRET-" not in (content if isinstance(content, bytes) else content.encode())
    assert holding(tmp_path) == []
    # The grep finds what is there.
    (tmp_path / "planted").write_text(f"token={VARIABLES['GITHUB_TOKEN']}")
    assert holding(tmp_path) == [tmp_path / "planted"]
