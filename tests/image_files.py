"""Small folders of images, for tests of what reads them."""

import numpy as np
from PIL import Image


def write_images(folder, parts, *, count, classes=("ape", "bee"), side=12):
    """Noise of another brightness in each class: ``folder/PART/CLASS/NUMBER.png``."""
    random = np.random.default_rng(0)
    for part in parts:
        for label, name in enumerate(classes):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 120, size=(side, side, 3)) + 120 * label
                image = Image.fromarray(pixels.astype(np.uint8))
                image.save(folder / part / name / f"{number}.png")
    return folder
