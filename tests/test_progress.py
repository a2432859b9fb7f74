"""What a person sees while a study runs: its table, its lines and the time that is left."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console
from study_events import WrittenStudy, study_spec

from esam_tune import journal
from esam_tune.journal import Event
from esam_tune.study import progress
from esam_tune.study.front_table import format_metric, front_table
from esam_tune.study.progress import Progress


class Clock:
    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


class Running:
    """A study whose record is kept up to date by hand, and the screen that shows it."""

    def __init__(self, folder, *, terminal=False, width=120, **changes):
        spec = study_spec(**{"trials": 3, "training": TEN_EPOCHS} | changes)
        study = WrittenStudy(folder / "journal.jsonl", spec)
        self.record = study.record()
        self.screen = io.StringIO()
        self.console = Console(
            file=self.screen, force_terminal=terminal, width=width, highlight=False
        )

    def progress(self):
        budget = self.record.spec.trials + len(self.record.spec.baselines)
        return Progress(self.record, self.console, lambda: budget - len(self.record.trials))

    def apply(self, kind, trial_id, **content) -> Event:
        event = {"event": kind, "time": 0.0, "trial_id": trial_id, **content}
        self.record.apply(event)
        return event

    def start(self, trial_id, label="ESAM", *, baseline=False):
        params = {"optimizer": "esam"}
        self.apply(
            journal.TRIAL_START,
            trial_id,
            label=label,
            params=params,
            baseline=baseline,
            optuna_number=None,
        )

    def epoch(self, trial_id, epoch, accuracy=0.5, cost=1.5):
        metrics = {"epoch": epoch, "val_accuracy": accuracy, "step_flops_ratio": cost}
        self.apply(journal.EPOCH, trial_id, metrics=metrics)

    def end(self, trial_id, state="complete", reason=None):
        self.apply(journal.TRIAL_END, trial_id, state=state, reason=reason)

    def trial(self, trial_id, accuracy, cost, label="ESAM", *, baseline=False):
        self.start(trial_id, label, baseline=baseline)
        self.epoch(trial_id, 10, accuracy, cost)
        self.end(trial_id)

    def shown(self):
        return self.screen.getvalue()


TEN_EPOCHS = {"epochs": 10, "batch_size": 64, "lr": 0.05}


def table_lines(running, **options):
    running.console.print(front_table(running.record, **options))
    return [line.split() for line in running.shown().splitlines()]


def test_time_left_is_unknown_before_the_first_epoch(tmp_path, clock):
    running = Running(tmp_path)
    running.start("0000")
    shown = running.progress()
    clock.now += 50
    assert shown.seconds_left() is None


def test_time_left_follows_from_the_epochs_so_far(tmp_path, clock):
    running = Running(tmp_path)  # three trials and a baseline of ten epochs each
    shown = running.progress()
    running.start("0000")
    clock.now += 20
    running.epoch("0000", 10)
    assert shown.seconds_left() == pytest.approx(30 * 2.0)
    running.end("0000")
    assert shown.seconds_left() == pytest.approx(30 * 2.0)
    clock.now += 20
    running.start("0001")
    running.epoch("0001", 10)
    assert shown.seconds_left() == pytest.approx(20 * 2.0)


def test_epochs_of_an_earlier_process_do_not_speed_up_the_estimate(tmp_path, clock):
    running = Running(tmp_path)
    running.trial("0000", 0.9, 1.0)
    running.start("0001")
    running.epoch("0001", 4)
    shown = running.progress()
    assert shown.seconds_left() is None
    clock.now += 6
    running.epoch("0001", 6)
    assert shown.seconds_left() == pytest.approx((40 - 16) * 3.0)


def test_epochs_that_a_failed_trial_leaves_out_are_not_waited_for(tmp_path, clock):
    running = Running(tmp_path)
    shown = running.progress()
    running.start("0000")
    running.epoch("0000", 2)
    running.end("0000", "failed", "because")
    clock.now += 4
    assert shown.seconds_left() == pytest.approx(30 * 2.0)


def test_nothing_is_left_at_the_end(tmp_path, clock):
    running = Running(tmp_path)
    shown = running.progress()
    for number in range(4):
        running.trial(f"{number:04d}", 0.9, 1.0)
    clock.now += 80
    assert shown.seconds_left() == 0.0


def test_off_a_terminal_each_end_is_one_line(tmp_path, clock):
    running = Running(tmp_path)
    running.trial("0000", 0.7, 1.0, "before", baseline=True)
    with running.progress() as shown:
        running.trial("0001", 0.91234, 1.4, "ESAM beta=0.50")
        clock.now += 65
        for _ in range(2):
            shown.update(now=True)
        running.start("0002", "lost")
        running.end("0002", "failed", "OSError: disk [/data] is full")
    lines = running.shown().splitlines()
    assert len(lines) == 2
    assert "small: 2/4 trials, 1:05 elapsed" in lines[0]
    assert lines[0].endswith("0001 ESAM beta=0.50: val acc 91.2%, FLOPs/SGD 1.40")
    assert lines[1].endswith("0002 lost: failed, OSError: disk [/data] is full")


def test_updates_are_drawn_a_few_times_a_second_at_most(tmp_path, clock):
    running = Running(tmp_path)
    shown = running.progress()
    shown.update()
    running.trial("0000", 0.9, 1.0)
    shown.update()
    assert running.shown() == ""
    clock.now += 5
    shown.update()
    assert "0000" in running.shown()


def test_a_terminal_shows_the_front_so_far_and_what_runs(tmp_path, clock):
    running = Running(tmp_path, terminal=True)
    running.trial("0000", 0.70, 1.0, "SGD", baseline=True)
    running.trial("0001", 0.95, 1.4, "ESAM best")
    running.trial("0002", 0.60, 1.9, "ESAM worse")
    with running.progress():
        clock.now += 5
        running.start("0003", "ESAM now")
        running.epoch("0003", 4, 0.5)
    last = running.shown().rsplit("small: ", 1)[1]
    assert "3/4 trials" in last
    for text in ("SGD", "70.0%", "ESAM best", "95.0%", "1.40", "ESAM now", "epoch 4/10", "50.0%"):
        assert text in last
    assert "ESAM worse" not in last


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


@pytest.mark.parametrize("label", ["SAM [tuned]", "SAM [/]", "[/bold] SAM", "[red]SAM", "a: b\\"])
@pytest.mark.parametrize("terminal", [False, True], ids=["lines", "terminal"])
def test_a_label_is_shown_as_it_is_written(tmp_path, clock, label, terminal):
    running = Running(tmp_path, terminal=terminal)
    with running.progress():
        clock.now += 5
        running.trial("0000", 0.9, 1.0, label, baseline=True)
        running.start("0001", label)
    assert label in running.shown()


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("val_accuracy", 0.98765, "98.8%"),
        ("test_accuracy", 1.0, "100.0%"),
        ("val_loss", 0.12345, "0.123"),
        ("step_flops_ratio", 1.678, "1.68"),
        ("step_time_ratio", None, "-"),
    ],
)
def test_metrics_are_written_for_readers(key, value, text):
    assert format_metric(key, value) == text
