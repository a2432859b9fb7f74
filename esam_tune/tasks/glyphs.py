"""Characters drawn from the fonts that matplotlib ships: CIFAR-shaped images without a download.

Digits, capitals, and the eleven small letters whose shape differs from the capital's: 47 classes,
as in EMNIST's balanced set. Each image is one character in one of 21 fonts at a random place,
size, slant and angle, in a random colour brighter than the coloured texture behind it, in which lie
pieces of other characters, all under noise. (With ink of either polarity a small network stayed at
chance for as long as two cores could train it.)
"""

import importlib.util
import string
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esam_tune.config import TaskSettings
from esam_tune.errors import InputError
from esam_tune.tasks.prepared import Arrays, data_root, image_arrays, image_split, prepared
from esam_tune.tasks.splits import ArraySplit, SplitName

_Floats = NDArray[np.float32]

CLASSES = string.digits + string.ascii_uppercase + "abdefghnqrt"
NUM_CLASSES = len(CLASSES)
SIDE = 32
IMAGE_SHAPE = (3, SIDE, SIDE)

# Raise it when anything below changes what is drawn: prepared sets are kept by this number.
_VERSION = 2
# Test images for each one of training and validation: CIFAR's proportion.
_TEST_SHARE = 0.2
# Images are drawn in blocks with a generator each, so the first n images of a larger set are
# those of a set of n.
_BLOCK = 512
_PARTS = ("train", "test")

