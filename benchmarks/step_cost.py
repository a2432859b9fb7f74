"""Step time over SGD's of ESAM and its rivals, measured beside predicted.

Needs torch and torchvision alone.

    python benchmarks/step_cost.py                                  # two CPU cores, float32
    python benchmarks/step_cost.py --device cuda --precision bf16 --channels-last --compile \
        --batch 128 256 512 1024

Every optimizer trains its own copy of the network. A round takes one period of each in turn, so a
disturbance of the machine meets them all; a ratio is the median of the optimizer's times over the
median of SGD's. ESAM's masks are a stratified sample over the rounds, so that their mean, not luck,
is timed. Prints a table in Markdown for each network and batch, with quartiles over the rounds.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

# On a bare GPU machine the package is not installed; it is the folder next to this one.
sys.path.insert(0, str(Path(__file__).parent.parent))

from esam_tune.optim import (
    ESAM,
    MSAM,
    BaseStep,
    LookSAM,
    MaskCycle,
    PerSampleOptimizer,
    StepWork,
    measure_step_work,
    step_cost,
    stratified_masks,
)
from esam_tune.tasks.models import build_model

Build = Callable[[nn.Module, int], PerSampleOptimizer]
CLASSES = 100


def sgd(model: nn.Module) -> torch.optim.SGD:
    """The base optimizer."""
    return torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-3)


def esam(beta: float, gamma: float, **others: Any) -> Build:
    """ESAM with stratified masks over so many steps."""

    def build(model: nn.Module, steps: int) -> PerSampleOptimizer:
        tensors = sum(parameter.requires_grad for parameter in model.parameters())
        masks = MaskCycle(stratified_masks(tensors, beta, steps)) if beta < 1 else None
        options = {"beta": beta, "gamma": gamma, "model": model, "masks": masks, **others}
        return ESAM(sgd(model), **options)

    return build


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An optimizer to time, and the arguments of `step_cost` that describe it."""

    build: Build
    cost: dict[str, Any] = field(default_factory=dict)


CANDIDATES: dict[str, Candidate] = {
    "SGD": Candidate(
        build=lambda model, _: BaseStep(sgd(model), model=model), cost={"method": "sgd"}
    ),
    "SAM": Candidate(build=esam(1.0, 1.0), cost={"method": "sam"}),
    "ASAM": Candidate(build=esam(1.0, 1.0, adaptive=True), cost={"method": "asam"}),
    "ESAM exact 0.6/0.5": Candidate(build=esam(0.6, 0.5), cost={"beta": 0.6, "gamma": 0.5}),
    "ESAM exact 0.5/0.5": Candidate(build=esam(0.5, 0.5), cost={"beta": 0.5, "gamma": 0.5}),
    "ESAM first order 0.5/0.5": Candidate(
        build=esam(0.5, 0.5, selection="first_order"),
        cost={"beta": 0.5, "gamma": 0.5, "selection": "first_order"},
    ),
    "ESAM first order 0.4/0.3": Candidate(
        build=esam(0.4, 0.3, selection="first_order"),
        cost={"beta": 0.4, "gamma": 0.3, "selection": "first_order"},
    ),
    "ESAM first order 0.5/0.5, every 2": Candidate(
        build=esam(0.5, 0.5, selection="first_order", every=2),
        cost={"beta": 0.5, "gamma": 0.5, "selection": "first_order", "every": 2},
    ),
    "LookSAM, every 5": Candidate(
        build=lambda model, _: LookSAM(sgd(model), model=model),
        cost={"method": "looksam", "every": 5},
    ),
    "MSAM": Candidate(
        build=lambda model, _: MSAM(sgd(model), model=model), cost={"method": "msam"}
    ),
}


# Name in the table: the network's name in `esam_tune.tasks.models`, and the side of its images.
NETWORKS: dict[str, tuple[str, int]] = {
    "resnet18": ("resnet18_cifar", 32),
    "vit_s16": ("vit_s_16", 224),
}


