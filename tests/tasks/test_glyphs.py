"""Glyphs: drawn alike each time, of any size, all classes, and kept."""

import numpy as np
import pytest
import torch
from test_prepared import memory

from esam_tune.config import TaskSettings, task_settings
from esam_tune.errors import InputError
from esam_tune.tasks import glyphs
from esam_tune.tasks.data import load_split, step_example
from esam_tune.tasks.glyphs import CLASSES, NUM_CLASSES, draw

SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def drawn():
    return draw(1100, 5, "train")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def task(data):
    load_split.cache_clear()

    def make(**changes):
        settings = {"dataset": "glyphs", "model": "small_cnn", "samples": 1000, **changes}
        return task_settings({"data_dir": str(data), **settings})

    yield make
    load_split.cache_clear()


def test_the_same_arguments_draw_the_same_images_bit_for_bit(drawn):
    images, labels = draw(1100, 5, "train")
    assert np.array_equal(images, drawn[0])
    assert np.array_equal(labels, drawn[1])


def test_a_smaller_set_is_the_beginning_of_a_larger_one(drawn):
    for count in (1, 512, 700):
        images, labels = draw(count, 5, "train")
        assert np.array_equal(images, drawn[0][:count])
        assert np.array_equal(labels, drawn[1][:count])


@pytest.mark.parametrize(("seed", "part"), [(6, "train"), (5, "test")])
def test_another_seed_and_the_test_part_draw_other_images(drawn, seed, part):
    others, _ = draw(100, seed, part)
    known = {image.tobytes() for image in drawn[0]}
    assert not known & {image.tobytes() for image in others}


def test_images_are_coloured_varied_and_of_all_classes_alike(drawn):
    images, labels = drawn
    assert (images.shape, images.dtype) == ((1100, 3, 32, 32), np.uint8)
    counts = np.bincount(labels, minlength=NUM_CLASSES)
    assert (len(CLASSES), len(set(CLASSES)), len(counts)) == (47, 47, 47)
    assert counts.max() - counts.min() <= 1
    assert len({image.tobytes() for image in images}) == 1100
    # Colour: the channels of an image differ; variety: so do the images' means.
    assert np.abs(images[:, 0].astype(float) - images[:, 1]).mean() > 20
    assert images.mean(axis=(1, 2, 3)).std() > 15


def test_every_character_of_every_font_leaves_a_mark_that_differs_between_classes():
    pen = glyphs._Pen()
    upright = np.array([1.0, 0.0, 0.0, 0.0, 0.0])
    for font in range(len(glyphs._FONTS)):
        marks = [pen.write(font, label, upright) for label in range(NUM_CLASSES)]
        # An I of a fine face still covers some ten pixels' worth.
        assert min(mark.sum() / 255 for mark in marks) > 10
        assert len({mark.tobytes() for mark in marks}) == NUM_CLASSES


def test_a_character_is_moved_turned_and_scaled_as_asked():
    pen = glyphs._Pen()
    down, across = np.mgrid[:32, :32]

    def centre(**changes):
        shape = {"scale": 0.7, "angle": 0.0, "slant": 0.0, "across": 0.0, "down": 0.0} | changes
        mark = pen.write(0, CLASSES.index("O"), np.array(list(shape.values()))).astype(float)
        total = mark.sum()
        place = ((mark * across).sum() / total, (mark * down).sum() / total)
        return np.array(place), total

    place, area = centre()
    assert place == pytest.approx([15.5, 15.5], abs=1.0)
    moved, _ = centre(across=5.0, down=-3.0)
    assert moved - place == pytest.approx([5.0, -3.0], abs=0.2)
    _, larger = centre(scale=0.9)
    assert larger / area == pytest.approx((0.9 / 0.7) ** 2, rel=0.05)
    turned, same = centre(angle=np.pi)
    assert same == pytest.approx(area, rel=0.02)
    assert turned - 15.5 == pytest.approx(15.5 - place, abs=0.6)


@pytest.mark.parametrize("slant", [-0.3, 0.0, 0.3])
def test_a_character_leans_as_asked(slant):
    pen = glyphs._Pen()
    mark = pen.write(0, CLASSES.index("I"), np.array([0.9, 0.0, slant, 0.0, 0.0])).astype(float)
    rows = np.flatnonzero(mark.sum(axis=1) > 0.5 * mark.sum(axis=1).max())
    places = (mark[rows] * np.arange(32)).sum(axis=1) / mark[rows].sum(axis=1)
    # Each row's middle lies as far to the right of the row below as the tangent says.
    lean = -np.polyfit(rows, places, 1)[0]
    assert lean == pytest.approx(np.tan(slant), abs=0.02)


def test_what_lies_in_an_image_is_drawn_anew_for_each(monkeypatch):
    shapes = []

    class Noting(glyphs._Pen):
        def write(self, font, label, shape):
            shapes.append((font, *shape))
            return super().write(font, label, shape)

    monkeypatch.setattr(glyphs, "_Pen", Noting)
    draw(glyphs._BLOCK, 5, "train")
    # The characters themselves come first, then the pieces of others beside them.
    fonts, scale, angle, slant, across, down = np.array(shapes[: glyphs._BLOCK]).T
    assert set(fonts) == set(range(len(glyphs._FONTS)))
    bounds = {
        "scale": (scale, 0.7, 1.25),
        "angle": (angle, -0.35, 0.35),
        "slant": (slant, -0.3, 0.3),
        "across": (across, -4.0, 4.0),
        "down": (down, -4.0, 4.0),
    }
    for name, (values, low, high) in bounds.items():
        # All of the range, evenly.
        assert low <= values.min() < low + 0.05 * (high - low), name
        assert high - 0.05 * (high - low) < values.max() <= high, name
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.1 * (high - low)), name
        assert len(set(values)) == glyphs._BLOCK, name


