"""Options about workers: what they parse to, and the answer to what they cannot mean."""

import pytest

from esam_tune.cli import build_parser, main
from esam_tune.cli.arguments import arguments_of
from esam_tune.errors import InputError
from esam_tune.interface.arguments import worker_shape
from esam_tune.interface.trainings import train_request
from esam_tune.study.placement import WorkerShape
from esam_tune.worker_scaling import WorkerRule


def parsed(*arguments):
    return build_parser().parse_args(arguments)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--workers-per-trial", "0"],
            "--workers-per-trial: must be an integer in [1, 1000000], got 0",
        ),
        (
            ["--workers-per-trial", "0-2"],
            "--workers-per-trial: must be an integer in [1, 1000000], got 0",
        ),
        (["--workers-per-trial", "two"], "must be N or MIN-MAX, got 'two'; for example 4"),
        (["--workers-per-trial", "1-2-3"], "must be N or MIN-MAX, got '1-2-3'"),
        (["--workers-per-trial", "1-"], "must be N or MIN-MAX, got '1-'"),
        (["--workers-per-trial=-1"], "must be N or MIN-MAX, got '-1'"),
        (["--workers-per-trial", "2-2"], "must rise from MIN to MAX, got '2-2'"),
        (["--gpus-per-worker", "1.5"], "--gpus-per-worker: must be a whole number, or a share"),
        (["--gpus-per-worker", "-1"], "--gpus-per-worker: must be a whole number, or a share"),
        (["--gpus-per-worker", "half"], "--gpus-per-worker: must be a number, got 'half'"),
        (["--gpus-per-worker", "nan"], "--gpus-per-worker: must be a whole number, or a share"),
        (
            ["--cpus-per-worker", "0"],
            "--cpus-per-worker: must be an integer in [1, 1000000], got 0",
        ),
        (["--max-failures=-1"], "--max-failures: must be an integer in [0, 1000000], got '-1'"),
        (["--max-failures", "x"], "--max-failures: must be an integer in [0, 1000000], got 'x'"),
    ],
)
def test_a_wrong_option(capsys, options, words):
    assert main(["sweep", "none.yaml", *options]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1


def test_a_count_of_many_digits_is_told_in_a_line(capsys):
    assert main(["sweep", "x", "--workers-per-trial", "9" * 5000]) == 2
    assert "must be an integer in [1, 1000000], got 999" in capsys.readouterr().err


def test_workers_of_a_trial():
    assert parsed("sweep", "x").workers_per_trial is None
    assert parsed("sweep", "x", "--workers-per-trial", "4").workers_per_trial == (None, 4)
    assert parsed("sweep", "x", "--workers-per-trial", "2-4").workers_per_trial == (2, 4)


@pytest.mark.parametrize("verb", ["sweep", "train"])
def test_what_a_worker_takes(verb):
    def shape(*options):
        return worker_shape(**arguments_of(worker_shape, parsed(verb, "x", *options)))

    assert shape() == WorkerShape(cpus=1, gpus=None)
    asked = shape("--gpus-per-worker", "0.25", "--cpus-per-worker", "3")
    assert asked == WorkerShape(cpus=3, gpus=0.25)
    assert shape("--gpus-per-worker", "0").gpus == 0
    assert parsed(verb, "x").max_failures == 2
    assert parsed(verb, "x", "--max-failures", "0").max_failures == 0


def test_what_becomes_of_a_setting(capsys, tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text(
        "{task: {dataset: digits, model: small_cnn}, params: {optimizer: sgd},"
        " training: {epochs: 1, batch_size: 64, lr: 0.05}}"
    )

    def rule(*options):
        asked = arguments_of(train_request, parsed("train", str(path), *options))
        return train_request(**asked).options.rule

    # Nothing said is WorkerRule() for a new training, and what it was for one that is resumed.
    assert rule() is None
    asked = rule("--batch-rule", "per-worker", "--lr-rule", "sqrt")
    assert asked == WorkerRule(batch="per-worker", lr="sqrt")
    with pytest.raises(InputError, match="--lr-rule: must be none"):
        rule("--lr-rule", "sqrt")
    assert main(["train", "x", "--batch-rule", "global"]) == 2
    assert "--batch-rule: invalid choice: 'global'" in capsys.readouterr().err
