"""What a sweep will do after all checks that need no cluster."""

import pytest
from study_events import WrittenStudy, study_spec

from esam_tune.errors import InputError
from esam_tune.study.awaited_room import Room
from esam_tune.study.placement import WorkerShape
from esam_tune.study.preflight import SweepOptions, check_room, draw_up, preflight, workers_text
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


@pytest.mark.parametrize(
    ("max_concurrent", "workers", "most", "why"),
    [(2, 1, 2, "max_concurrent: 2"), (2, 3, 6, "max_concurrent: 2"), (None, 1, 9, "has no more")],
)
def test_no_more_nodes_are_awaited_than_trials_use(tmp_path, max_concurrent, workers, most, why):
    spec = study_spec(trials=9, baselines=[], max_concurrent=max_concurrent, training=TRAINING)
    plan = draw_up(spec, Overrides(), SweepOptions(storage=tmp_path, workers_per_trial=workers))
    # The cluster itself is asked later.
    address = "127.0.0.1:6379"

    def check(count):
        room = Room(workers=count, shape=WorkerShape(gpus=1), address=address)
        check_room(plan, room)

    check(most)
    with pytest.raises(InputError, match=f"at most {most}, .*{why}.*, got {most + 1}; ask for"):
        check(most + 1)


def test_worker_counts_as_they_are_typed():
    assert [workers_text(None, 4), workers_text(2, 4)] == ["4", "2-4"]


def test_a_checkpoint_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="--checkpoint-storage: cannot write to"):
        planned(tmp_path / "runs", checkpoint_storage=str(tmp_path / "file" / "x"))
    assert not (tmp_path / "runs").exists()
