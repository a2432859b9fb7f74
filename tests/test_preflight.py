"""What a sweep will do after all checks that need no cluster."""

import pytest
from study_events import WrittenStudy, study_spec

from esam_tune.errors import InputError
from esam_tune.study.awaited_room import Room
from esam_tune.study.placement import WorkerShape
from esam_tune.study.preflight import (
    SweepOptions,
    check_trials_fit,
    draw_up,
    preflight,
    workers_text,
)
from esam_tune.study.space import Overrides

TRAINING = {"epochs": 2, "batch_size": 48, "lr": 0.05}


def planned(storage, *, batch_size=64, **options):
    spec = study_spec(training={**TRAINING, "batch_size": batch_size})
    return preflight(spec, Overrides(), SweepOptions(storage=storage, **options))


@pytest.mark.parametrize(
    ("cores", "concurrent"), [([1], 1), ([2], 1), ([4], 1), ([4, 4], 2), ([3, 3, 3], 2)]
)
def test_a_range_of_workers_makes_room_for_its_most_and_starts_with_its_fewest(
    tmp_path, cores, concurrent
):
    # The check on this machine asks for one core only: the most may come with more nodes.
    plan = planned(tmp_path, batch_size=48, workers_per_trial=4, min_workers=1)
    nodes = [{"CPU": float(count)} for count in cores]
    assert plan.place(nodes, WorkerShape(), "here").max_concurrent == concurrent


def test_a_range_must_share_the_batch_at_every_count(tmp_path):
    with pytest.raises(InputError, match="over the 3 workers, got 64; set it to 60 or 66"):
        planned(tmp_path, workers_per_trial=3, min_workers=1)
    with pytest.raises(InputError, match="--gpus-per-worker: must be whole GPUs with a range"):
        planned(tmp_path, workers_per_trial=2, min_workers=1, shape=WorkerShape(gpus=0.5))


def test_a_resumed_study_keeps_its_workers_and_where_its_checkpoints_are(tmp_path):
    WrittenStudy(
        tmp_path / "small" / "journal.jsonl",
        study_spec(),
        workers_per_trial=2,
        min_workers=1,
        tracking_uri=None,
        checkpoint_storage=str(tmp_path / "shared"),
    )
    plan = planned(tmp_path, resume=True)
    assert (plan.min_workers, plan.workers) == (1, 2)
    assert plan.checkpoint_storage == str(tmp_path / "shared")
    for options, words in (
        ({"workers_per_trial": 2}, "--workers-per-trial: differs .* it was '1-2', got '2'"),
        ({"checkpoint_storage": "other"}, "--checkpoint-storage: differs"),
    ):
        with pytest.raises(InputError, match=words):
            planned(tmp_path, resume=True, **options)


def awaiting(count, storage, spec, **options):
    """What a study that awaits so many workers is told, or None."""
    room = Room(workers=count, shape=WorkerShape(gpus=1), address="127.0.0.1:6379")
    asked = SweepOptions(storage=storage, room=room, **options)
    try:
        check_trials_fit(draw_up(spec, Overrides(), asked), asked)
    except InputError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("max_concurrent", "workers", "most", "why", "remedy"),
    [
        (2, 1, 2, "max_concurrent: 2", "raise the sweep's --max-concurrent"),
        (2, 3, 6, "max_concurrent: 2", "raise the sweep's --max-concurrent"),
        (None, 1, 9, "the study has no more", "raise --trials"),
        (20, 1, 9, "the study has no more", "raise --trials"),
    ],
)
def test_no_more_nodes_are_awaited_than_trials_use(
    tmp_path, max_concurrent, workers, most, why, remedy
):
    spec = study_spec(trials=9, baselines=[], max_concurrent=max_concurrent, training=TRAINING)
    given = {"storage": tmp_path, "spec": spec, "workers_per_trial": workers}
    assert awaiting(most, **given) is None
    said = awaiting(most + workers, **given)
    assert f"must be at most {most}, all that" in said
    assert f"({why}), got {most + workers}; ask for fewer, or {remedy}" in said


def test_awaited_workers_are_those_of_whole_trials(tmp_path):
    spec = study_spec(trials=9, baselines=[], max_concurrent=2, training=TRAINING)
    given = {"storage": tmp_path, "spec": spec, "workers_per_trial": 4}
    assert "at least 4, the workers of one trial, got 2; ask for 4" in awaiting(2, **given)
    assert "a multiple of the 4 workers of a trial, got 6; ask for 4" in awaiting(6, **given)
    assert awaiting(6, **given, min_workers=2) is None
    assert "at least 2" in awaiting(1, **given, min_workers=2)


@pytest.mark.parametrize(("max_concurrent", "most"), [(2, 2), (None, 1000)])
def test_what_is_left_of_a_study_is_bounded_by_its_trials_at_a_time_alone(
    tmp_path, max_concurrent, most
):
    spec = study_spec(trials=1, max_concurrent=max_concurrent, training=TRAINING)
    WrittenStudy(tmp_path / "small" / "journal.jsonl", spec, tracking_uri=None)
    given = {"storage": tmp_path, "spec": spec, "resume": True}
    assert awaiting(most, **given) is None
    if max_concurrent is not None:
        assert "max_concurrent: 2" in awaiting(most + 1, **given)


def test_worker_counts_as_they_are_typed():
    assert [workers_text(None, 4), workers_text(2, 4)] == ["4", "2-4"]


def test_a_checkpoint_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="--checkpoint-storage: cannot write to"):
        planned(tmp_path / "runs", checkpoint_storage=str(tmp_path / "file" / "x"))
    assert not (tmp_path / "runs").exists()
