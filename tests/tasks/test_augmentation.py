"""Crop, flip and Cutout: the pixels they give, how often, and that their draws fix them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esam_tune.config import AUGMENTATIONS, TaskSettings
from esam_tune.tasks.augmentation import DRAWS, Augmentation
from esam_tune.tasks.batches import Batches, BatchOrder
from esam_tune.tasks.data import load_split, training_batches
from esam_tune.tasks.splits import ArraySplit

AUTHORS = Augmentation(padding=4, flip=True, cutout=16)


def drawn(rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((rows, DRAWS), generator=generator, dtype=torch.float64)


def numbered(rows, channels=2, height=32, width=32):
    """Images in which every pixel has a number of its own, from 1."""
    count = channels * height * width
    return (torch.arange(count) + 1).view(1, channels, height, width).repeat(rows, 1, 1, 1)


def offsets(moved, padding=4, width=32):
    """Where each window of numbered images begins in the padded image, and whether mirrored."""
    found = []
    for image in moved[:, 0]:
        inside = (image > 0).nonzero()[0]
        number = int(image[tuple(inside)]) - 1
        row, column = divmod(number, width)
        right = image[int(inside[0]), int(inside[1]) + 1]
        mirrored = bool(right < number + 1)
        across = width - 1 - column if mirrored else column
        top = row + padding - int(inside[0])
        left = across + padding - int(inside[1])
        found.append((top, 2 * padding - left if mirrored else left, mirrored))
    return found


@given(st.data())
@settings(max_examples=40)
def test_a_crop_is_a_window_of_the_padded_image_or_its_mirror_image(data):
    height, width = data.draw(st.integers(4, 12)), data.draw(st.integers(4, 12))
    padding = data.draw(st.integers(0, 3))
    augmentation = Augmentation(padding=padding, flip=data.draw(st.booleans()), cutout=0)
    images = numbered(5, height=height, width=width)
    before = images.clone()
    draws = drawn(5, data.draw(st.integers(0, 1000)))
    moved = augmentation.move(images, draws)
    assert torch.equal(images, before)
    for image, row, result in zip(images, draws.tolist(), moved, strict=True):
        top, left = (int(value * (2 * padding + 1)) for value in row[:2])
        padded = torch.nn.functional.pad(image, [padding] * 4)
        window = padded[:, top : top + height, left : left + width]
        flipped = augmentation.flip and row[2] < 0.5
        assert torch.equal(result, window.flip(2) if flipped else window)


def test_crop_places_are_uniform_and_half_the_images_are_mirrored():
    rows = 9 * 9 * 100
    moved = AUTHORS.move(numbered(rows, channels=1), drawn(rows))
    found = offsets(moved)
    counts = torch.zeros(9, 9)
    for top, left, _ in found:
        counts[top, left] += 1
    # Each place has a mean of 100 and a standard deviation of 10.
    assert (counts - 100).abs().max() < 50
    mirrored = sum(mirrored for _, _, mirrored in found)
    assert mirrored == pytest.approx(rows / 2, abs=5 * (rows / 4) ** 0.5)


def test_a_square_is_cut_out_of_half_the_images_and_its_centre_is_uniform():
    rows = 4096
    cut = AUTHORS.cut(torch.ones(rows, 3, 32, 32), drawn(rows)) == 0
    assert torch.equal(cut[:, 0], cut[:, 1])
    area = cut[:, 0].sum(dim=(1, 2))
    chosen = area > 0
    assert chosen.sum().item() == pytest.approx(rows / 2, abs=5 * (rows / 4) ** 0.5)
    assert (area.min(), area.max()) == (0, 256)
    # Starting at -8 .. 23, the square keeps 8 .. 16 .. 9 of its 16 rows: 14 on average.
    sides = [min(32, start + 16) - max(0, start) for start in range(-8, 24)]
    mean = sum(sides) / 32
    assert area[chosen].double().mean().item() == pytest.approx(mean**2, rel=0.02)
    tops = cut[chosen, 0].any(dim=2).double().argmax(dim=1)
    assert set(tops.tolist()) == set(range(24))


def test_cutting_sets_to_zero_in_place_and_leaves_the_rest():
    images = torch.full((64, 3, 32, 32), 2.0)
    result = AUTHORS.cut(images, drawn(64))
    assert result is images
    assert set(result.unique().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize(
    ("name", "padding", "flip", "cutout"),
    [
        ("crop", 4, False, 0),
        ("crop_flip", 4, True, 0),
        ("crop_cutout", 4, False, 16),
        ("crop_flip_cutout", 4, True, 16),
    ],
)
def test_a_name_says_what_is_done_to_an_image_of_32_pixels(name, padding, flip, cutout):
    expected = Augmentation(padding=padding, flip=flip, cutout=cutout)
    assert Augmentation.named(name, (3, 32, 32), cropped=False) == expected
    streamed = Augmentation.named(name, (3, 32, 32), cropped=True)
    assert streamed == Augmentation(padding=0, flip=flip, cutout=cutout)


def test_every_name_is_known_and_none_is_nothing():
    assert Augmentation.named("none", (1, 8, 8), cropped=False) is None
    for name in set(AUGMENTATIONS) - {"none"}:
        assert Augmentation.named(name, (1, 8, 8), cropped=False).padding == 1


def coloured(count=64):
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return ArraySplit(
        pixels=pixels,
        rows=torch.arange(count),
        labels=torch.arange(count) % 10,
        num_classes=10,
        image_shape=(3, 32, 32),
        mean=(120.0, 125.0, 130.0),
        deviation=(60.0, 61.0, 62.0),
    )


def epochs(count, rank=0, workers=1, state=None, seed=3):
    order = BatchOrder(64, 16, seed, rank=rank, workers=workers)
    batches = Batches(coloured(), order, AUTHORS, seed)
    if state is not None:
        batches.load_state_dict(state)
    made = [torch.cat([images for images, _ in batches.epoch()]) for _ in range(count)]
    return made, batches.state_dict()


def test_batches_are_standardised_and_zero_where_cut_out():
    (images,), _ = epochs(1)
    assert images.dtype == torch.float32
    low = [-120 / 60, -125 / 61, -130 / 62]
    high = [(255 - mean) / deviation for mean, deviation in ((120, 60), (125, 61), (130, 62))]
    for channel in range(3):
        assert images[:, channel].min().item() == pytest.approx(low[channel], abs=1e-5)
        assert images[:, channel].max().item() == pytest.approx(high[channel], abs=1e-5)
    assert (images == 0).float().mean() > 0.05


def test_augmentation_goes_on_from_its_state_bit_for_bit():
    undisturbed, _ = epochs(3)
    _, state = epochs(1)
    rest, _ = epochs(2, state=state, seed=99)
    assert all(torch.equal(a, b) for a, b in zip(undisturbed[1:], rest, strict=True))


def test_a_state_from_before_there_was_augmentation_still_gives_the_order():
    _, state = epochs(1)
    del state["augmentation"]
    rest, after = epochs(1, state=state)
    undisturbed, expected = epochs(2)
    assert torch.equal(after["generator"], expected["generator"])
    assert rest[0].shape == undisturbed[1].shape


@pytest.mark.parametrize("workers", [2, 4])
def test_a_sample_is_augmented_alike_whichever_worker_has_it(workers):
    alone, state = epochs(2)
    parts = [epochs(2, rank=rank, workers=workers) for rank in range(workers)]
    for epoch in range(2):
        for step in range(4):
            whole = alone[epoch][16 * step : 16 * (step + 1)]
            size = 16 // workers
            for rank, (made, _) in enumerate(parts):
                own = made[epoch][size * step : size * (step + 1)]
                assert torch.equal(own, whole[rank::workers])
    for _, other in parts:
        assert all(torch.equal(state[key], other[key]) for key in state)


def test_digits_are_not_augmented_unless_asked_to():
    task = TaskSettings(dataset="digits", model="small_cnn")
    train = load_split(task, "train")
    images, labels = next(iter(training_batches(task, train, 64, 0).epoch()))
    rows = next(iter(BatchOrder(len(train), 64, 0).epoch()))
    assert torch.equal(images, train.pixels[train.rows[rows]])
    assert torch.equal(labels, train.labels[rows])
    moved = TaskSettings(dataset="digits", model="small_cnn", augment="crop")
    other, _ = next(iter(training_batches(moved, train, 64, 0).epoch()))
    assert not torch.equal(images, other)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_device_gives_what_the_cpu_gives():
    order = BatchOrder(64, 16, 0)
    split = coloured().to(torch.device("cuda"))
    on_device = torch.cat([images for images, _ in Batches(split, order, AUTHORS, 0).epoch()])
    order = BatchOrder(64, 16, 0)
    here = torch.cat([images for images, _ in Batches(coloured(), order, AUTHORS, 0).epoch()])
    assert torch.allclose(on_device.cpu(), here, atol=1e-6)
