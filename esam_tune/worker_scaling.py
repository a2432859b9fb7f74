"""What becomes of batch, learning rate and rho when a setting moves to another worker count.

Each worker perturbs along the gradient of its own rows alone: the m of m-sharpness (Foret et al.
2021, arXiv 2010.01412) is the rows of one worker, not of the global batch. A change of the worker
count therefore cannot keep everything at once:

- ``fixed-global`` keeps the global batch: as many steps an epoch and the same learning rate, but m
  becomes ``batch_size / workers``. This is the default, and what strong scaling measures.
- ``per-worker`` keeps the rows of each worker: m and with it rho's meaning stay, but the global
  batch grows with the workers. The learning rate then follows it: ``linear`` (Goyal et al. 2017,
  arXiv 1706.02677; the default), ``sqrt`` (Krizhevsky 2014, arXiv 1404.5997), or ``none``. This is
  what weak scaling measures.

rho is never changed: it is the length of each worker's own step, and no rule for its dependence on
m is established. Reference and effective values stand in every record, so that a change of m is
seen and not guessed at.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from esam_tune.config import TrialSettings
from esam_tune.domains import COUNT
from esam_tune.errors import InputError, choose_from

FIXED_GLOBAL, PER_WORKER = "fixed-global", "per-worker"
BATCH_RULES = (FIXED_GLOBAL, PER_WORKER)
LR_RULES = ("none", "linear", "sqrt")

# Key of a settings file's origin that says how many workers the setting was found with.
ORIGIN_WORKERS = "workers"


@dataclass(frozen=True, kw_only=True)
class WorkerRule:
    """How a setting follows the worker count.

    Args:
        batch: one of ``BATCH_RULES``.
        lr: one of ``LR_RULES``: how the learning rate follows the global batch. None is ``linear``
            where the batch grows, ``none`` where it stays.

    Raises:
        InputError: for an unknown rule, or a learning rate that is to follow a batch that stays.
    """

    batch: str = FIXED_GLOBAL
    lr: str | None = None

    def __post_init__(self) -> None:
        """Check, and fill in the default learning rate rule."""
        _check_choice("--batch-rule", self.batch, BATCH_RULES)
        if self.lr is None:
            object.__setattr__(self, "lr", "none" if self.batch == FIXED_GLOBAL else "linear")
        _check_choice("--lr-rule", self.lr, LR_RULES)
        if self.batch == FIXED_GLOBAL and self.lr != "none":
            raise InputError(
                "--lr-rule",
                f"must be none where the global batch stays ({FIXED_GLOBAL}), got {self.lr!r}",
                f"add --batch-rule {PER_WORKER}, or leave --lr-rule out",
            )

    def lr_factor(self, growth: float) -> float:
        """Factor on the learning rate when the global batch grows by a factor."""
        return {"none": 1.0, "linear": growth, "sqrt": math.sqrt(growth)}[str(self.lr)]


@dataclass(frozen=True, kw_only=True)
class BatchSetup:
    """What depends on the worker count.

    Args:
        workers: that train together.
        batch_size: samples of a step, over all workers.
        rows_per_worker: the m of m-sharpness: samples that one worker perturbs along.
        lr: initial learning rate.
        rho: radius of each worker's perturbation; None for an optimizer without one.
    """

    workers: int
    batch_size: int
    rows_per_worker: float
    lr: float
    rho: float | None

    @classmethod
    def of(cls, settings: TrialSettings, workers: int) -> BatchSetup:
        """What a setting amounts to on so many workers."""
        rho = settings.params.get("rho")
        rows = settings.training.batch_size / workers
        return cls(
            workers=workers,
            batch_size=settings.training.batch_size,
            rows_per_worker=int(rows) if rows.is_integer() else rows,
            lr=settings.training.lr,
            rho=None if rho is None else float(rho),
        )


@dataclass(frozen=True, kw_only=True)
class ScaledSettings:
    """A setting on another worker count, with where it came from.

    Args:
        settings: to train with: batch and learning rate as the rule makes them, and an origin
            that says the new worker count.
        rule: that was applied.
        reference: of the setting as it was found.
        effective: of ``settings``.
    """

    settings: TrialSettings
    rule: WorkerRule
    reference: BatchSetup
    effective: BatchSetup

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON document: ``batch_rule``, ``lr_rule`` and both setups."""
        return {
            "batch_rule": self.rule.batch,
            "lr_rule": self.rule.lr,
            "reference": asdict(self.reference),
            "effective": asdict(self.effective),
        }

    def params(self) -> dict[str, Any]:
        """The same in flat keys, as parameters of a tracked run: ``effective.lr`` and the like."""
        document = self.to_dict()
        flat = {key: document[key] for key in ("batch_rule", "lr_rule")}
        for side in ("reference", "effective"):
            values = {k: v for k, v in document[side].items() if v is not None}
            flat |= {f"{side}.{key}": value for key, value in values.items()}
        return flat


def reference_workers(settings: TrialSettings) -> int:
    """At how many workers a setting was found: as its origin says, else one.

    Raises:
        InputError: when the origin holds something that is no count.
    """
    found = settings.origin.get(ORIGIN_WORKERS, 1)
    return int(COUNT.check(f"origin.{ORIGIN_WORKERS}", found))


def scale_settings(
    settings: TrialSettings, workers: int, rule: WorkerRule | None = None
) -> ScaledSettings:
    """Move a setting to another worker count.

    Args:
        settings: as found.
        workers: that are to train it together.
        rule: ``WorkerRule()`` when left out.

    Raises:
        InputError: when the batch cannot be shared out evenly.
    """
    rule = rule or WorkerRule()
    found = reference_workers(settings)
    batch = settings.training.batch_size
    if rule.batch == PER_WORKER:
        if batch % found:
            raise InputError(
                "training.batch_size",
                f"must divide evenly over the {found} workers the setting was found with, "
                f"got {batch}",
                f"change it, origin.{ORIGIN_WORKERS}, or use --batch-rule {FIXED_GLOBAL}",
            )
        scaled = batch // found * workers
    else:
        scaled = batch
        check_shares(batch, [workers])
    lr = settings.training.lr * rule.lr_factor(scaled / batch)
    changed = {"batch_size": scaled, "lr": lr}
    # A trial's parameters stand above the training section, so both must say the same.
    params = {key: changed.get(key, value) for key, value in settings.params.items()}
    training = replace(settings.training, batch_size=scaled, lr=lr)
    # Where the result becomes a setting of its own, it is one of this many workers.
    origin = {**settings.origin, ORIGIN_WORKERS: workers}
    effective = replace(settings, training=training, params=params, origin=origin)
    return ScaledSettings(
        settings=effective,
        rule=rule,
        reference=BatchSetup.of(settings, found),
        effective=BatchSetup.of(effective, workers),
    )


def check_shares(
    batch_size: int, worker_counts: Iterable[int], field: str = "training.batch_size"
) -> None:
    """Require that a global batch gives every worker as many rows, for each of some counts.

    Raises:
        InputError: naming ``field``.
    """
    counts = list(worker_counts)
    for workers in counts:
        if batch_size % workers:
            step = math.lcm(*counts)
            near = sorted({max(step, batch_size // step * step), -(-batch_size // step) * step})
            raise InputError(
                field,
                f"must divide evenly over the {workers} workers, got {batch_size}",
                "set it to " + " or ".join(map(str, near)),
            )


def _check_choice(option: str, received: str | None, known: tuple[str, ...]) -> None:
    if received not in known:
        raise InputError(
            option,
            f"must be one of {', '.join(known)}, got {received!r}",
            choose_from(known, received),
        )