def test_without_a_character_there_are_a_varied_background_and_noise(monkeypatch):
    def nothing(random, labels, *_, **__):
        return np.zeros((len(labels), 32, 32), dtype=np.float32)

    monkeypatch.setattr(glyphs, "_masks", nothing)
    images, _ = draw(glyphs._BLOCK, 5, "train")
    images = images.astype(float)
    # Backgrounds: colours of their own, and within each blots and stripes.
    colours = images.mean(axis=(2, 3))
    assert colours.std(axis=0).min() > 20
    assert np.abs(colours[:, 0] - colours[:, 1]).mean() > 20
    # The mean of sixteen pixels keeps a quarter of the noise, 7 at the most.
    blurred = images.reshape(-1, 3, 8, 4, 8, 4).mean(axis=(3, 5))
    assert np.median(blurred.std(axis=(2, 3))) > 10
    # Noise of a strength of its own: second differences across and down leave little of what
    # varies slowly, and have 36 times the variance of what is independent from pixel to pixel.
    second = np.diff(np.diff(images, 2, axis=3), 2, axis=2)
    noise = np.sqrt(np.square(second).mean(axis=(1, 2, 3)) / 36)
    assert noise.min() > 3
    assert np.percentile(noise, 90) > 2 * np.percentile(noise, 10)
    # And of each channel by itself.
    residues = second.transpose(1, 0, 2, 3).reshape(3, -1)
    assert np.abs(np.corrcoef(residues)[np.triu_indices(3, 1)]).max() < 0.2


@pytest.mark.parametrize("library", ["pillow", "numpy", "matplotlib"])
def test_another_version_of_what_draws_them_draws_anew(task, library, monkeypatch):
    glyphs.load_glyphs(task(), "train")

    def draw_again(samples, seed):
        raise ArithmeticError

    monkeypatch.setattr(glyphs, "_draw_all", draw_again)
    glyphs.load_glyphs(task(), "train")
    known = glyphs.version
    monkeypatch.setattr(glyphs, "version", lambda name: known(name) + ".1" * (name == library))
    with pytest.raises(ArithmeticError):
        glyphs.load_glyphs(task(), "train")


def test_splits_are_apart_stratified_and_standardised(task):
    splits = {name: load_split(task(val_share=0.2), name) for name in SPLITS}
    assert sum(len(splits[name]) for name in ("train", "val")) == 1000
    assert len(splits["val"]) == pytest.approx(200, abs=24)
    assert len(splits["test"]) == 200
    assert not set(splits["train"].rows.tolist()) & set(splits["val"].rows.tolist())
    assert torch.bincount(splits["val"].labels, minlength=47).min() >= 4
    images, _ = splits["train"].first(1000)
    assert images.mean().item() == pytest.approx(0.0, abs=1e-3)
    assert images.std().item() == pytest.approx(1.0, abs=1e-3)


def test_label_noise_changes_the_training_labels_alone(task):
    clean, noisy = task(), task(label_noise=0.25)
    changed = {
        name: (load_split(noisy, name).labels != load_split(clean, name).labels).sum().item()
        for name in SPLITS
    }
    assert changed == {"train": round(0.25 * len(load_split(clean, "train"))), "val": 0, "test": 0}


def test_a_set_is_drawn_once_and_kept_by_what_fixes_it(task, data, monkeypatch):
    load_split(task(), "train")
    load_split.cache_clear()
    monkeypatch.setattr(glyphs, "draw", lambda *_: pytest.fail("drawn again"))
    assert len(load_split(task(), "test")) == 200
    with pytest.raises(pytest.fail.Exception, match="drawn again"):
        load_split(task(split_seed=1), "train")
    with pytest.raises(pytest.fail.Exception, match="drawn again"):
        load_split(task(samples=2000), "train")


def test_a_process_that_has_looked_at_every_image_has_no_copy_of_its_own(task, data):
    train, val = load_split(task(), "train"), load_split(task(), "val")
    assert (train.pixels.dtype, val.pixels.dtype) == (torch.uint8, torch.uint8)
    for split in (train, val):
        for images, _ in split.in_order(torch.arange(len(split))):
            assert images.dtype == torch.float32
    # Not moved either: the worker of a CPU trains on the very pages that all others map.
    assert train.to(torch.device("cpu")) is train
    (file,) = data.glob("prepared/glyphs-*-1000-seed0-*/train-images.npy")
    usage = memory(file)
    assert usage["inode"] == str(file.stat().st_ino)
    assert usage["Rss"] >= 1000 * 3 * 32 * 32 // 1024
    assert usage["Private_Dirty"] == 0


def test_missing_fonts_are_refused(task, monkeypatch):
    monkeypatch.setattr(glyphs, "_FONTS", ("NoSuch.ttf",))
    with pytest.raises(InputError, match=r"NoSuch\.ttf is not in"):
        load_split(task(split_seed=2), "train")


def test_the_example_of_a_step_needs_no_data():
    model, images, _ = step_example(TaskSettings(dataset="glyphs", model="small_cnn"), 4)
    assert images.shape == (4, 3, 32, 32)
    assert model(images).shape == (4, 47)
