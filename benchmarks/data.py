"""Images per second that loaders give on one core, beside torchvision's and what a model consumes.

    python benchmarks/data.py --rounds 7
    python benchmarks/data.py --device cuda

Everything runs on one thread of one process, but for streamed batches, whose images another
process decodes. On the CPU it is timed by the processor time that it takes, of both processes, so
that other load on the machine counts little; on a GPU by the clock. The ways of a table
are interleaved; medians and quartiles over the rounds. The images are made: noise of CIFAR's size
(no loader's time depends on what is on them), and JPEG files of photographs' size, detail and
bytes. Prints tables in Markdown.
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import v2

from esam_tune.tasks.augmentation import Augmentation
from esam_tune.tasks.batches import Batches, BatchOrder
from esam_tune.tasks.image_check import check_images
from esam_tune.tasks.models import build_model
from esam_tune.tasks.splits import ArraySplit
from esam_tune.tasks.stream import ImageFiles, StreamSplit, decode

Way = Callable[[], int]
"""Does a piece of work and returns how many images it was."""

MEAN, DEVIATION = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
SMALL, BATCH = 4096, 128
PHOTOGRAPHS, PHOTOGRAPH_SIZE, SIDE = 96, (500, 375), 224


class Cutout:
    """A square set to zero in half the images, one at a time, as the usual code has it."""

    def __call__(self, image: Tensor) -> Tensor:
        """Cut, in place."""
        if torch.rand(()) < 0.5:
            top, left = torch.randint(-8, 24, (2,)).tolist()
            image[:, max(0, top) : top + 16, max(0, left) : left + 16] = 0.0
        return image


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images one at a time through a pipeline of transforms, as torchvision's data sets do it."""

    def __init__(self, images: list[Any], transform: Callable[[Any], Tensor]) -> None:
        self._images = images
        self._transform = transform

    def __len__(self) -> int:
        """Count of images."""
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """One image through the pipeline, and a label."""
        image = self._images[index]
        # The small ones are kept as arrays and made pictures of, as torchvision's CIFAR10 does.
        opened = Image.open(image) if isinstance(image, Path) else Image.fromarray(image)
        return self._transform(opened.convert("RGB")), 0


def pipeline(
    module: Any, crop: list[Any], tail: list[Any], images: list[Any]
) -> DataLoader[tuple[Tensor, int]]:
    """torchvision's usual per-image pipeline over these images, in this process."""
    if module is v2:
        to_tensor: list[Any] = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    else:
        to_tensor = [transforms.ToTensor()]
    scaled = [tuple(value / 255 for value in values) for values in (MEAN, DEVIATION)]
    steps = [*crop, module.RandomHorizontalFlip(), *to_tensor, module.Normalize(*scaled), *tail]
    return DataLoader(Pictures(images, module.Compose(steps)), batch_size=BATCH, shuffle=True)


def counted(batches: Any) -> int:
    """Take all batches; how many images they hold."""
    return sum(len(images) for images, _ in batches)


def small_ways(device: torch.device) -> dict[str, Way]:
    """Loaders of images of CIFAR's size, with the authors' augmentation."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (SMALL, 3, 32, 32), generator=generator, dtype=torch.uint8)
    split = ArraySplit(
        pixels=pixels,
        rows=torch.randperm(SMALL, generator=generator),
        labels=torch.zeros(SMALL, dtype=torch.int64),
        num_classes=10,
        image_shape=(3, 32, 32),
        mean=MEAN,
        deviation=DEVIATION,
    ).to(device)
    authors = Augmentation(padding=4, flip=True, cutout=16)
    ways: dict[str, Way] = {}
    for name, augmentation in (("as the authors'", authors), ("none", None)):
        batches = Batches(split, BatchOrder(SMALL, BATCH, 0), augmentation, 0)
        ways[f"esam-tune, augmentation {name}"] = lambda b=batches: counted(b.epoch())  # type: ignore[misc]
    arrays = list(pixels.permute(0, 2, 3, 1).numpy())[:1024]
    for name, module in (("v1", transforms), ("v2", v2)):
        loader = pipeline(module, [module.RandomCrop(32, padding=4)], [Cutout()], arrays)
        ways[f"torchvision {name}, one image at a time"] = lambda d=loader: counted(d)  # type: ignore[misc]
    return ways


def made_photograph(generator: np.random.Generator, path: Path) -> None:
    """A picture with detail at all scales, which takes about as many bytes as ImageNet's do."""
    width, height = PHOTOGRAPH_SIZE
    total = np.zeros((height, width, 3))
    for octave in range(7):
        size = (4 * 2**octave, 3 * 2**octave)
        coarse = generator.normal(128, 110 / 1.5**octave, size=(size[1], size[0], 3))
        channels = [
            np.asarray(
                Image.fromarray(coarse[:, :, channel].astype(np.float32)).resize(
                    PHOTOGRAPH_SIZE, Image.Resampling.BICUBIC
                )
            )
            for channel in range(3)
        ]
        total += np.stack(channels, axis=2) - 128
    Image.fromarray(np.clip(total + 128, 0, 255).astype(np.uint8)).save(path, quality=90)


