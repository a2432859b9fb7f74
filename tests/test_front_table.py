"""The front as a table, and metrics as text."""

import io

import pytest
from rich.console import Console
from running_study import Running
from study_events import WrittenStudy, study_spec

from esam_tune.study.closing import print_result
from esam_tune.study.description import describe_study
from esam_tune.study.execution import SweepResult
from esam_tune.study.folder import study_folder
from esam_tune.study.front_table import format_metric, front_table


def table_lines(running, **options):
    running.console.print(front_table(running.record, **options))
    return [line.split() for line in running.shown().splitlines()]


def test_the_front_is_ordered_by_cost_with_the_rest_of_the_baselines_below(tmp_path):
    running = Running(tmp_path)
    running.trial("0000", 0.97, 2.0, "SAM", baseline=True)
    running.trial("0001", 0.95, 1.4, "ours")
    running.trial("0002", 0.70, 1.0, "SGD", baseline=True)
    running.trial("0003", 0.60, 1.9, "worse", baseline=True)
    running.trial("0004", 0.60, 1.5, "beaten", baseline=True)
    running.trial("0005", 0.50, 1.1, "searched")
    chosen = running.record.trials["0001"]
    lines = table_lines(running, baselines=True, chosen=chosen)
    rows = [line for line in lines if any(word.startswith("000") for word in line)]
    order = [next(word for word in row if word.startswith("000")) for row in rows]
    assert order == ["0002", "0001", "0000", "0004", "0003"]
    assert [row[0] for row in rows] == ["0002", "*", "0000", "0004", "0003"]
    assert ["baseline" in row for row in rows] == [True, False, True, True, True]
    assert rows[1] == ["*", "0001", "ours", "95.0%", "1.40", "-"]


def test_a_table_without_baselines_holds_the_front_alone(tmp_path):
    running = Running(tmp_path)
    running.trial("0000", 0.9, 1.0, "ours")
    running.trial("0001", 0.8, 1.5, "beaten", baseline=True)
    lines = table_lines(running, baselines=False)
    assert ["ours" in line for line in lines].count(True) == 1
    assert not any("beaten" in line for line in lines)


def test_a_table_of_no_trials_is_its_header(tmp_path):
    (header,) = table_lines(Running(tmp_path), baselines=True)
    assert header[:2] == ["trial", "setting"]


# Cost, and the accuracy under each of two seeds: the first two are in turn the better one.
TIED = [(1.2, (0.700, 0.702)), (1.5, (0.702, 0.701))]
ABOVE = (1.9, (0.980, 0.981))


@pytest.fixture
def under_two_seeds(tmp_path, monkeypatch):
    """Writes such settings as a study; its folder."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = study_folder(tmp_path, "small")

    def write(settings):
        study = WrittenStudy(folder.journal, study_spec(seeds=2), tracking_uri=None)
        for cost, accuracies in settings:
            trial_id = study.start()
            runs = trial_id, study.replicate(trial_id, 1)
            for run, accuracy in zip(runs, accuracies, strict=True):
                study.epoch(run, 2, val_accuracy=accuracy, step_flops_ratio=cost)
                study.end(run)
        study.writer.close()
        return folder

    return write


def test_settings_that_cannot_be_told_apart_from_the_chosen_one_are_named(under_two_seeds):
    record = under_two_seeds([*TIED, ABOVE]).record()
    tied = {}
    for chosen in record.front():
        console = Console(file=io.StringIO(), width=120)
        console.print(front_table(record, baselines=True, chosen=chosen))
        header, *rows = (line.split() for line in console.file.getvalue().splitlines())
        assert header[-1] == "seeds"
        tied[chosen.trial_id] = [row[0] for row in rows if row[-1] == "tied"]
    assert tied == {"0000": ["0001"], "0001": ["0000"], "0002": []}


@pytest.mark.parametrize("settings", [TIED, [TIED[0], ABOVE]], ids=["tied", "apart"])
def test_the_end_of_a_sweep_and_its_description_say_what_is_tied(under_two_seeds, settings):
    folder = under_two_seeds(settings)
    record = folder.record()
    console = Console(file=io.StringIO(), width=200)
    result = SweepResult(outcome="done", document={}, record=record, folder=folder)
    print_result(result, console, "")
    (other,) = {"0000", "0001"} - {record.pick("knee").trial_id}
    printed, described = console.file.getvalue(), describe_study(record, "knee")
    is_tied = settings is TIED
    assert (f"tied with it in accuracy, by the seeds both ran: {other}\n" in printed) == is_tied
    assert ("tied" in printed) == is_tied
    assert (f"Its accuracy cannot be told apart from that of {other}." in described) == is_tied
    assert ("told apart" in described) == is_tied


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("val_accuracy", 0.98765, "98.8%"),
        ("test_accuracy", 1.0, "100.0%"),
        ("val_loss", 0.12345, "0.123"),
        ("sharpness", 0.04037, "0.040"),
        ("step_flops_ratio", 1.678, "1.68"),
        ("step_time_ratio", None, "-"),
    ],
)
def test_metrics_are_written_for_readers(key, value, text):
    assert format_metric(key, value) == text
