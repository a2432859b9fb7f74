"""A task's splits by name, their label noise, and the batches that train on them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from esam_tune.config import TaskSettings
from esam_tune.errors import InputError
from esam_tune.tasks import cifar, digits, glyphs
from esam_tune.tasks.augmentation import Augmentation
from esam_tune.tasks.batches import Batches, BatchOrder
from esam_tune.tasks.image_folder import load_folder, shape_of
from esam_tune.tasks.models import build_model, check_model
from esam_tune.tasks.splits import Split, SplitName


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set on offer.

    Args:
        load: one of its splits.
        shape: of its images, and the count of its classes, without reading any image.
        moments: mean and deviation that its loader standardises images of one channel with; None
            where the split says them.
    """

    load: Callable[[TaskSettings, SplitName], Split]
    shape: Callable[[TaskSettings], tuple[tuple[int, int, int], int]]
    moments: Callable[[TaskSettings], tuple[float, float]] | None = None


DATA_SETS: dict[str, DataSet] = {
    "digits": DataSet(
        load=digits.load_digits,
        shape=lambda _: (digits.IMAGE_SHAPE, digits.NUM_CLASSES),
        moments=digits.digits_moments,
    ),
    "glyphs": DataSet(
        load=glyphs.load_glyphs, shape=lambda _: (glyphs.IMAGE_SHAPE, glyphs.NUM_CLASSES)
    ),
    "imagenet": DataSet(load=load_folder, shape=shape_of),
    "folder": DataSet(load=load_folder, shape=shape_of),
    **{
        name: DataSet(
            load=cifar.load_cifar,
            shape=lambda task: (cifar.IMAGE_SHAPE, cifar.NUM_CLASSES[task.dataset]),
        )
        for name in cifar.NUM_CLASSES
    },
}


@lru_cache(maxsize=8)
def load_split(task: TaskSettings, name: SplitName) -> Split:
    """One split of the task's data; the train split carries the label noise.

    The test split is loaded only when asked for by name, which a search never does.

    Raises:
        InputError: when the data set is missing, corrupt or cannot be downloaded.
    """
    split = DATA_SETS[task.dataset].load(task, name)
    if name == "train" and task.label_noise:
        noisy = symmetric_noise(split.labels, split.num_classes, task.label_noise, task.split_seed)
        split = split.with_labels(noisy)
    return split


def checked_train_split(task: TaskSettings) -> Split:
    """The train split, after all that can be checked of a task before it is trained.

    This prepares the data set on this machine, its test part too where that comes in one piece with
    the rest (CIFAR, glyphs), and its validation part. No test image or label is looked at.

    Raises:
        InputError: when the data set is missing, corrupt or cannot be downloaded, or when the
            network does not take its images.
    """
    train = load_split(task, "train")
    # A folder may have it apart.
    load_split(task, "val")
    check_model(task.model, train.image_shape)
    return train


def standardisation(task: TaskSettings) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation by channel that a task's images are standardised with.

    They are on the scale of the data set's own pixels: 0 to 16 in ``digits``, 0 to 255 in all else.
    """
    moments = DATA_SETS[task.dataset].moments
    if moments is not None:
        mean, deviation = moments(task)
        return (mean,), (deviation,)
    train = load_split(task, "train")
    assert train.mean is not None
    assert train.deviation is not None
    return train.mean, train.deviation


def training_batches(
    task: TaskSettings, train: Split, batch_size: int, seed: int, *, rank: int = 0, workers: int = 1
) -> Batches:
    """The batches that one worker trains on.

    Args:
        task: whose augmentation applies.
        train: its training split, on the worker's device.
        batch_size: rows of a step over all workers.
        seed: fixes order and augmentation.
        rank: of this worker.
        workers: count, a divisor of ``batch_size``.
    """
    return Batches(
        train,
        BatchOrder(len(train), batch_size, seed, rank=rank, workers=workers),
        Augmentation.named(
            task.reads("augment"), train.image_shape, cropped=train.cropped_by_loader
        ),
        seed,
    )


def step_example(task: TaskSettings, rows: int) -> tuple[nn.Module, Tensor, Tensor]:
    """The task's network and a batch of its images and labels, all without values (device meta).

    No image is read, so it serves where the data set is not at hand.

    Args:
        task: what is trained.
        rows: of the batch.
    """
    shape, num_classes = DATA_SETS[task.dataset].shape(task)
    model = build_model(task.model, shape, num_classes, 0, device="meta")
    images = torch.empty(rows, *shape, device="meta")
    return model, images, torch.empty(rows, dtype=torch.int64, device="meta")


def symmetric_noise(labels: Tensor, num_classes: int, share: float, seed: int) -> Tensor:
    """Replace the share of the labels, rounded to whole samples, by another class each.

    The wrong class is uniform over the other ``num_classes - 1``.

    Args:
        labels: shape (n,), int64; left as it is.
        num_classes: at least 2.
        share: in [0, 1).
        seed: fixes which labels change and to what.
    """
    generator = torch.Generator().manual_seed(seed)
    count = round(share * len(labels))
    rows = torch.randperm(len(labels), generator=generator)[:count]
    shift = torch.randint(1, num_classes, (count,), generator=generator)
    noisy = labels.clone()
    noisy[rows] = (labels[rows] + shift) % num_classes
    return noisy


def check_batch_size(
    batch_size: int, workers: int, train: Split, field: str = "training.batch_size"
) -> None:
    """Require that the batch fits the data and divides evenly over the workers.

    Raises:
        InputError: naming the field.
    """
    if batch_size > len(train):
        raise InputError(
            field,
            f"must be at most the {len(train)} training samples, got {batch_size}",
            "use a smaller batch",
        )
    if batch_size % workers:
        raise InputError(
            field,
            f"must divide evenly over the {workers} workers of a trial, got {batch_size}",
            f"use a multiple of {workers}",
        )
