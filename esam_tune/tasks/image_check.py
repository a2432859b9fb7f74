"""Damaged images are found before a training meets them.

To decode ImageNet takes hours, to open each of its files takes minutes: so every image's head is
read and its end looked at, and what is decoded are some that the caller names and those that do not
end as their format does.
"""

import logging
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from esam_tune.errors import InputError

_log = logging.getLogger(__name__)

# What the last bytes hold of a file that is whole; some programs write a little behind it.
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
_TAIL = 64
# They wait for the disk, most of all for one across a network.
_THREADS = 16
# What a signal, or the first that is damaged, waits for.
_AT_A_TIME = 1_000
_WORTH_A_WORD = 100_000


def check_images(folder: Path, names: Sequence[str], decoded: Collection[str]) -> None:
    """Look at every image of a folder.

    What is scrambled in a file's midst is not seen, but in those that are decoded.

    Args:
        folder: that the names are below.
        names: of the files.
        decoded: names of those to decode in any case.

    Raises:
        InputError: when one cannot be read: it is named.
    """
    from PIL import Image

    if len(names) >= _WORTH_A_WORD:
        _log.warning("looks at each of %d images in %s, once", len(names), folder)
    # Or each thread would load the formats anew.
    Image.init()

    def problem_of(name: str) -> str | None:
        return _problem(folder / name, decode=name in decoded)

    with ThreadPoolExecutor(_THREADS) as threads:
        for some in _parts(names):
            for name, problem in zip(some, threads.map(problem_of, some), strict=True):
                if problem is not None:
                    raise InputError(
                        "task.data_dir",
                        f"the image {str(folder / name)!r} cannot be read: {problem}",
                        "replace it",
                    )


def _parts(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), _AT_A_TIME):
        yield names[start : start + _AT_A_TIME]


def _problem(path: Path, *, decode: bool) -> str | None:
    """What is wrong with an image, or None."""
    from PIL import Image

    try:
        with path.open("rb") as file:
            with Image.open(file) as image:
                end = _ENDS.get(image.format or "")
            file.seek(-min(_TAIL, path.stat().st_size), 2)
            if end is not None and end in file.read() and not decode:
                return None
        with Image.open(path) as image:
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return str(error)
    return None
