"""Studies written by hand into a storage, for the tests of what is drawn and said of them."""

import math
import random

from study_events import WrittenStudy, study_spec

from esam_tune import journal
from esam_tune.study.folder import study_folder
from esam_tune.study.report_data import study_data

METRICS = ("val_accuracy", "step_flops_ratio", "step_time_ratio")


class ReportStudy(WrittenStudy):
    """A study of the storage ``folder``, whose trials have a made accuracy and cost."""

    def __init__(self, folder, *, name="small", **changes):
        self.folder = study_folder(folder, name)
        spec = study_spec(name=name, **changes)
        dataset = {"name": "digits", "digest": "0123abcd", "profile": {}}
        super().__init__(
            self.folder.journal,
            spec,
            tracking_uri=None,
            git_commit="1a2b3c4",
            device="CPU",
            dataset=dataset,
        )
        self._random = random.Random(0)
        self._numbers = iter(range(10**6))

    def search(self, beta, gamma, rho, *, seeds=1, noise=0.004, **started):
        """A complete search trial; its accuracy depends on rho most, its cost on beta and gamma."""
        params = {"optimizer": "esam", "beta": beta, "gamma": gamma, "rho": rho}
        accuracy = 0.96 - 0.05 * abs(math.log10(rho / 0.2)) + 0.01 * gamma
        cost = 1.0 + 0.3 * beta + 0.6 * gamma
        number = next(self._numbers)
        return self.setting(accuracy, cost, seeds, noise, params=params, number=number, **started)

    def rival(self, label, accuracy, cost, *, seeds=1, noise=0.004):
        """A complete baseline."""
        kind = "sgd" if label == "SGD" else "sam"
        params = {"optimizer": kind} if kind == "sgd" else {"optimizer": kind, "rho": 0.5}
        return self.setting(accuracy, cost, seeds, noise, params=params, baseline=True, label=label)

    def setting(self, accuracy, cost, seeds=1, noise=0.0, **started):
        """One setting from its start to its end, under so many seeds."""
        trial_id = self.start(**started)
        for seed in range(seeds):
            run = trial_id if seed == 0 else self.replicate(trial_id, seed)
            reached = min(1.0, accuracy + self._random.gauss(0, noise))
            for epoch in (1, 2):
                values = (reached - 0.2 * (2 - epoch), cost, 1.15 * cost - 0.1)
                self.epoch(run, epoch, **dict(zip(METRICS, values, strict=True)))
            self.end(run)
        return trial_id

    def measured(self, values, *, seeds=1, noise=0.0, **started):
        """One setting from its start to its end, with these metrics; noise is a share of each."""
        trial_id = self.start(**started)
        for seed in range(seeds):
            run = trial_id if seed == 0 else self.replicate(trial_id, seed)
            found = {k: value * (1 + self._random.gauss(0, noise)) for k, value in values.items()}
            for epoch in (1, 2):
                self.epoch(run, epoch, **found)
            self.end(run)
        return trial_id

    def finish(self, state="done"):
        """The study's end."""
        self.writer.append(journal.STUDY_END, state=state, artifacts=[])

    def data(self, rule="knee"):
        """The study as pictures and pages take it."""
        return study_data(self.folder, self.folder.record(), rule)


def full_study(folder, *, trials=10, seeds=1, **changes):
    """A finished study with two baselines, of which one is on the front."""
    study = ReportStudy(folder, seeds=seeds, trials=trials, **changes)
    study.rival("SGD", 0.74, 1.0, seeds=seeds)
    study.rival("SAM rho=0.5", 0.962, 2.0, seeds=seeds)
    draw = random.Random(1)
    for _ in range(trials):
        shares = draw.uniform(0.3, 1.0), draw.uniform(0.3, 1.0), 10 ** draw.uniform(-1.5, 0)
        study.search(*shares, seeds=seeds)
    study.finish()
    return study


def three_objectives(folder, **changes):
    """A study whose front has four members, of which two are beaten in accuracy and cost."""
    objectives = {"val_accuracy": "max", "step_flops_ratio": "min", "sharpness": "min"}
    study = ReportStudy(folder, objectives=objectives, **changes)
    rows = [(0.90, 1.2, 0.3), (0.85, 1.4, 0.2), (0.95, 1.6, 0.5), (0.90, 1.8, 0.1), (0.8, 2.0, 0.9)]
    for number, row in enumerate(rows):
        study.measured(dict(zip(objectives, row, strict=True)), number=number)
    return study
