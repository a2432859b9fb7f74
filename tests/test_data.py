"""The digits' splits, their label noise, and the order of batches."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from esam_tune.config import TaskSettings
from esam_tune.errors import InputError
from esam_tune.tasks.batches import BatchOrder
from esam_tune.tasks.data import check_batch_size, load_split, step_example, symmetric_noise
from esam_tune.tasks.digits import HELD_OUT, NUM_CLASSES
from esam_tune.tasks.splits import ArraySplit

SPLITS = ("train", "val", "test")


def task(**changes):
    return TaskSettings(dataset="digits", model="small_cnn", **changes)


def all_images(split):
    return split.first(len(split))[0]


def images_of(split):
    """The images as hashable values; standardising keeps distinct ones distinct."""
    return {tuple(image.flatten().tolist()) for image in all_images(split)}


def test_the_splits_share_out_all_the_digits():
    from sklearn.datasets import load_digits as all_digits

    count = len({row.tobytes() for row in all_digits().images})
    lengths = {name: len(load_split(task(), name)) for name in SPLITS}
    assert lengths == {"train": count - 2 * HELD_OUT, "val": HELD_OUT, "test": HELD_OUT}
    found = [images_of(load_split(task(), name)) for name in SPLITS]
    assert [len(images) for images in found] == list(lengths.values())
    assert len(set.union(*found)) == count


@pytest.mark.parametrize("name", SPLITS)
@pytest.mark.parametrize("seed", [0, 1])
def test_each_split_is_stratified(name, seed):
    everything = torch.cat([load_split(task(split_seed=seed), n).labels for n in SPLITS])
    labels = load_split(task(split_seed=seed), name).labels
    share = len(labels) / len(everything)
    expected = torch.bincount(everything, minlength=NUM_CLASSES) * share
    assert (torch.bincount(labels, minlength=NUM_CLASSES) - expected).abs().max() <= 1.0


def test_a_split_is_fixed_by_its_seed():
    first = load_split(task(split_seed=3), "train")
    load_split.cache_clear()
    again = load_split(task(split_seed=3), "train")
    assert torch.equal(all_images(first), all_images(again))
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.labels, load_split(task(split_seed=4), "train").labels)


def test_images_are_standardised_by_the_training_split_alone():
    train, val = load_split(task(), "train"), load_split(task(), "val")
    images = all_images(train)
    assert images.shape == (1079, 1, 8, 8)
    assert (images.dtype, train.labels.dtype) == (torch.float32, torch.int64)
    assert images.mean().item() == pytest.approx(0.0, abs=1e-4)
    assert images.std(correction=0).item() == pytest.approx(1.0, abs=1e-4)
    assert all_images(val).mean().item() != pytest.approx(0.0, abs=1e-4)
    assert set(val.labels.tolist()) == set(range(NUM_CLASSES))


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.4, 0.999])
def test_the_share_of_wrong_labels_is_exact_and_only_in_training(noise):
    clean, noisy = task(split_seed=2), task(split_seed=2, label_noise=noise)
    changed = {
        name: (load_split(noisy, name).labels != load_split(clean, name).labels).sum().item()
        for name in SPLITS
    }
    assert changed == {"train": round(noise * 1079), "val": 0, "test": 0}
    for name in SPLITS:
        images = [all_images(load_split(which, name)) for which in (noisy, clean)]
        assert torch.equal(*images)


def test_wrong_labels_are_classes_fixed_by_the_seed_and_uniform_over_the_others():
    labels = torch.arange(10).repeat(1000)
    before = labels.clone()
    noisy = symmetric_noise(labels, 10, 0.5, seed=7)
    assert torch.equal(labels, before)
    assert torch.equal(noisy, symmetric_noise(labels, 10, 0.5, seed=7))
    assert not torch.equal(noisy, symmetric_noise(labels, 10, 0.5, seed=8))
    wrong = noisy != labels
    assert wrong.sum() == 5000
    shifts = torch.bincount((noisy - labels)[wrong] % 10, minlength=10)
    assert shifts[0] == 0
    # Binomial with mean 5000 / 9: five standard deviations of 22.
    assert (shifts[1:] - 5000 / 9).abs().max() < 110


def batches(epochs=1, **changes):
    arguments = {"num_samples": 103, "batch_size": 12, "seed": 5} | changes
    workers = arguments.pop("workers", 1)
    orders = [BatchOrder(**arguments, rank=rank, workers=workers) for rank in range(workers)]
    return [
        [torch.cat(step).tolist() for step in zip(*(o.epoch() for o in orders), strict=True)]
        for _ in range(epochs)
    ]


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 12])
def test_a_step_takes_the_same_rows_however_many_workers_share_them(workers):
    alone, shared = batches(epochs=2), batches(epochs=2, workers=workers)
    for epoch_alone, epoch_shared in zip(alone, shared, strict=True):
        assert list(map(sorted, epoch_shared)) == list(map(sorted, epoch_alone))


def test_workers_take_equal_shares():
    shares = [next(BatchOrder(103, 12, 5, rank=rank, workers=3).epoch()) for rank in range(3)]
    assert [len(share) for share in shares] == [4, 4, 4]
    assert len(set(torch.cat(shares).tolist())) == 12


def test_an_epoch_takes_whole_batches_of_different_rows():
    (epoch,) = batches()
    rows = [row for step in epoch for row in step]
    assert [len(step) for step in epoch] == [12] * BatchOrder(103, 12, 5).steps == [12] * 8
    assert len(set(rows)) == len(rows)
    assert set(rows) <= set(range(103))


def test_what_an_epoch_leaves_out_changes_from_epoch_to_epoch():
    left = [set(range(103)) - {row for step in epoch for row in step} for epoch in batches(3)]
    assert len({frozenset(rows) for rows in left}) == 3


def test_the_order_is_fixed_by_the_seed():
    assert batches(epochs=2) == batches(epochs=2)
    assert batches(seed=5) != batches(seed=6)


def test_an_order_goes_on_from_its_state():
    expected = batches(epochs=3)
    first = BatchOrder(103, 12, 5)
    list(first.epoch())
    second = BatchOrder(103, 12, 99)
    second.load_state_dict(first.state_dict())
    assert [[rows.tolist() for rows in second.epoch()] for _ in range(2)] == expected[1:]


@pytest.mark.parametrize(
    ("batch_size", "workers", "problem"),
    [
        (1080, 1, "must be at most the 1079 training samples, got 1080"),
        (64, 3, "must divide evenly over the 3 workers of a trial, got 64"),
        (1, 2, "must divide evenly over the 2 workers of a trial, got 1"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(batch_size, workers, problem):
    with pytest.raises(InputError) as caught:
        check_batch_size(batch_size, workers, load_split(task(), "train"))
    assert caught.value.field == "training.batch_size"
    assert caught.value.problem == problem


def test_a_batch_that_does_not_divide_is_refused_by_the_field_that_asks_for_it():
    with pytest.raises(InputError) as caught:
        check_batch_size(64, 3, load_split(task(), "train"), "search.batch_size")
    assert caught.value.field == "search.batch_size"


def test_more_workers_than_samples_share_them_out():
    split = replace(load_split(task(), "val"), labels=torch.tensor([3, 1]))
    shares = [list(split.share(rank, 5)) for rank in range(5)]
    assert [len(share) for share in shares] == [1, 1, 0, 0, 0]
    assert [share[0][1].tolist() for share in shares[:2]] == [[3], [1]]


@pytest.mark.parametrize(("batch_size", "workers"), [(1079, 1), (64, 2), (2, 2), (2, 1)])
def test_a_batch_that_fits_passes(batch_size, workers):
    split = load_split(task(), "train")
    check_batch_size(batch_size, workers, split)
    assert BatchOrder(len(split), batch_size, 0, workers=workers).steps >= 1


def test_a_split_moves_to_a_device_with_its_own_rows_alone():
    split = load_split(task(), "val")
    moved = split.to(torch.device("meta"))
    assert isinstance(moved, ArraySplit)
    assert (moved.pixels.device.type, moved.labels.device.type) == ("meta", "meta")
    assert (len(moved), len(moved.pixels)) == (HELD_OUT, HELD_OUT)
    assert split.to(torch.device("cpu")) is split


def test_the_example_of_a_step_is_what_a_network_gets():
    model, images, labels = step_example(task(), 6)
    real_images, real_labels = load_split(task(), "train").first(6)
    assert (images.shape, images.dtype) == (real_images.shape, real_images.dtype)
    assert (labels.shape, labels.dtype) == (real_labels.shape, real_labels.dtype)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert model(images).shape == (6, 10)


def test_a_process_that_trains_on_digits_loads_no_library_of_other_data_sets():
    code = (
        "import sys; from esam_tune.tasks import data; from esam_tune.config import task_settings\n"
        "task = task_settings({'dataset': 'glyphs', 'model': 'small_cnn'})\n"
        "data.step_example(task, 2)\n"
        "print({'torchvision', 'PIL', 'matplotlib', 'sklearn'} & set(sys.modules))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "set()"


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_wrong_labels_are_spread_over_an_epoch_also_where_run_and_split_share_a_seed(seed):
    labels = torch.arange(2000) % 10
    wrong = symmetric_noise(labels, 10, 0.4, seed) != labels
    shares = [wrong[rows].float().mean() for rows in BatchOrder(2000, 200, seed).epoch()]
    assert min(shares) > 0.25
    assert max(shares) < 0.55