def photograph_ways(folder: Path, device: torch.device) -> dict[str, Way]:
    """Decoding photographs to random crops of 224 pixels."""
    generator = np.random.default_rng(0)
    paths = [folder / f"{number}.jpg" for number in range(PHOTOGRAPHS)]
    for path in paths:
        made_photograph(generator, path)
    draws = torch.Generator().manual_seed(0)

    def ours(*, cropped: bool) -> int:
        values = torch.rand(PHOTOGRAPHS, generator=draws, dtype=torch.float64).tolist()
        pairs = zip(paths, values, strict=True)
        images = [decode(str(path), SIDE, value if cropped else None) for path, value in pairs]
        return len(torch.stack(images))

    many = [path.name for path in paths] * 20

    def looked_at() -> int:
        check_images(folder, many, ())
        return len(many)

    names = [path.name.encode() for path in paths]
    # An epoch starts the decoding process: let it be one of some length.
    rows = torch.arange(PHOTOGRAPHS).repeat(4)
    split = StreamSplit(
        labels=torch.zeros(len(rows), dtype=torch.int64),
        num_classes=10,
        image_shape=(3, SIDE, SIDE),
        mean=MEAN,
        deviation=DEVIATION,
        files=ImageFiles(
            folder=str(folder),
            names=np.frombuffer(b"".join(names), dtype=np.uint8),
            ends=np.cumsum([len(name) for name in names]),
        ),
        rows=rows,
        random_crop=True,
    ).to(device)
    order = BatchOrder(len(rows), 32, 0)
    batches = Batches(split, order, Augmentation(padding=0, flip=True, cutout=0), 0)
    ways: dict[str, Way] = {
        "esam-tune, looked at once before all trials": looked_at,
        "esam-tune, a random crop": lambda: ours(cropped=True),
        "esam-tune, the middle (evaluation)": lambda: ours(cropped=False),
        "esam-tune, streamed batches of random crops": lambda: counted(batches.epoch()),
    }
    for name, module in (("v1", transforms), ("v2", v2)):
        loader = pipeline(module, [module.RandomResizedCrop(SIDE)], [], paths)
        ways[f"torchvision {name}, a random crop"] = lambda d=loader: counted(d)  # type: ignore[misc]
    return ways


def model_way(name: str, side: int, batch: int, device: torch.device) -> Way:
    """Plain SGD steps of a network on one batch; bfloat16 and channels_last on a GPU."""
    fast = device.type == "cuda"
    model = build_model(name, (3, side, side), 100, 0).to(device)
    images = torch.randn(batch, 3, side, side, device=device)
    if fast:
        model = model.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    labels = torch.zeros(batch, dtype=torch.int64, device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    steps = 20 if fast else 1

    def way() -> int:
        for _ in range(steps):
            optimizer.zero_grad()
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=fast):
                loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
        return steps * batch

    return way


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Images per second over the rounds."""

    median: float
    low: float
    high: float


def processor_seconds() -> float:
    """Processor time of this process and of those it has started and seen end."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


def rates(ways: dict[str, Way], rounds: int, device: torch.device) -> dict[str, Rate]:
    """Time the ways in turn, after one round that does not count."""
    clock = time.perf_counter if device.type == "cuda" else processor_seconds
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            start = clock()
            images = way()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number:
                taken[name].append(images / (clock() - start))
    found = {}
    for name, values in taken.items():
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        found[name] = Rate(median=median, low=low, high=high)
    return found


def show(title: str, found: dict[str, Rate]) -> None:
    """Print a table; the last column is over the faster of torchvision's ways."""
    usual = max((r.median for n, r in found.items() if n.startswith("torchvision")), default=0.0)
    print(f"\n| {title} | images/s | quartiles | over torchvision's faster |\n|---|---|---|---|")
    for name, rate in found.items():
        ratio = f"{rate.median / usual:.2f}" if usual and not name.startswith("model") else ""
        print(f"| {name} | {rate.median:,.0f} | {rate.low:,.0f} to {rate.high:,.0f} | {ratio} |")


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds, at least 2")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--tables", nargs="+", default=["small", "photographs"], choices=["small", "photographs"]
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = True
    device = torch.device(options.device)
    hardware = torch.cuda.get_device_name() if options.device == "cuda" else processor()
    print(
        f"{hardware}, one thread, Python {platform.python_version()}, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}, Pillow {PIL.__version__}, numpy {np.__version__}; "
        f"{options.rounds} rounds, batch {BATCH}"
    )
    if "small" in options.tables:
        batch = BATCH if options.device == "cuda" else 32
        ways = small_ways(device)
        ways["model: resnet18_cifar, SGD steps"] = model_way("resnet18_cifar", 32, batch, device)
        show("32x32 pixels", rates(ways, options.rounds, device))
    if "photographs" in options.tables:
        with tempfile.TemporaryDirectory() as folder:
            ways = photograph_ways(Path(folder), device)
            size = statistics.mean(path.stat().st_size for path in Path(folder).iterdir())
            batch = BATCH if options.device == "cuda" else 4
            title = f"model: resnet50 at {SIDE} pixels, SGD steps"
            ways[title] = model_way("resnet50", SIDE, batch, device)
            wide, high = PHOTOGRAPH_SIZE
            label = f"JPEG, {wide}x{high}, {size / 1000:.0f} kB on average"
            show(label, rates(ways, options.rounds, device))


if __name__ == "__main__":
    main()
