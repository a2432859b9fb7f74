"""The live view at fixed terminal sizes: everything fits, nothing moves that need not."""

import io

import pytest
from rich.console import Console
from study_events import WrittenStudy, study_spec

from esam_tune.study.live_view import LiveView, in_words
from esam_tune.study.outlook import Left, Outlook

EPOCHS = 30


class Watched:
    """A study that a test moves on, and its view on a terminal of a given size."""

    def __init__(self, folder, *, to_begin=0, **changes):
        training = {"epochs": EPOCHS, "batch_size": 64, "lr": 0.05}
        spec = study_spec(**{"training": training, "trials": 40} | changes)
        self.study = WrittenStudy(folder / "journal.jsonl", spec)
        self.record = self.study.record()
        self.to_begin = to_begin
        self.view = LiveView(self.record, Outlook(self.record, lambda: self.to_begin))

    def refresh(self):
        """Take in what was written; the view keeps its own memory, as in a running study."""
        fresh = self.study.record()
        self.record.trials, self.record.runs = fresh.trials, fresh.runs

    def run(self, accuracy, *, epoch, cost=1.5, label="ESAM beta=0.50 gamma=0.50 rho=0.20"):
        trial_id = self.study.start({"optimizer": "esam"}, number=0, label=label)
        self.study.epoch(trial_id, epoch, val_accuracy=accuracy, step_flops_ratio=cost)
        return trial_id

    def lines(self, width, height=24):
        self.refresh()
        console = Console(
            file=io.StringIO(),
            width=width,
            height=height,
            force_terminal=True,
            color_system=None,
            record=True,
            highlight=False,
        )
        console.print(self.view.draw(width, height))
        return console.export_text().splitlines()


@pytest.fixture
def watched(tmp_path):
    watched = Watched(tmp_path, to_begin=12)
    watched.study.trial(0.744, 1.0, baseline=True, params={"optimizer": "sgd"}, label="SGD")
    watched.study.trial(0.964, 1.39, number=0, label="ESAM beta=0.31 gamma=0.36 rho=0.18")
    watched.study.trial(0.700, 1.90, number=1, label="beaten")
    watched.run(0.951, epoch=12, label="ESAM beta=0.79 gamma=0.33 rho=0.15")
    watched.study.start({"optimizer": "esam"}, number=3, label="ESAM just begun")
    return watched


def test_at_eighty_columns_all_is_told(watched):
    lines = watched.lines(80)
    assert lines[0].startswith("small: 3/17 trials, 0:00 elapsed")
    assert lines[1].startswith("left: 408 epochs at the cost of ")
    assert lines[2].split() == ["trial", "setting", "val", "acc", "FLOPs/SGD"]
    assert [line.split() for line in lines[3:]] == [
        ["front", "so", "far"],
        ["0000", "SGD", "74.4%", "1.00", "baseline"],
        ["0001", "ESAM", "beta=0.31", "gamma=0.36", "rho=0.18", "96.4%", "1.39"],
        ["running"],
        ["0003", "ESAM", "beta=0.79", "gamma=0.33", "rho=0.15", "95.1%", "1.50", "epoch", "12/30"],
        ["0004", "ESAM", "just", "begun", "-", "-", "epoch", "0/30"],
    ]


@pytest.mark.parametrize("width", [50, 60, 80, 132])
def test_no_line_is_wider_than_the_terminal_and_no_number_is_cut(watched, width):
    lines = watched.lines(width)
    assert max(map(len, lines)) <= width
    rows = [line for line in lines if line.startswith("000")]
    assert len(rows) == 4
    for row, end in zip(rows, ["baseline", "1.39", "epoch 12/30", "epoch 0/30"], strict=True):
        assert row.rstrip().endswith(end)
    assert "96.4%" in rows[1]
    cut = width < 80
    assert ("gamma=0.36 rho=0.18" in rows[1], "…" in rows[1]) == (not cut, cut)


def test_means_of_several_seeds_fit_into_sixty_columns(tmp_path):
    watched = Watched(tmp_path, seeds=2)
    trial = watched.study.trial(0.96, 1.4, number=0)
    seed = watched.study.replicate(trial, 1)
    watched.study.epoch(seed, EPOCHS, val_accuracy=0.98, step_flops_ratio=1.4)
    watched.study.end(seed)
    lines = watched.lines(60)
    (row,) = [line for line in lines if line.startswith("0000")]
    assert "97.0% ± 12.7%" in row
    assert max(map(len, lines)) <= 60


@pytest.mark.parametrize("height", [10, 16, 24])
def test_a_long_front_and_many_trials_fit_into_the_height(tmp_path, height):
    watched = Watched(tmp_path)
    for number in range(40):
        watched.study.trial(0.5 + number / 100, 1 + number / 100, number=number)
    for _ in range(30):
        watched.run(0.9, epoch=3)
    lines = watched.lines(80, height)
    assert len(lines) <= height
    shown = [line.split()[0] for line in lines if line[:1].isdigit()]
    # Of the front the most accurate end, of what runs the oldest.
    assert shown[-1] >= "0040"
    assert "0039" in shown
    assert "0040" in shown
    assert sum(line.strip().startswith("... and ") for line in lines) == 2


def test_a_short_front_leaves_its_lines_to_what_runs(tmp_path):
    watched = Watched(tmp_path)
    watched.study.trial(0.9, 1.4, number=0)
    for _ in range(14):
        watched.run(0.9, epoch=3)
    lines = watched.lines(80, 24)
    assert sum("epoch 3/30" in line for line in lines) == 14


def test_what_runs_keeps_its_line_when_another_ends(tmp_path):
    watched = Watched(tmp_path)
    first, second, third = (watched.run(0.5, epoch=1) for _ in range(3))

    def places():
        lines = watched.lines(80)
        return {line[:4]: at for at, line in enumerate(lines) if "epoch 1/30" in line}

    before = places()
    watched.study.end(second, "failed", "because")
    assert places() == {first: before[first], third: before[third]}
    fourth = watched.run(0.5, epoch=1)
    assert places() == {first: before[first], fourth: before[second], third: before[third]}
    watched.study.end(third, "failed", "because")
    assert places() == {first: before[first], fourth: before[second]}


def test_a_study_that_has_just_begun_is_drawn_too(tmp_path):
    lines = Watched(tmp_path, to_begin=4).lines(60)
    assert lines[:2] == ["small: 0/4 trials, 0:00 elapsed", "left: 120 epochs"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (3.0, "0:05"),
        (62.0, "1:00"),
        (118.0, "2:00"),
        (130.0, "2:15"),
        (3_000.0, "50:00"),
        (7_300.0, "2:00:00"),
        (360_000.0, "100:00:00"),
    ],
)
def test_an_estimate_is_told_as_exactly_as_it_is_good_for(seconds, text):
    left = Left(epochs=9, cost=12.4, seconds=seconds)
    assert in_words(left) == f"left: 9 epochs at the cost of 12 of SGD, about {text}"


def test_a_label_with_markup_is_shown_as_it_is(tmp_path):
    watched = Watched(tmp_path)
    watched.run(0.5, epoch=1, label="[red]SAM[/]")
    assert any("[red]SAM[/]" in line for line in watched.lines(80))
