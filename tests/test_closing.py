"""What a sweep prints at its end: commands that work, and a bound that leaves something."""

import shlex
import sys
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from study_events import WrittenStudy, space_document, study_spec

from esam_tune.cli import build_parser, job, main
from esam_tune.cli.repetition import repetition
from esam_tune.study.closing import print_result
from esam_tune.study.execution import SweepResult
from esam_tune.study.folder import study_folder
from esam_tune.study.preflight import draw_up
from esam_tune.study.results import write_results
from esam_tune.tracking.store import local_uri, without_credentials

SERVER = "https://host:5000/mlflow"


def parsed(arguments):
    options = vars(build_parser().parse_args(arguments))
    return {key: value for key, value in options.items() if key not in ("parser", "run")}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to call from, with a space file; nothing of an outer job or server."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    Path("my space.yaml").write_text(yaml.safe_dump(space_document()))
    return tmp_path


def write_study(folder, spec, **started):
    study = WrittenStudy(folder.journal, spec, **{"tracking_uri": None, **started})
    study.trial(0.9, 1.5)
    study.writer.close()


@pytest.fixture
def interrupted(here, monkeypatch):
    """Has every sweep and refinement write a study and be interrupted; the plans they had."""
    plans = []

    def sweep(space, overrides, options, console):
        plan = draw_up(space, overrides, options)
        plans.append((plan, options))
        if not plan.folder.exists():
            own = plan.uri == local_uri(plan.folder.storage)
            write_study(
                plan.folder,
                plan.spec,
                workers_per_trial=plan.workers,
                min_workers=plan.min_workers,
                checkpoint_storage=plan.checkpoint_storage,
                optuna_storage=plan.optuna_storage and without_credentials(plan.optuna_storage),
                tracking_uri=None if own else without_credentials(plan.uri),
            )
        return result_of(plan.folder)

    def refine(folder, seeds, options, console):
        plans.append((seeds, options))
        return result_of(folder)

    monkeypatch.setattr("esam_tune.study.sweep.sweep", sweep)
    monkeypatch.setattr("esam_tune.study.sweep.refine", refine)
    return plans


def result_of(folder, outcome="interrupted"):
    return SweepResult(outcome=outcome, document={}, record=folder.record(), folder=folder)


@pytest.mark.parametrize(
    ("outcome", "code"), [("done", 0), ("failed", 1), ("interrupted", 130), ("terminated", 143)]
)
def test_the_exit_code_says_what_came_of_it(here, monkeypatch, outcome, code):
    folder = study_folder(here / "runs", "small")
    write_study(folder, study_spec())
    monkeypatch.setattr("esam_tune.study.sweep.sweep", lambda *_: result_of(folder, outcome))
    monkeypatch.setattr("esam_tune.study.sweep.refine", lambda *_: result_of(folder, outcome))
    assert main(["sweep", "my space.yaml"]) == code
    assert main(["refine", "small", "--seeds", "2"]) == code


def test_each_trial_that_failed_is_printed_with_its_reason(here, capsys):
    folder = study_folder(here / "runs", "small")
    study = WrittenStudy(folder.journal, study_spec(), tracking_uri=None)
    study.trial(0.9, 1.5)
    pruned = study.start(label="behind")
    study.end(pruned, "pruned", "behind at epoch 1")
    # Neither a label nor a reason is markup or the code of a face, nor cut to the terminal's width.
    failed = study.start(label="[bold]ESAM")
    study.epoch(failed, 1, val_accuracy=0.5, step_flops_ratio=1.5)
    reason = f"OSError: {'no space left ' * 9}[red]:smile: (node a)"
    study.end(failed, "failed", reason)
    study.writer.close()
    print_result(result_of(folder, "done"), Console(width=60), "sweep x")
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("failed: ")] == [
        f"failed: {failed} [bold]ESAM: {reason}"
    ]


