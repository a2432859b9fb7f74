"""Ideas for a cheaper sharpness-aware step than ESAM's, on noisy digits: which of them hold?

    python benchmarks/variants.py --out benchmarks/results/variants_digits.jsonl

Each idea is an optimizer written here, outside the package, that goes through the very training,
tuning and seeds of `accuracy.py`: rho by validation accuracy over the tuning seeds, then one look
at the test split by the final seeds, paired with SAM's. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from accuracy import (
    METHODS,
    REFERENCE,
    Results,
    Tunable,
    add_options,
    final_runs,
    print_table,
    train_once,
    tuned,
)
from torch import Tensor, nn

from esam_tune import optimization, training
from esam_tune.config import complete_params
from esam_tune.optim import ESAM, MaskCycle
from esam_tune.optim.batchnorm import running_statistics_held
from esam_tune.optim.passes import Closure, Closures, as_closures
from esam_tune.optim.perturbation import Ascent, ascend, weights_restored

EPOCHS, STEPS_PER_EPOCH = 30, 16
Closed = Closure | Sequence[Closure]


class ScheduledPeriod(ESAM):
    """ESAM whose period changes while it trains.

    Args:
        periods: one for each equal part of the training.
    """

    def __init__(self, base: torch.optim.Optimizer, *, periods: Sequence[int], **own: Any) -> None:
        super().__init__(base, **own)
        self._periods = periods
        self.sharp = 0

    def step(self, closure: Closed) -> Tensor:  # type: ignore[override]
        """Take ESAM's step or the base step, as the schedule says."""
        part = self.steps * len(self._periods) // (EPOCHS * STEPS_PER_EPOCH)
        period = self._periods[min(part, len(self._periods) - 1)]
        if self.steps % period:
            self.steps += 1
            return self._plain_step(as_closures(closure))
        self.sharp += 1
        return super().step(closure)


class WhereSteep(ESAM):
    """ESAM's step only after a gradient that was large among the last ones.

    In the manner of Jiang et al., "An Adaptive Policy to Employ Sharpness-Aware Minimization",
    ICLR 2023: the squared norm is compared with its running mean and deviation.

    Args:
        deviations: above the mean, from which a gradient counts as large.
    """

    def __init__(self, base: torch.optim.Optimizer, *, deviations: float, **own: Any) -> None:
        super().__init__(base, **own)
        self._deviations = deviations
        self._mean, self._variance, self._last = 0.0, 0.0, float("inf")
        self.sharp = 0

    def step(self, closure: Closed) -> Tensor:  # type: ignore[override]
        """Take ESAM's step if the last gradient was steep, else the base step."""
        steep = self._last >= self._mean + self._deviations * self._variance**0.5
        self.sharp += steep
        if steep:
            losses = super().step(closure)
        else:
            self.steps += 1
            losses = self._plain_step(as_closures(closure))
        gradients = self._gradients()
        if gradients[0].device.type != "meta":
            self._last = float(torch.stack([g.square().sum() for g in gradients]).sum())
            self._mean = 0.9 * self._mean + 0.1 * self._last
            self._variance = 0.9 * self._variance + 0.1 * (self._last - self._mean) ** 2
        return losses


class KeptPerturbation(ESAM):
    """ESAM whose perturbation is used again on the batches between two of its steps.

    Those take one pass, over all rows at w + epsilon: they cost what a plain step costs.
    """

    _kept: Sequence[Ascent] = ()

    def _clean_pass(self, closures: Closures) -> tuple[list[Tensor], list[Ascent]]:
        losses, ascents = super()._clean_pass(closures)
        # Perturbing turns the gradients in here into epsilon, in place.
        self._kept = list(ascents)
        return losses, ascents

    def _plain_step(self, closures: Closures) -> Tensor:
        with weights_restored([weight for ascent in self._kept for weight in ascent.tensors]):
            with torch.no_grad():
                for ascent in self._kept:
                    torch._foreach_add_(ascent.tensors, ascent.gradients)
            self.zero_grad(set_to_none=True)
            losses = self._passes.backward(closures)
        self._finish()
        return torch.cat(losses)


class SubsetFirst(ESAM):
    """SAM whose first pass runs on a few rows of the batch only.

    Args:
        rows: of the first pass; the batch is in random order.
    """

    def __init__(self, base: torch.optim.Optimizer, *, rows: int, **own: Any) -> None:
        super().__init__(base, **own)
        self._rows = rows

    def step(self, closure: Closed) -> Tensor:  # type: ignore[override]
        """Perturb by the first rows' gradient, then descend on all of them."""
        (whole,) = as_closures(closure)
        if self.steps % self.period:
            self.steps += 1
            return self._plain_step((whole,))
        self.steps += 1

        def part(_: Tensor | None) -> Tensor:
            device = self.trainable_parameters()[0].device
            return whole(torch.arange(self._rows, device=device))

        _, ascents = self._clean_pass((part,))
        perturbed = [weight for ascent in ascents for weight in ascent.tensors]
        with running_statistics_held(self.model), weights_restored(perturbed):
            ascend(ascents, adaptive=False)
            losses = self._passes.backward((whole,))
        self._finish()
        return torch.cat(losses)


