"""The front as a table, and metrics as text."""

import pytest
from running_study import Running

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