class Stepper:
    """One optimizer on its own copy of the network, and the times of its steps."""

    def __init__(
        self, candidate: Candidate, network: nn.Module, options: argparse.Namespace
    ) -> None:
        self.model = copy.deepcopy(network)
        compiled: Any = torch.compile(self.model) if options.compile else self.model
        self._network: nn.Module = compiled
        self.optimizer = candidate.build(self._network, options.masks or options.rounds)
        self.seconds: list[float] = []
        self.peak_bytes = 0
        self._options = options

    def period(self, images: Tensor, labels: Tensor) -> None:
        """Take as many steps as the optimizer's cost needs to repeat, and note their mean time."""

        def closure(rows: Tensor | None) -> Tensor:
            x, y = (images, labels) if rows is None else (images[rows], labels[rows])
            with self._autocast():
                return F.cross_entropy(self._network(x), y, reduction="none")

        cuda = images.device.type == "cuda"
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
        start = time.perf_counter()
        for _ in range(self.optimizer.period):
            self.optimizer.step(closure)
        if cuda:
            torch.cuda.synchronize()
            self.peak_bytes = max(self.peak_bytes, torch.cuda.max_memory_allocated() - held)
        self.seconds.append((time.perf_counter() - start) / self.optimizer.period)

    def _autocast(self) -> Any:
        if self._options.precision == "fp32":
            return nullcontext()
        return torch.autocast(self._options.device, torch.bfloat16)


def measure(name: str, batch: int, options: argparse.Namespace) -> None:
    """Time all optimizers on one network and batch size, and print the table."""
    model_name, size = NETWORKS[name]
    network = build_model(model_name, (3, size, size), CLASSES, options.seed).to(options.device)
    torch.manual_seed(options.seed)
    images = torch.randn(batch, 3, size, size, device=options.device)
    labels = torch.randint(0, CLASSES, (batch,), device=options.device)
    work = measure_step_work(network, images, labels)
    if options.channels_last:
        network = network.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    steppers = {
        key: Stepper(CANDIDATES[key], network, options) for key in ("SGD", *options.optimizers)
    }
    for stepper in steppers.values():
        for _ in range(options.warm_up):
            stepper.period(images, labels)
        stepper.seconds.clear()
    for turn in range(options.rounds):
        order = list(steppers.values())
        for stepper in order if turn % 2 == 0 else reversed(order):
            stepper.period(images, labels)
    print_table(name, batch, work, steppers)


def print_table(name: str, batch: int, work: StepWork, steppers: dict[str, Stepper]) -> None:
    """Measured beside predicted, with quartiles of the ratio to SGD's median."""
    base = statistics.median(steppers["SGD"].seconds)
    print(f"\n**{name}, batch {batch}**: SGD {1000 * base:.1f} ms a step\n")
    print(
        "| optimizer | measured | quartiles | predicted | measured / predicted | images/s | peak |"
    )
    print("|---|---|---|---|---|---|---|")
    for key, stepper in steppers.items():
        ratios = [seconds / base for seconds in stepper.seconds]
        low, middle, high = statistics.quantiles(ratios, n=4)
        predicted = step_cost(work, **CANDIDATES[key].cost)
        peak = f"{stepper.peak_bytes / 2**20:.0f} MiB" if stepper.peak_bytes else "-"
        print(
            f"| {key} | {middle:.2f} | {low:.2f} to {high:.2f} | {predicted:.2f} | "
            f"{middle / predicted:.2f} | {batch / base / middle:.0f} | {peak} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--batch", nargs="+", type=int, help="default: 64 for ResNet, 8 for ViT")
    parser.add_argument("--optimizers", nargs="+", choices=CANDIDATES, default=list(CANDIDATES)[1:])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--warm-up", type=int, default=2, help="periods of each, not timed")
    parser.add_argument("--masks", type=int, help="in ESAM's cycle (default: one a round)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    device = torch.cuda.get_device_name() if options.device == "cuda" else platform.machine()
    how = [options.precision, *(["channels_last"] if options.channels_last else [])]
    print(
        f"{device}, {torch.get_num_threads()} CPU threads, Python {platform.python_version()}, "
        f"torch {torch.__version__}, torchvision {torchvision.__version__}; "
        f"{', '.join([*how, *(['compiled'] if options.compile else [])])}; "
        f"{options.rounds} rounds, seed {options.seed}; medians, interleaved"
    )
    for name in options.networks:
        for batch in options.batch or [64 if name == "resnet18" else 8]:
            measure(name, batch, options)


if __name__ == "__main__":
    main()
