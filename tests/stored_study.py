"""A whole study in a storage, made without training: curves by formula, results and runs as a
sweep leaves them."""

import math

from study_events import WrittenStudy, study_spec

from esam_tune import journal
from esam_tune.study.folder import study_folder
from esam_tune.study.results import write_results
from esam_tune.study.tracked_study import tracker_of
from esam_tune.tracking.store import local_uri

EPOCHS = 12
BASELINES = (
    ("SGD", {"optimizer": "sgd"}, 0.74, 1.0),
    ("SAM rho=0.5", {"optimizer": "sam", "rho": 0.5}, 0.96, 2.0),
)
SEARCHED = (
    (0.31, 0.36, 0.18, 0.955, 1.39),
    (0.79, 0.33, 0.15, 0.962, 1.60),
    (0.90, 0.90, 0.03, 0.780, 1.95),
    (0.34, 0.76, 0.18, 0.965, 1.81),
    (0.60, 0.50, 0.05, 0.900, 1.68),
)


def store_study(storage, name="browsed"):
    """Write a study and its runs into a storage; its folder.

    Two baselines and five ESAM settings, of which one was pruned; its front has four members.
    """
    folder = study_folder(storage, name)
    training = {"epochs": EPOCHS, "batch_size": 64, "lr": 0.05}
    baselines = [{"label": label, **params} for label, params, _, _ in BASELINES]
    spec = study_spec(
        name=name,
        description="which setting keeps SAM's accuracy at the least cost?",
        training=training,
        baselines=baselines,
        trials=len(SEARCHED),
    )
    study = WrittenStudy(
        folder.journal, spec, study_id="5e1f" * 8, tracking_uri=None, git_commit="1a2b3c4"
    )
    for label, params, accuracy, cost in BASELINES:
        trial = study.start(params, baseline=True, label=label)
        _train(study, trial, accuracy, cost)
        study.end(trial)
    for number, (beta, gamma, rho, accuracy, cost) in enumerate(SEARCHED):
        params = {"optimizer": "esam", "beta": beta, "gamma": gamma, "rho": rho}
        trial = study.start(params, number=number)
        pruned = accuracy < 0.8
        _train(study, trial, accuracy, cost, epochs=4 if pruned else EPOCHS)
        study.end(trial, *(("pruned", "behind at epoch 4") if pruned else ()))
    record = study.record()
    artifacts = write_results(folder, record)
    front = [trial.trial_id for trial in record.front()]
    study.writer.append(
        journal.STUDY_END,
        state="done",
        artifacts=[str(path) for path in artifacts],
        front=front,
        dominated=[t.trial_id for t in record.complete if t.trial_id not in front],
        chosen=record.pick("knee").trial_id,
    )
    study.writer.close()
    uri = local_uri(folder.storage)
    tracker = tracker_of(folder, uri, uri)
    tracker.ship_all()
    assert tracker.arrived
    return folder


def _train(study, trial, accuracy, cost, epochs=EPOCHS):
    for epoch in range(1, epochs + 1):
        reached = accuracy * (1 - math.exp(-epoch / 3))
        study.epoch(
            trial,
            epoch,
            train_loss=2.3 * math.exp(-epoch / 5),
            val_loss=2.3 * math.exp(-epoch / 4),
            val_accuracy=reached,
            step_flops_ratio=cost,
            step_time_ratio=cost * 1.15,
            images_per_second=9000 / cost,
            epoch_seconds=0.2 * cost,
        )
