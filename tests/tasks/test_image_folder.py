"""Folders of images, ImageNet's among them: layouts, splits, decoding, and what is refused."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.ImageFile import ImageFile

from esam_tune.config import task_settings
from esam_tune.errors import InputError
from esam_tune.tasks import image_check, image_folder
from esam_tune.tasks.data import checked_train_split, load_split, step_example, training_batches
from esam_tune.tasks.stream import ImageError, StreamSplit, _random_box, decode

torch.set_num_threads(1)

SPLITS = ("train", "val", "test")
COLOURS = {"ape": (200, 40, 40), "bee": (40, 200, 40), "cat": (40, 40, 200)}


def save(path, colour, size=(60, 40), number=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.empty((size[1], size[0], 3), dtype=np.uint8)
    pixels[:] = colour
    # Each image has a brightness of its own, to be known by.
    pixels[:, :, 0] = np.clip(pixels[:, :, 0].astype(int) + number, 0, 255)
    Image.fromarray(pixels).save(path)


def fill(folder, parts, counts=10, ending="JPEG"):
    for part in parts:
        for name, colour in COLOURS.items():
            for number in range(counts):
                save(folder / part / name / f"{number}.{ending}", colour, number=number)
    return folder


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    load_split.cache_clear()
    monkeypatch.setenv("ESAM_TUNE_DATA", str(tmp_path / "kept"))
    yield tmp_path / "kept"
    load_split.cache_clear()


@pytest.fixture
def images(tmp_path):
    return tmp_path / "images"


def task(folder, dataset="folder", **changes):
    settings = {"image_size": 16, "data_dir": str(folder), **changes}
    return task_settings({"dataset": dataset, "model": "small_cnn", **settings})


def paths(split):
    assert isinstance(split, StreamSplit)
    return [split.files.path(row) for row in split.rows.tolist()]


def seen(settings):
    """Paths of each split, relative to the folder."""
    root = settings.data_dir
    return {
        name: {os.path.relpath(path, root) for path in paths(load_split(settings, name))}
        for name in SPLITS
    }


@pytest.mark.parametrize(
    ("parts", "sizes", "origins"),
    [
        (["."], (24, 3, 3), {"train": None, "val": None, "test": None}),
        (["train", "test"], (27, 3, 30), {"train": "train", "val": "train", "test": "test"}),
        (["train", "val"], (27, 3, 30), {"train": "train", "val": "train", "test": "val"}),
        (["train", "val", "test"], (30, 30, 30), {name: name for name in SPLITS}),
        (["train"], (24, 3, 3), dict.fromkeys(SPLITS, "train")),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else None,
)
def test_each_layout_gives_three_splits_apart(images, parts, sizes, origins):
    settings = task(fill(images, parts))
    found = seen(settings)
    assert tuple(len(found[name]) for name in SPLITS) == sizes
    assert len(set.union(*found.values())) == sum(sizes)
    for name, origin in origins.items():
        if origin:
            assert {path.split("/")[0] for path in found[name]} == {origin}
        split = load_split(settings, name)
        assert torch.bincount(split.labels).tolist() == [sizes[SPLITS.index(name)] // 3] * 3
        for path, label in zip(paths(split), split.labels.tolist(), strict=True):
            assert path.split("/")[-2] == sorted(COLOURS)[label]


def test_imagenets_published_validation_images_are_the_test_split(images, monkeypatch):
    monkeypatch.setattr(image_folder, "IMAGENET_CLASSES", 3)
    found = seen(task(fill(images, ["train", "val", "test"]), "imagenet", val_share=0.1))
    assert {path.split("/")[0] for path in found["test"]} == {"val"}
    assert {path.split("/")[0] for path in found["train"] | found["val"]} == {"train"}
    assert (len(found["train"]), len(found["val"])) == (27, 3)


def test_imagenet_lies_in_the_data_folder_unless_named(data, monkeypatch):
    monkeypatch.setattr(image_folder, "IMAGENET_CLASSES", 3)
    fill(data / "imagenet", ["train", "val"], counts=2)
    settings = task_settings({"dataset": "imagenet", "model": "small_cnn"})
    assert len(load_split(settings, "test")) == 6
    assert load_split(settings, "train").image_shape == (3, 224, 224)


def test_splits_are_fixed_by_the_seed(images):
    fill(images, ["."])
    assert seen(task(images)) == seen(task(images))
    assert seen(task(images))["test"] != seen(task(images, split_seed=3))["test"]


@pytest.mark.parametrize(("dataset", "wrong"), [("folder", 12), ("imagenet", 11)])
def test_label_noise_changes_the_training_labels_alone(images, dataset, wrong, monkeypatch):
    monkeypatch.setattr(image_folder, "IMAGENET_CLASSES", 3)
    fill(images, ["train", "val", "test"])
    clean, noisy = task(images, dataset), task(images, dataset, label_noise=0.4)
    changed = {
        name: (load_split(noisy, name).labels != load_split(clean, name).labels).sum().item()
        for name in SPLITS
    }
    assert changed == {"train": wrong, "val": 0, "test": 0}
    train = load_split(noisy, "train")
    _, loaded = train.first(len(train))
    assert torch.equal(loaded, train.labels)


def raw(split, images):
    """Undo the standardising."""
    mean = torch.tensor(split.mean).view(3, 1, 1)
    return images * torch.tensor(split.deviation).view(3, 1, 1) + mean


def test_batches_hold_the_images_of_their_labels(images):
    settings = task(fill(images, ["."], ending="png"), augment="crop_flip")
    train = load_split(settings, "train")
    batches = training_batches(settings, train, 8, 0)
    assert batches.steps == 3
    for pictures, labels in batches.epoch():
        assert pictures.shape == (8, 3, 16, 16)
        for picture, label in zip(raw(train, pictures), labels.tolist(), strict=True):
            colour = torch.tensor(list(COLOURS.values())[label]).float()
            assert (picture.mean(dim=(1, 2)) - colour).abs().max() < 11


def epochs(settings, count, rank=0, workers=1, state=None):
    train = load_split(settings, "train")
    batches = training_batches(settings, train, 8, 0, rank=rank, workers=workers)
    if state is not None:
        batches.load_state_dict(state)
    made = [list(batches.epoch()) for _ in range(count)]
    return [[torch.cat(parts) for parts in zip(*epoch, strict=True)] for epoch in made], (
        batches.state_dict()
    )


@pytest.fixture
def gradients(images):
    """Images whose crops can be told from each other."""
    for name in COLOURS:
        for number in range(8):
            (images / name).mkdir(parents=True, exist_ok=True)
            ramp = np.add.outer(np.arange(40) * 3, np.arange(60) * 2) + number
            Image.fromarray(ramp.astype(np.uint8)).save(images / name / f"{number}.png")
    return task(images, augment="crop_flip_cutout")


def test_a_stream_goes_on_from_its_state_and_whatever_its_processes(gradients):
    undisturbed, _ = epochs(gradients, 2)
    _, state = epochs(gradients, 1)
    torch.set_num_threads(2)
    try:
        torch.manual_seed(77)
        before = torch.get_rng_state()
        rest, _ = epochs(gradients, 1, state=state)
        assert torch.equal(torch.get_rng_state(), before)
    finally:
        torch.set_num_threads(1)
    for expected, result in zip(undisturbed[1], rest[0], strict=True):
        assert torch.equal(expected, result)


def test_workers_of_a_stream_share_each_step_and_augment_their_rows_alike(gradients):
    ((alone, labels),), _ = epochs(gradients, 1)
    for rank in range(2):
        ((own, own_labels),), _ = epochs(gradients, 1, rank=rank, workers=2)
        expected = torch.cat([alone[8 * step : 8 * step + 8][rank::2] for step in range(2)])
        assert torch.equal(own, expected)
        assert len(own_labels) == len(labels) // 2


@pytest.mark.parametrize("size", [(600, 400), (400, 600), (301, 299)])
def test_evaluation_is_a_resize_to_256_and_a_crop_of_the_middle_224(images, size):
    from torchvision.transforms import v2

    down, across = np.mgrid[: size[1], : size[0]]
    waves = [127 + 120 * np.sin(down / 9 + across / (11 + 5 * channel)) for channel in range(3)]
    images.mkdir()
    picture = Image.fromarray(np.stack(waves, axis=2).astype(np.uint8))
    picture.save(images / "waves.png")
    usual = v2.CenterCrop(224)(v2.Resize(256)(picture))
    expected = torch.from_numpy(np.array(usual)).permute(2, 0, 1).float()
    result = decode(str(images / "waves.png"), 224, None)
    assert (result.float() - expected).abs().mean() < 3.0


def test_a_random_crop_of_a_large_jpeg_is_that_of_the_whole_image(images):
    images.mkdir()
    down, across = np.mgrid[:512, :768]
    pixels = np.stack([down / 2, across / 3, np.full_like(down, 128)], axis=2).astype(np.uint8)
    Image.fromarray(pixels).save(images / "large.jpg", quality=95)
    Image.fromarray(pixels).save(images / "large.png")
    for draw in (0.1, 0.5, 0.9):
        reduced = decode(str(images / "large.jpg"), 32, draw).float()
        whole = decode(str(images / "large.png"), 32, draw).float()
        assert (reduced - whole).abs().mean() < 2.0


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (2000, 20), (1, 1)])
def test_random_boxes_lie_in_the_image_and_keep_area_and_shape(size):
    import random

    boxes = [_random_box(*size, random.Random(seed)) for seed in range(300)]
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]
        if min(size) > 100:
            area = (right - left) * (bottom - top) / (size[0] * size[1])
            assert 0.075 < area <= 1.0
            assert 0.74 < (right - left) / (bottom - top) < 1.35
    if min(size) > 100:
        assert len(set(boxes)) > 290


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_images_of_any_mode_come_in_three_colours(images, mode):
    images.mkdir()
    ending = "jpg" if mode == "CMYK" else "png"
    Image.new("RGB", (20, 20), (255, 255, 255)).convert(mode).save(images / f"image.{ending}")
    result = decode(str(images / f"image.{ending}"), 8, None)
    assert result.shape == (3, 8, 8)
    assert result.min() >= 250


def test_images_added_later_are_seen(images):
    settings = task(fill(images, ["."]))
    assert sum(len(load_split(settings, name)) for name in SPLITS) == 30
    save(images / "ape" / "more.png", (1, 2, 3))
    load_split.cache_clear()
    assert sum(len(load_split(settings, name)) for name in SPLITS) == 31


def test_the_example_of_a_step_reads_no_image(images, monkeypatch):
    fill(images, ["train", "test"], counts=2)
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("opened"))
    model, pictures, _ = step_example(task(images), 2)
    assert pictures.shape == (2, 3, 16, 16)
    assert model(pictures).shape == (2, 3)
    anywhere = task_settings({"dataset": "imagenet", "model": "small_cnn"})
    model, pictures, _ = step_example(anywhere, 2)
    assert model(pictures).shape == (2, 1000)


def refusal(settings):
    with pytest.raises(InputError) as caught:
        checked_train_split(settings)
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


def test_a_folder_has_to_be_named_and_there(images):
    unnamed = task_settings({"dataset": "folder", "model": "small_cnn"})
    assert "required for folder" in refusal(unnamed).problem
    assert "must be a folder of images" in refusal(task(images)).problem
    assert "must be an absolute path" in refusal(task("images")).problem
    missing = refusal(task_settings({"dataset": "imagenet", "model": "small_cnn"}))
    assert "ESAM_TUNE_DATA" in missing.remedy


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda f: (f / "train" / "ape").rename(f / "gone"), "must hold the same class folders"),
        (lambda f: (f / "test" / "dog").mkdir(), "'dog' is in one of them alone"),
        (lambda f: [p.unlink() for p in (f / "train" / "bee").iterdir()], "got 0"),
        (lambda f: (f / "train" / "cat" / "0.JPEG").write_bytes(b"GIF89a"), "cannot be read"),
        (
            lambda f: (f / "train" / "cat" / "0.JPEG").write_bytes(
                (f / "train" / "cat" / "0.JPEG").read_bytes()[:300]
            ),
            "cannot be read",
        ),
    ],
    ids=["class missing", "class too many", "no images", "no image", "cut off"],
)
def test_a_damaged_folder_is_refused_by_what_is_wrong(images, spoil, problem):
    spoil(fill(images, ["train", "test"]))
    error = refusal(task(images))
    assert error.field == "task.data_dir"
    assert problem in error.problem


def cut(path, kept=0.6):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])


@pytest.mark.parametrize("part", ["train", "val"])
@pytest.mark.parametrize("ending", ["JPEG", "png", "bmp", "webp", "ppm"])
@pytest.mark.parametrize("spoil", [cut, lambda f: f.write_bytes(b""), lambda f: cut(f, 0.8)])
def test_any_image_that_is_cut_off_is_named_before_a_training(images, part, ending, spoil):
    fill(images, ["train", "val", "test"], ending=ending)
    spoiled = images / part / "bee" / f"7.{ending}"
    spoil(spoiled)
    with pytest.raises(InputError) as caught:
        checked_train_split(task(images))
    assert caught.value.field == "task.data_dir"
    assert f"the image {str(spoiled)!r} cannot be read" in caught.value.problem


def test_many_images_are_looked_at_once_which_is_said(images, monkeypatch, caplog):
    monkeypatch.setattr(image_check, "_WORTH_A_WORD", 30)
    monkeypatch.setattr(image_check, "_AT_A_TIME", 7)
    settings = task(fill(images, ["."]))
    for _ in range(2):
        checked_train_split(settings)
        load_split.cache_clear()
    assert [record.getMessage() for record in caplog.records] == [
        f"looks at each of 30 images in {images}, once"
    ]
    Path(images / "cat" / "9.JPEG").write_bytes(b"the last one")
    (images / "cat" / "added.JPEG").write_bytes((images / "cat" / "0.JPEG").read_bytes())
    assert "9.JPEG' cannot be read" in refusal(settings).problem


@pytest.mark.parametrize("ending", ["JPEG", "png"])
def test_whole_images_are_not_decoded_but_where_they_end_strangely(images, ending, monkeypatch):
    fill(images, ["."], ending=ending)
    odd = images / "cat" / f"3.{ending}"
    odd.write_bytes(odd.read_bytes() + b"\0" * 100)
    decoded = []
    load = ImageFile.load

    def noted(image):
        decoded.append(image.fp.name)
        return load(image)

    monkeypatch.setattr(ImageFile, "load", noted)
    checked_train_split(task(images))
    firsts = [str(images / name / f"0.{ending}") for name in COLOURS]
    assert sorted(decoded) == sorted([*firsts, str(odd)])


def test_the_first_image_of_each_class_is_decoded(images):
    fill(images, ["."], ending="png")
    path = images / "bee" / "0.png"
    whole = path.read_bytes()
    middle = whole.index(b"IDAT") + 10
    path.write_bytes(whole[:middle] + bytes(8) + whole[middle + 8 :])
    assert f"the image {str(path)!r} cannot be read" in refusal(task(images)).problem


def test_other_layouts_than_a_data_sets_are_refused(images):
    assert "train and val" in refusal(task(fill(images, ["train", "test"]), "imagenet")).problem
    fill(images, ["val"])
    error = refusal(task(images, "imagenet"))
    assert "exactly 1000 class folders, got 3" in error.problem
    assert "dataset: folder" in error.remedy
    assert refusal(task(images, val_share=0.2)).field == "task.val_share"
    (images / "flat" / "only").mkdir(parents=True)
    assert "at least 2 class folders, got 1" in refusal(task(images / "flat")).problem


@pytest.mark.parametrize("parts", [["."], ["train"]])
def test_validation_and_test_leave_a_third_for_training(images, parts):
    settings = task(fill(images, parts, counts=9), val_share=0.34)
    error = refusal(settings)
    assert (error.field, error.problem.split(",")[0]) == (
        "task.val_share",
        "must be at most 1/3 where the test split is split off too",
    )
    third = seen(task(images, val_share=1 / 3))
    assert [len(third[name]) for name in SPLITS] == [9, 9, 9]


def test_the_least_images_put_one_of_each_class_into_each_split(images):
    settings = task(fill(images, ["."], counts=3), val_share=0.01)
    for name in SPLITS:
        assert torch.bincount(load_split(settings, name).labels).tolist() == [1, 1, 1]


@pytest.mark.parametrize("parts", [["val", "test"], ["val"], ["test", "other"]])
def test_splits_without_a_training_split_are_not_taken_for_classes(images, parts):
    error = refusal(task(fill(images, parts)))
    assert error.field == "task.data_dir"
    assert f"holds a folder {parts[0]} and no folder train" in error.problem


def test_more_workers_than_images_share_them_out(images):
    split = load_split(task(fill(images, ["."])), "val")
    shares = [list(split.share(rank, 5)) for rank in range(5)]
    assert [sum(len(labels) for _, labels in share) for share in shares] == [1, 1, 1, 0, 0]


def test_an_image_that_fails_later_ends_the_run_by_its_name(images):
    settings = task(fill(images, ["."]))
    train = checked_train_split(settings)
    for path in paths(train)[1:]:
        Path(path).write_bytes(b"damaged")
    with pytest.raises(ImageError, match=r"the image '.*JPEG' cannot be read"):
        list(training_batches(settings, train, 8, 0).epoch())


def test_a_network_that_does_not_take_the_images_is_refused(images):
    fill(images, ["."])
    settings = task_settings(
        {"dataset": "folder", "model": "vit_s_16", "data_dir": str(images), "image_size": 40}
    )
    assert refusal(settings).field == "task.model"


def test_what_a_data_set_does_not_read_is_refused():
    for dataset, setting, value in [
        ("digits", "val_share", 0.2),
        ("cifar10", "samples", 2000),
        ("glyphs", "image_size", 64),
        ("imagenet", "samples", 2000),
    ]:
        with pytest.raises(InputError) as caught:
            task_settings({"dataset": dataset, "model": "small_cnn", setting: value})
        assert caught.value.field == f"task.{setting}"
        assert caught.value.problem == f"{dataset} does not read it, got {value!r}"


def test_a_truncated_stream_of_bytes_is_an_image_error(images):
    images.mkdir()
    buffer = io.BytesIO()
    Image.new("RGB", (300, 300), (9, 9, 9)).save(buffer, "JPEG")
    (images / "cut.jpg").write_bytes(buffer.getvalue()[:-200])
    with pytest.raises(ImageError, match=r"cut\.jpg"):
        decode(str(images / "cut.jpg"), 16, 0.3)
