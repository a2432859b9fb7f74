"""The judge of disturbed studies sees what is lost, and what is there twice."""

import pytest
from study_events import WrittenStudy, study_spec
from study_verdict import Verdict, count_epochs, count_tracked, count_trials, without_times

from esam_tune import journal
from esam_tune.study.tracked_study import TrackedStudy
from esam_tune.tracking.spool import Tracker
from esam_tune.tracking.store import artifact_root, connect, local_uri

SPEC = study_spec(trials=2, seeds=2)


@pytest.fixture
def study(tmp_path):
    """A baseline and two trials of two seeds each, all complete, of two epochs."""
    study = WrittenStudy(tmp_path / "journal.jsonl", SPEC)
    for index in range(3):
        params = {"optimizer": "esam", "beta": 0.4 + index / 10}
        trial_id = study.trial(0.8, 1.2, params=params, baseline=index == 0)
        further = study.replicate(trial_id, seed=1)
        for epoch in (1, 2):
            study.epoch(further, epoch, val_accuracy=0.7, step_flops_ratio=1.2)
        study.end(further)
    return study


def events_of(study):
    return [event for event, _ in journal.read(study.path)]


def judged(events):
    found = Verdict()
    count_trials(found, SPEC, events)
    count_epochs(found, SPEC, events)
    return {name: count for name, count in found.figures().items() if count}


def test_a_whole_study_lacks_and_repeats_nothing(study):
    assert judged(events_of(study)) == {}


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("trial_end", {"trials lost": 1}),
        # Of three values; the trials and their ends are all there.
        ("epoch", {"metrics missing": 3}),
        ("replicate_start", {"trials lost": 1}),
    ],
)
def test_an_event_that_is_lost_is_counted(study, kind, found):
    events = events_of(study)
    lost = next(e for e in events if e["event"] == kind and e["trial_id"] == "0001-s1")
    assert judged([event for event in events if event is not lost]) == found


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("trial_end", {"trials repeated": 1}),
        ("epoch", {"metrics repeated": 3}),
        # Twice the id, and twice the setting.
        ("trial_start", {"trials repeated": 2}),
    ],
)
def test_an_event_that_is_repeated_is_counted(study, kind, found):
    events = events_of(study)
    again = next(e for e in events if e["event"] == kind and e["trial_id"].startswith("0001"))
    assert judged([*events, again]) == found


@pytest.mark.slow
def test_what_mlflow_lacks_or_repeats_is_counted(study, tmp_path):
    uri = local_uri(tmp_path)
    study.writer.append(journal.STUDY_END, state="done", artifacts=[])
    root = artifact_root(tmp_path, uri)
    tracker = Tracker(uri, root, study.path, tmp_path / "tracking.json", TrackedStudy())
    tracker.ship_all()
    events = events_of(study)

    def tracked(events):
        found = Verdict()
        count_tracked(found, events, uri)
        return {name: count for name, count in found.figures().items() if count}

    assert tracked(events) == {}
    lacking = [event for event in events if event["event"] != "epoch"]
    assert tracked(lacking) == {"metrics repeated": 6 * 2 * 3}
    client = connect(uri)
    run = client.get_run(tracker.cursor.run_ids["0001"])
    client.log_metric(run.info.run_id, "val_accuracy", 0.8, step=7)
    assert tracked(events) == {"metrics repeated": 1}
    client.create_run(run.info.experiment_id, tags=run.data.tags)
    # It is running, too, and lies in the right place.
    assert tracked(events) == {"metrics repeated": 1, "tracked repeated": 1, "tracked lost": 1}
    client.delete_run(run.info.run_id)
    assert tracked(events)["metrics missing"] == 6


def test_times_and_places_are_left_out_of_a_comparison_and_nothing_else():
    timed = {"epoch_seconds": 1.0, "val_loss": 0.5, "storage": "/a", "runs": [{"epoch": 1}]}
    assert without_times(timed) == {"val_loss": 0.5, "runs": [{"epoch": 1}]}
