"""Whether SGD and SAM differ on glyphs: a small strided network, wrong training labels.

    python benchmarks/glyphs.py --samples 4000 --epochs 20 --seeds 3

The network is small enough for a core: three 3x3 convolutions of stride 2 (32, 64, 128 channels).
Each run trains on one thread; rho is given, not tuned. The last epoch's validation and test
accuracy are printed as a table in Markdown; nothing is chosen by the test split.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import PIL
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esam_tune.config import TaskSettings
from esam_tune.optim import ESAM, BaseStep, PerSampleOptimizer
from esam_tune.tasks.data import load_split, training_batches
from esam_tune.tasks.splits import Split

BATCH, LR, WEIGHT_DECAY = 64, 0.05, 5e-4


def network(classes: int) -> nn.Sequential:
    """The small strided network."""
    layers: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(512, classes))


@torch.no_grad()
def accuracy(model: nn.Module, split: Split) -> float:
    """Share of right answers on a split, in per cent."""
    model.eval()
    right = sum(int((model(x).argmax(1) == y).sum()) for x, y in split.share(0, 1))
    model.train()
    return 100.0 * right / len(split)


def run(task: TaskSettings, epochs: int, rho: float, seed: int) -> tuple[float, float]:
    """Train once; validation and test accuracy. rho = 0 is plain SGD."""
    torch.set_num_threads(1)
    train = load_split(task, "train")
    torch.manual_seed(seed)
    model = network(train.num_classes)
    base = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=WEIGHT_DECAY)
    optimizer: PerSampleOptimizer = BaseStep(base, model=model)
    if rho:
        optimizer = ESAM(base, model=model, rho=rho, beta=1.0, gamma=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(base, epochs)
    batches = training_batches(task, train, BATCH, seed)
    for _ in range(epochs):
        for images, labels in batches.epoch():

            def closure(rows: Tensor | None, x: Tensor = images, y: Tensor = labels) -> Tensor:
                if rows is not None:
                    x, y = x[rows], y[rows]
                return F.cross_entropy(model(x), y, reduction="none")

            optimizer.step(closure)
        schedule.step()
    return accuracy(model, load_split(task, "val")), accuracy(model, load_split(task, "test"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=6000)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--noise", type=float, default=0.4, help="share of wrong training labels")
    parser.add_argument("--rhos", type=float, nargs="+", default=[0.0, 0.1, 0.3])
    parser.add_argument("--seeds", type=int, default=3, help="of the runs, counted from 1")
    parser.add_argument("--jobs", type=int, default=2, help="processes, one thread each")
    options = parser.parse_args()
    task = TaskSettings(
        dataset="glyphs", model="small_cnn", samples=options.samples, label_noise=options.noise
    )
    load_split(task, "train")
    # The images and their wrong labels are those of seed 0 in every run.
    seeds = range(1, options.seeds + 1)
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        waiting = {
            (rho, seed): pool.submit(run, task, options.epochs, rho, seed)
            for seed in seeds
            for rho in options.rhos
        }
        found = {}
        for (rho, seed), future in waiting.items():
            found[rho, seed] = future.result()
            print(f"rho {rho:g}, seed {seed}: {found[rho, seed]}", file=sys.stderr, flush=True)
    print(
        f"{options.samples} images for training and validation, {options.noise:.0%} wrong training "
        f"labels, {options.epochs} epochs, batch {BATCH}, lr {LR}, weight decay {WEIGHT_DECAY}; "
        f"seeds {seeds[0]} to {seeds[-1]}, images and wrong labels of seed {task.split_seed}; "
        f"{platform.machine()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, Pillow {PIL.__version__}\n"
    )
    print("| optimizer | validation accuracy, % | test accuracy, % | by seed |\n|---|---|---|---|")
    for rho in options.rhos:
        runs = [found[rho, seed] for seed in seeds]
        val, test = (statistics.mean(values) for values in zip(*runs, strict=True))
        each_test = ", ".join(f"{each:.1f}" for _, each in runs)
        print(f"| {f'SAM rho={rho:g}' if rho else 'SGD'} | {val:.1f} | {test:.1f} | {each_test} |")


if __name__ == "__main__":
    main()