def late_stages(base: torch.optim.Optimizer, *, cuts: Sequence[int], **own: Any) -> ESAM:
    """ESAM whose masks freeze whole early stages, so that the clean pass stops early.

    Args:
        base: the base optimizer.
        cuts: tensors left out at the front, one mask each, in turn.
        own: of ESAM.
    """
    count = sum(len(group["params"]) for group in base.param_groups)
    masks = MaskCycle([tuple(index >= cut for index in range(count)) for cut in cuts])
    return ESAM(base, masks=masks, **own)


@dataclass(frozen=True, kw_only=True)
class Idea:
    """An optimizer to try, with everything but rho fixed.

    Args:
        build: makes it from the base optimizer.
        rhos: the grid that rho is tuned on.
        own: its other arguments.
    """

    build: Callable[..., ESAM]
    rhos: tuple[float, ...]
    own: Mapping[str, Any] = field(default_factory=dict)


SAM_LIKE = {"beta": 1.0, "gamma": 1.0}
FEW_ROWS = {"beta": 0.4, "gamma": 0.3, "selection": "first_order"}
HALF = {"beta": 0.5, "gamma": 0.5, "selection": "first_order"}

IDEAS: dict[str, Idea] = {
    "period 1, 2, 4, 8 (decaying)": Idea(
        build=ScheduledPeriod, own={**HALF, "periods": (1, 2, 4, 8)}, rhos=(0.3, 0.5, 0.7)
    ),
    "period 8, 4, 2, 1 (rising)": Idea(
        build=ScheduledPeriod, own={**HALF, "periods": (8, 4, 2, 1)}, rhos=(0.2, 0.3, 0.5, 0.7, 1.0)
    ),
    "where the gradient is steep": Idea(
        build=WhereSteep, own={**HALF, "deviations": 0.5}, rhos=(0.3, 0.5, 0.7)
    ),
    "SAM every 5, perturbation kept": Idea(
        build=KeptPerturbation, own={**SAM_LIKE, "every": 5}, rhos=(0.2, 0.35, 0.5, 0.7, 1.0)
    ),
    "SAM every 20, perturbation kept": Idea(
        build=KeptPerturbation, own={**SAM_LIKE, "every": 20}, rhos=(0.2, 0.35, 0.5, 0.7, 1.0)
    ),
    "ESAM first order 0.4/0.3 every 2, kept": Idea(
        build=KeptPerturbation, own={**FEW_ROWS, "every": 2}, rhos=(0.1, 0.2, 0.35, 0.5)
    ),
    "SAM, first pass on 16 of 64 rows": Idea(
        build=SubsetFirst, own={**SAM_LIKE, "rows": 16}, rhos=(0.2, 0.35, 0.5, 0.7)
    ),
    "SAM, first pass on 4 of 64 rows": Idea(
        build=SubsetFirst, own={**SAM_LIKE, "rows": 4}, rhos=(0.2, 0.35, 0.5, 0.7, 1.0)
    ),
    "SAM of the last stage and head": Idea(
        build=late_stages, own={**SAM_LIKE, "cuts": (6,)}, rhos=(0.2, 0.35, 0.5, 0.7, 1.0, 1.4)
    ),
    "ESAM first order gamma 0.3, early stages frozen in turn": Idea(
        build=late_stages,
        own={"beta": 1.0, "gamma": 0.3, "selection": "first_order", "cuts": (0, 3, 6)},
        rhos=(0.1, 0.2, 0.35),
    ),
}


class TunableIdea:
    """An idea as `accuracy.tuned` takes it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def settings(self) -> list[dict[str, Any]]:
        """Parameters at each rho."""
        return [{"idea": self._name, "rho": rho} for rho in IDEAS[self._name].rhos]


def train_idea(
    params: dict[str, Any], seed: int, split_seed: int, *, final: bool
) -> dict[str, float]:
    """The last epoch's metrics of one run; the cost is that of the steps it really took."""
    if "idea" not in params:
        return train_once(params, seed, split_seed, final=final)
    idea = IDEAS[params["idea"]]
    built: list[ESAM] = []

    def build(_: object, settings: Any, model: nn.Module, mask_seed: int, *__: Any) -> ESAM:
        base = optimization.build_base(settings, model)
        own = idea.own if idea.build is late_stages else {**idea.own, "seed": mask_seed}
        built.append(idea.build(base, model=model, rho=params["rho"], **own))
        return built[-1]

    with mock.patch.object(training, "build_optimizer", build):
        metrics = train_once(
            complete_params("params", {"optimizer": "esam"}), seed, split_seed, final=final
        )
    trained = built[0]
    if isinstance(trained, ScheduledPeriod | WhereSteep):
        # Their steps have no period to count over: what was counted is a sharpness-aware one.
        share = trained.sharp / trained.steps
        metrics["step_flops_ratio"] = 1 + share * (metrics["step_flops_ratio"] - 1)
        metrics["step_time_ratio"] = float("nan")
    return metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--ideas", nargs="*", choices=IDEAS, default=list(IDEAS))
    options = parser.parse_args()
    results = Results(options.out, options.split_seed, train_idea)
    wanted: dict[str, Tunable] = {n: TunableIdea(n) for n in options.ideas}
    wanted = {REFERENCE: METHODS[REFERENCE], **wanted}
    settings = tuned(wanted, results, options.tuning_seeds, options.jobs)
    by_method = final_runs(settings, results, options.seeds, options.jobs)
    print_table(by_method, by_method[REFERENCE], options)


if __name__ == "__main__":
    main()
