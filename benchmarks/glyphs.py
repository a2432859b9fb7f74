"""Whether SGD, SAM and a cheap ESAM differ on glyphs: a small strided network.

    python benchmarks/glyphs.py --samples 4000 --epochs 20 --seeds 3

The network is small enough for a core: three 3x3 convolutions of stride 2 (32, 64, 128 channels).
Each run trains on one thread. Of the radii given for a method the best by validation accuracy is
marked. The last epoch's validation and test accuracy are printed as a table in Markdown, with the
difference to SAM's marked row, paired over the seeds; nothing is chosen by the test split.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import PIL
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from esam_tune.config import TaskSettings
from esam_tune.optim import ESAM, BaseStep, PerSampleOptimizer, measure_step_work, step_cost
from esam_tune.tasks.data import load_split, training_batches
from esam_tune.tasks.splits import Split

BATCH, LR, WEIGHT_DECAY = 64, 0.05, 5e-4
SGD, SAM, CHEAP = "SGD", "SAM", "ESAM first order 0.4/0.3, every 2"
SETTINGS: dict[str, dict[str, Any]] = {
    SAM: {"beta": 1.0, "gamma": 1.0},
    CHEAP: {"beta": 0.4, "gamma": 0.3, "selection": "first_order", "every": 2},
}


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


@dataclass(frozen=True)
class Method:
    """A row of the table: an optimizer by name, and its radius."""

    name: str
    rho: float = 0.0

    def __str__(self) -> str:
        """As the table has it."""
        return f"{self.name} rho={self.rho:g}" if self.rho else self.name

    def optimizer(self, base: torch.optim.SGD, model: nn.Module, seed: int) -> PerSampleOptimizer:
        """Around the base optimizer."""
        if self.name == SGD:
            return BaseStep(base, model=model)
        return ESAM(base, model=model, rho=self.rho, seed=seed, **SETTINGS[self.name])


def run(task: TaskSettings, epochs: int, method: Method, seed: int) -> tuple[float, float]:
    """Train once; validation and test accuracy."""
    torch.set_num_threads(1)
    train = load_split(task, "train")
    torch.manual_seed(seed)
    model = network(train.num_classes)
    base = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=WEIGHT_DECAY)
    optimizer = method.optimizer(base, model, seed)
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


def counted_cost(method: Method) -> float:
    """FLOPs of a step over SGD's."""
    model, images = network(47), torch.zeros(BATCH, 3, 32, 32)
    work = measure_step_work(model, images, torch.zeros(BATCH, dtype=torch.int64))
    known = {SGD: {"method": "sgd"}, SAM: {"method": "sam"}}
    return step_cost(work, **known.get(method.name, SETTINGS.get(method.name, {})))


def interval(values: list[float]) -> str:
    """Mean and half width of the 95 % interval of the mean, by Student's t."""
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):+.1f} ± {half:.1f}"


def print_table(found: dict[tuple[Method, int], tuple[float, float]], seeds: range) -> None:
    """A row for each method and radius."""
    methods = list(dict.fromkeys(method for method, _ in found))
    val, test = (
        {method: [found[method, seed][split] for seed in seeds] for method in methods}
        for split in range(2)
    )
    best = {
        name: max((m for m in methods if m.name == name), key=lambda m: statistics.mean(val[m]))
        for name in {method.name for method in methods}
    }
    print(
        "| optimizer | best | counted cost | validation accuracy, % | test accuracy, % | by seed "
        "| less SAM's |\n|---|---|---|---|---|---|---|"
    )
    for method in methods:
        gap = ""
        if best.get(SAM, method) != method and len(seeds) > 1:
            pairs = zip(test[method], test[best[SAM]], strict=True)
            gap = interval([ours - sams for ours, sams in pairs])
        print(
            f"| {method} | {'x' if best[method.name] == method else ''} "
            f"| {counted_cost(method):.2f} | {statistics.mean(val[method]):.1f} "
            f"| {statistics.mean(test[method]):.1f} "
            f"| {', '.join(f'{each:.1f}' for each in test[method])} | {gap} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=6000)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--noise", type=float, default=0.4, help="share of wrong training labels")
    parser.add_argument("--rhos", type=float, nargs="+", default=[0.1, 0.3], help="of SAM")
    parser.add_argument("--cheap-rhos", type=float, nargs="*", default=[], help=f"of {CHEAP}")
    parser.add_argument("--seeds", type=int, default=3, help="of the runs, counted from 1")
    parser.add_argument("--jobs", type=int, default=2, help="processes, one thread each")
    options = parser.parse_args()
    task = TaskSettings(
        dataset="glyphs", model="small_cnn", samples=options.samples, label_noise=options.noise
    )
    load_split(task, "train")
    methods = [Method(SGD), *(Method(SAM, rho) for rho in options.rhos)]
    methods += [Method(CHEAP, rho) for rho in options.cheap_rhos]
    # The images and their wrong labels are those of seed 0 in every run.
    seeds = range(1, options.seeds + 1)
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        waiting = {
            (method, seed): pool.submit(run, task, options.epochs, method, seed)
            for seed in seeds
            for method in methods
        }
        found = {}
        for (method, seed), future in waiting.items():
            found[method, seed] = future.result()
            print(f"{method}, seed {seed}: {found[method, seed]}", file=sys.stderr, flush=True)
    print(
        f"{options.samples} images for training and validation, {options.noise:.0%} wrong training "
        f"labels, {options.epochs} epochs, batch {BATCH}, lr {LR}, weight decay {WEIGHT_DECAY}; "
        f"seeds {seeds[0]} to {seeds[-1]}, images and wrong labels of seed {task.split_seed}; "
        f"{platform.machine()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, Pillow {PIL.__version__}\n"
    )
    print_table(found, seeds)


if __name__ == "__main__":
    main()