_FONTS = (
    *(f"DejaVuSans{face}.ttf" for face in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{face}.ttf" for face in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{face}.ttf" for face in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{face}.ttf" for face in ("", "Bol", "Italic", "BolIta")),
    *(f"{name}10.ttf" for name in ("cmb", "cmr", "cmss", "cmti", "cmtt")),
)
# Characters are drawn once at this size in a square of twice the images' side.
_FONT_SIZE = 44
_CANVAS = 2 * SIDE


def load_glyphs(task: TaskSettings, name: SplitName) -> ArraySplit:
    """One split; the images are drawn when they are first asked for, and kept.

    Raises:
        InputError: when the fonts are not there, or the folder cannot be written.
    """
    samples, seed = int(task.reads("samples")), task.split_seed
    # Any of these in another version may draw another pixel: FreeType comes with Pillow, random
    # numbers with NumPy, the fonts with matplotlib.
    drawn_by = "-".join(f"{name}{version(name)}" for name in ("pillow", "numpy", "matplotlib"))
    stored = f"glyphs-{_VERSION}-{samples}-seed{seed}-{drawn_by}"
    folder = prepared(data_root(task.data_dir), stored, lambda: _draw_all(samples, seed))
    return image_split(folder, task, name, NUM_CLASSES)


def _draw_all(samples: int, seed: int) -> Arrays:
    arrays: dict[str, Any] = {}
    for part, count in zip(_PARTS, (samples, round(samples * _TEST_SHARE)), strict=True):
        arrays |= image_arrays(part, *draw(count, seed, part))
    return arrays


def draw(count: int, seed: int, part: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw images and their labels.

    They are fixed bit for bit by the arguments, the versions of Pillow and NumPy, and the kind of
    processor (whose sine may differ in the last bit from another's).

    Args:
        count: of images; a smaller count gives the first of a larger one.
        seed: fixes everything.
        part: ``train`` or ``test``, which have nothing in common.

    Returns:
        Images of shape (count, 3, 32, 32); labels of shape (count,), all classes equally often
        but for a rest.
    """
    pen = _Pen()
    images = np.empty((count, *IMAGE_SHAPE), dtype=np.uint8)
    labels = np.empty(count, dtype=np.int64)
    for block, start in enumerate(range(0, count, _BLOCK)):
        generator = np.random.default_rng([seed, _PARTS.index(part), block])
        drawn, classes = _draw_block(generator, start, pen)
        images[start : start + _BLOCK] = drawn[: count - start]
        labels[start : start + _BLOCK] = classes[: count - start]
    return images, labels


class _Pen:
    """Every character in every font as a mask, and its images under affine maps."""

    def __init__(self) -> None:
        from PIL import Image, ImageDraw, ImageFont

        self._image = Image
        self._masks: list[list[Any]] = []
        for path in _font_files():
            font = ImageFont.truetype(path, _FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)
            row = []
            for character in CLASSES:
                mask = Image.new("L", (_CANVAS, _CANVAS))
                left, top, right, bottom = font.getbbox(character)
                centre = ((_CANVAS - left - right) / 2, (_CANVAS - top - bottom) / 2)
                ImageDraw.Draw(mask).text(centre, character, font=font, fill=255)
                row.append(mask)
            self._masks.append(row)

    def write(self, font: int, label: int, shape: NDArray[np.float64]) -> NDArray[np.uint8]:
        """A character's mask of the images' size.

        Args:
            font: index of it.
            label: of the character.
            shape: its scale (1 fills the image), angle and slant in radians, and the place of its
                centre across and down in pixels from the image's.
        """
        scale, angle, slant, across, down = shape
        cos, sin = np.cos(angle), np.sin(angle)
        # From a pixel of the image back to the canvas: rotate back, undo the slant, enlarge.
        back = np.array([[cos, sin], [-sin, cos]])
        back = np.array([[1.0, np.tan(slant)], [0.0, 1.0]]) @ back * (_CANVAS / SIDE / scale)
        offset = _CANVAS / 2 - back @ np.array([SIDE / 2 + across, SIDE / 2 + down])
        coefficients = (*back[0], offset[0], *back[1], offset[1])
        drawn = self._masks[font][label].transform(
            (SIDE, SIDE),
            self._image.Transform.AFFINE,
            coefficients,
            resample=self._image.Resampling.BICUBIC,
        )
        return np.asarray(drawn)


def _font_files() -> list[str]:
    # matplotlib itself takes long to import, and only its files are wanted.
    found = importlib.util.find_spec("matplotlib")
    assert found is not None
    assert found.origin is not None
    folder = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf"
    missing = [name for name in _FONTS if not (folder / name).is_file()]
    if missing:
        raise InputError(
            "task.dataset",
            f"glyphs needs matplotlib's fonts, and {missing[0]} is not in {str(folder)!r}",
            "install matplotlib from its own wheel, with its data",
        )
    return [str(folder / name) for name in _FONTS]


def _draw_block(
    random: np.random.Generator, first: int, pen: _Pen
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    labels = (first + np.arange(_BLOCK)) % NUM_CLASSES
    masks = _masks(random, labels, pen, scale=(0.7, 1.25), place=4.0)
    # Pieces of two other characters, far off the centre, as a house number has its neighbours.
    others = np.zeros_like(masks)
    for _ in range(2):
        drawn = _masks(random, random.integers(NUM_CLASSES, size=_BLOCK), pen, (0.5, 1.0), 3.0, 17)
        others = np.maximum(others, drawn)
    ground = _texture(random)
    ink = _ink(random, ground)
    other_ink = _ink(random, ground)
    images = _over(_over(ground, other_ink, others * np.float32(0.8)), ink, masks)
    noise = random.standard_normal(size=images.shape, dtype=np.float32)
    images += noise * _uniform(random, 4, 28, 1)
    return np.clip(np.rint(images), 0, 255).astype(np.uint8), labels.astype(np.int64)


def _uniform(random: np.random.Generator, low: float, high: float, channels: int) -> _Floats:
    """One number for each image, or for each channel of it, shape (b, channels, 1, 1)."""
    return random.uniform(low, high, size=(_BLOCK, channels, 1, 1)).astype(np.float32)


def _masks(
    random: np.random.Generator,
    labels: NDArray[np.int64],
    pen: _Pen,
    scale: tuple[float, float],
    place: float,
    distance: float = 0.0,
) -> _Floats:
    """Masks in 0..1 of shape (b, 32, 32), centred up to ``place`` pixels off a circle."""
    count = len(labels)
    fonts = random.integers(len(_FONTS), size=count)
    direction = random.uniform(0, 2 * np.pi, size=count)
    circle = distance * np.stack([np.cos(direction), np.sin(direction)], axis=1)
    shapes = np.column_stack(
        [
            random.uniform(*scale, size=count),
            random.uniform(-0.35, 0.35, size=count),
            random.uniform(-0.3, 0.3, size=count),
            circle + random.uniform(-place, place, size=(count, 2)),
        ]
    )
    drawn = [pen.write(*each) for each in zip(fonts, labels, shapes, strict=True)]
    return np.stack(drawn).astype(np.float32) / np.float32(255)


def _texture(random: np.random.Generator) -> _Floats:
    """Backgrounds of shape (b, 3, 32, 32): a colour, smooth blots in it, and stripes."""
    grid = random.standard_normal(size=(_BLOCK, 3, 5, 5), dtype=np.float32)
    # Linear interpolation between a grid's points, as a product with the hat functions.
    place = np.linspace(0, 4, SIDE, dtype=np.float32)
    hats = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(5, dtype=np.float32)))
    blots = hats @ (grid * _uniform(random, 5, 35, 1)) @ hats.T
    frequency = _uniform(random, 0.2, 1.4, 1)
    angle = _uniform(random, 0, 2 * np.pi, 1)
    down, across = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    wave = np.sin(frequency * (np.cos(angle) * across + np.sin(angle) * down))
    textured: _Floats = _uniform(random, 20, 140, 3) + blots + wave * _uniform(random, -25, 25, 3)
    return textured


def _ink(random: np.random.Generator, ground: _Floats) -> _Floats:
    """Colours of shape (b, 3, 1, 1), each channel brighter than the background's mean."""
    mean = ground.mean(axis=(2, 3), keepdims=True)
    stepped: _Floats = mean + _uniform(random, 40, 120, 3)
    return stepped


def _over(ground: _Floats, ink: _Floats, masks: _Floats) -> _Floats:
    composed: _Floats = ground + masks[:, None] * (ink - ground)
    return composed