def said(capsys):
    """The last lines by what they are about."""
    lines = capsys.readouterr().out.splitlines()
    return {
        what.strip(): text.strip() for what, _, text in (line.partition(": ") for line in lines)
    }


def test_a_study_whose_working_folder_is_gone_says_all_the_same(here, capsys, monkeypatch):
    """A second Ray node of a host takes a job's folder away while the job runs."""
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    # A job's script, as the shell named it.
    monkeypatch.setattr(sys, "argv", ["jobs/sweep.py"])
    monkeypatch.setattr("shutil.which", lambda name: None)
    folder = study_folder(here / "runs", "small")
    write_study(folder, study_spec())
    (here / "gone").mkdir()
    monkeypatch.chdir(here / "gone")
    (here / "gone").rmdir()
    print_result(result_of(folder), Console(width=200), "sweep x.yaml --resume")
    write_results(folder, folder.record())
    monkeypatch.chdir(here)
    lines = said(capsys)
    assert lines["go on"].endswith(f"arguments x.yaml --resume --storage {folder.storage}")
    assert lines["settings"] == str(folder.chosen)


GIVEN = [
    [],
    ["--name", "other"],
    ["--seeds", "3", "--epochs", "2", "--trials", "9", "--seed", "4"],
    ["--set", "task.label_noise=0.2", "--set", "search.every={choices: [1, 2]}"],
    ["--set", 'description="it\'s $HOME :smile: [bold]"'],
    ["--address", "10.0.0.1:6379", "--storage", "my runs", "--max-failures", "0"],
    ["--workers-per-trial", "2-4", "--gpus-per-worker", "0.25", "--cpus-per-worker", "2"],
    ["--workers-per-trial", "2", "--gpus-per-worker", "2", "--max-epoch-seconds", "60"],
    ["--tracking-uri", SERVER, "--checkpoint-storage", "s3://bucket/a b", "--max-concurrent", "1"],
    ["--optuna-storage", "journal:////tmp/optuna.log"],
]


@pytest.mark.parametrize("given", GIVEN, ids=lambda given: " ".join(given)[:40])
def test_what_goes_on_is_what_was_given(interrupted, capsys, given):
    assert main(["sweep", "my space.yaml", *given]) == 130
    verb, *again = shlex.split(said(capsys)["go on"])
    assert verb == "esam-tune"
    (plan, _) = interrupted[0]
    expected = parsed(["sweep", "my space.yaml", *given])
    storage = Path(expected.pop("storage"))
    found = parsed(again)
    assert Path(found.pop("storage")).absolute() == storage.absolute()
    assert found == {**expected, "name": plan.folder.name, "resume": True}
    # It is taken, and asks for the same again.
    assert main(again) == 130
    (resumed, options), (first, before) = interrupted[1], interrupted[0]
    assert (resumed, options.resume) == (first, True)
    assert (options.address, options.shape) == (before.address, before.shape)
    # Another one prints the same: nothing comes up twice.
    assert shlex.split(said(capsys)["go on"])[1:] == again


def test_a_password_is_not_printed_but_asked_for(interrupted, capsys):
    secret = SERVER.replace("host", "me:pass%40word@host")
    database = "postgresql+x://me:pass%40word@host/optuna"
    given = ["--tracking-uri", secret, "--optuna-storage", database, "--seeds", "2"]
    assert main(["sweep", "my space.yaml", *given]) == 130
    printed = capsys.readouterr().out
    assert "pass" not in printed.replace("may be a password", "").replace("the password", "")
    lines = [line for line in printed.splitlines() if line.startswith(("go on", "  besides"))]
    assert lines[0].endswith("sweep 'my space.yaml' --name small --seeds 2 --resume")
    assert "--optuna-storage is left out" in lines[1]
    assert lines[2].endswith("set MLFLOW_TRACKING_URI to it")


