"""Glyphs: drawn alike each time, of any size, all classes, and kept."""

import numpy as np
import pytest
import torch

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


def test_missing_fonts_are_refused(task, monkeypatch):
    monkeypatch.setattr(glyphs, "_FONTS", ("NoSuch.ttf",))
    with pytest.raises(InputError, match=r"NoSuch\.ttf is not in"):
        load_split(task(split_seed=2), "train")


def test_the_example_of_a_step_needs_no_data():
    model, images, _ = step_example(TaskSettings(dataset="glyphs", model="small_cnn"), 4)
    assert images.shape == (4, 3, 32, 32)
    assert model(images).shape == (4, 47)
