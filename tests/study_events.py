"""A small study's space document and journal, for the tests of what is read from them."""

from esam_tune import journal
from esam_tune.config import complete_params
from esam_tune.journal import Journal
from esam_tune.study.record import StudyRecord
from esam_tune.study.space import parse_space
from esam_tune.study.spec import describe_params


def space_document(**changes):
    """A valid space document; a change of None drops the key."""
    document = {
        "name": "small",
        "description": "a study for tests",
        "task": {"dataset": "digits", "model": "small_cnn", "label_noise": 0.4},
        "training": {"epochs": 2, "batch_size": 64, "lr": 0.05},
        "search": {
            "optimizer": "esam",
            "beta": {"low": 0.3, "high": 1.0},
            "gamma": {"low": 0.3, "high": 1.0},
            "rho": {"low": 0.02, "high": 1.0, "log": True},
        },
        "objectives": {"val_accuracy": "max", "step_flops_ratio": "min"},
        "baselines": [{"label": "SGD", "optimizer": "sgd"}],
        "trials": 3,
        "seed": 0,
    }
    return {key: value for key, value in (document | changes).items() if value is not None}


def study_spec(**changes):
    return parse_space(space_document(**changes), default_name="small")


class WrittenStudy:
    """Writes a study's journal event by event, as its runner does."""

    def __init__(self, path, spec, **started):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.spec = spec
        self.writer = Journal(path)
        self._count = 0
        self._replicates = []
        if not path.stat().st_size:
            self.writer.append(
                journal.STUDY,
                space=spec.to_dict(),
                versions={"torch": "2.14.1"},
                **{
                    "study_id": "a1b2",
                    "workers_per_trial": 1,
                    "tracking_uri": "sqlite:///mlflow.db",
                }
                | started,
            )

    @property
    def next_id(self):
        return f"{self._count:04d}"

    def start(self, params=None, *, baseline=False, number=None, label=None):
        params = complete_params("params", params or {"optimizer": "esam"})
        trial_id = self.next_id
        self._count += 1
        self.writer.append(
            journal.TRIAL_START,
            trial_id=trial_id,
            label=label or describe_params(params),
            params=params,
            baseline=baseline,
            optuna_number=number,
        )
        return trial_id

    def replicate(self, of, seed):
        """Another seed of a trial's setting; the id of its run."""
        count = sum(run.startswith(f"{of}-s") for run in self._replicates)
        trial_id = f"{of}-s{count + 1}"
        self._replicates.append(trial_id)
        self.writer.append(journal.REPLICATE_START, trial_id=trial_id, of=of, seed=seed, setup=None)
        return trial_id

    def epoch(self, trial_id, epoch, **metrics):
        self.writer.append(journal.EPOCH, trial_id=trial_id, metrics={"epoch": epoch, **metrics})

    def end(self, trial_id, state="complete", reason=None):
        self.writer.append(journal.TRIAL_END, trial_id=trial_id, state=state, reason=reason)

    def trial(self, accuracy, cost, state="complete", **started):
        """One trial from its start to its end, with these values after the last epoch."""
        trial_id = self.start(**started)
        for epoch in range(1, self.spec.training.epochs + 1):
            self.epoch(trial_id, epoch, val_accuracy=accuracy, step_flops_ratio=cost)
        self.end(trial_id, state, None if state == "complete" else "because")
        return trial_id

    def record(self):
        return StudyRecord.from_journal(self.path)