def test_a_refinement_is_repeated_with_all_it_was_given(interrupted, here, capsys):
    folder = study_folder(here / "runs", "small")
    write_study(folder, study_spec())
    given = ["--seeds", "4", "--address", "10.0.0.1:6379", "--max-failures", "7"]
    assert main(["refine", "small", *given]) == 130
    again = said(capsys)["go on"]
    assert parsed(shlex.split(again)[1:]) == parsed(["refine", "small", *given])
    assert main(shlex.split(again)[1:]) == 130
    assert interrupted[0] == interrupted[1]


def test_a_job_is_to_be_submitted_again_with_its_arguments(interrupted, here, monkeypatch, capsys):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.setenv("HOME", str(here / "home"))
    storage = str(here / "shared runs")
    assert job.main("sweep", ["my space.yaml", "--seeds", "2", "--storage", storage]) == 130
    told, _, again = said(capsys)["go on"].partition("arguments ")
    assert told == "submit the job again, with the "
    assert job.main("sweep", shlex.split(again)) == 130
    assert interrupted[0][0] == interrupted[1][0]
    assert again.count("--storage") == again.count("--address") == 1


@pytest.mark.parametrize("space", ["-x.yaml", "--set"])
def test_a_file_named_like_an_option_stays_a_file(space):
    options = build_parser().parse_args(["sweep", "--set=-x=1", "--", space])
    again = repetition(options).command
    assert parsed(shlex.split(again)) == {**parsed(["sweep", "--set=-x=1", f"./{space}"])}


@pytest.mark.parametrize("called", ["esam-tune", "sweep.py", "__main__.py"])
def test_a_command_that_is_not_on_the_path_is_called_where_it_is(here, monkeypatch, capsys, called):
    folder = study_folder(here / "my runs", "small")
    write_study(folder, study_spec())
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr(sys, "argv", [str(here / "the bin" / called)])
    monkeypatch.setattr(sys, "executable", str(here / "the bin" / "python"))
    print_result(result_of(folder, "done"), Console(width=200), "sweep x")
    started = {"esam-tune": ["the bin/esam-tune"]}.get(
        called, ["the bin/python", "-m", "esam_tune.cli"]
    )
    lines = said(capsys)
    expected = [*started, "train", "my runs/small/chosen.yaml", "--storage", "my runs"]
    assert shlex.split(lines["train it"]) == expected
    assert shlex.split(lines["MLflow"]) == [*started, "ui", "--storage", "my runs"]


@pytest.mark.parametrize(
    ("cost", "value", "bound"),
    [
        ("step_flops_ratio", 1.2, "step_flops_ratio=1.4"),
        ("step_flops_ratio", 1.678, "step_flops_ratio=1.68"),
        ("step_time_ratio", 1.4, "step_time_ratio=1.4"),
        ("step_time_ratio", 1.7, "step_time_ratio=1.7"),
        ("epoch_seconds", 123.401, "epoch_seconds=124"),
        ("epoch_seconds", 12345.6, "epoch_seconds=12400"),
        ("epoch_seconds", 0.0123401, "epoch_seconds=0.0124"),
        ("sharpness", 2.0, "sharpness=2"),
        ("val_loss", 0.0, "val_loss=0"),
    ],
)
def test_the_bound_to_try_is_one_of_this_study(here, capsys, cost, value, bound):
    folder = study_folder(here / "runs", "small")
    spec = study_spec(objectives={"val_accuracy": "max", cost: "min"})
    study = WrittenStudy(folder.journal, spec, tracking_uri=None)
    trial_id = study.start()
    study.epoch(trial_id, 2, **{"val_accuracy": 0.9, "step_flops_ratio": 1.5, cost: value})
    study.end(trial_id)
    study.writer.close()
    print_result(result_of(folder, "done"), Console(width=200), "sweep x")
    command = said(capsys)["pick another"]
    assert command == f"esam-tune pareto small --max {bound}"
    assert main([*shlex.split(command)[1:], "--export", "settings.yaml"]) == 0
    assert Path("settings.yaml").exists()
