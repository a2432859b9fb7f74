"""A study that a test moves on by hand, with the screen and the clock that go with it."""

import io
from types import SimpleNamespace

from rich.console import Console
from study_events import WrittenStudy, study_spec

from esam_tune import journal
from esam_tune.journal import Event
from esam_tune.study import outlook, progress
from esam_tune.study.outlook import Outlook
from esam_tune.study.progress import Progress

TEN_EPOCHS = {"epochs": 10, "batch_size": 64, "lr": 0.05}


class Clock:
    """Stands still unless a test moves it."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        for module in (progress, outlook):
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))


class Running:
    """A study whose record is kept up to date by hand, and the screen that shows it."""

    def __init__(self, folder, *, terminal=False, width=120, height=40, **changes):
        spec = study_spec(**{"trials": 3, "training": TEN_EPOCHS} | changes)
        study = WrittenStudy(folder / "journal.jsonl", spec)
        self.record = study.record()
        self.screen = io.StringIO()
        self.console = Console(
            file=self.screen,
            force_terminal=terminal,
            width=width,
            height=height,
            highlight=False,
        )

    def progress(self):
        return Progress(self.record, self.console, self.to_begin)

    def outlook(self):
        return Outlook(self.record, self.to_begin)

    def to_begin(self):
        spec = self.record.spec
        return spec.trials + len(spec.baselines) - len(self.record.trials)

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

    def epoch(self, trial_id, epoch, accuracy=0.5, cost=1.5, **more):
        metrics = {"epoch": epoch, "val_accuracy": accuracy, "step_flops_ratio": cost, **more}
        self.apply(journal.EPOCH, trial_id, metrics=metrics)

    def end(self, trial_id, state="complete", reason=None):
        self.apply(journal.TRIAL_END, trial_id, state=state, reason=reason)

    def trial(self, trial_id, accuracy, cost, label="ESAM", *, baseline=False):
        self.start(trial_id, label, baseline=baseline)
        self.epoch(trial_id, 10, accuracy, cost)
        self.end(trial_id)

    def shown(self):
        return self.screen.getvalue()
