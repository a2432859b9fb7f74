"""How long a data parallel step takes on k workers: compute, and ring all-reduce in its shadow.

A ring all-reduce of S bytes over k workers takes 2 (k - 1) turns, in each of which every worker
sends S / k bytes to the next (Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms"):

    R(S, k) = 2 (k - 1) (latency + S / k * seconds_per_byte)

DistributedDataParallel sends a bucket of gradients as soon as the last backward pass has it ready.
With L_i the time from then to the end of that pass, buckets sent one after the other end at

    f_i = max(f_{i-1}, -L_i) + R(S_i, k),   and the step is longer by   max(0, f_last)

if the network takes nothing from the computation, and by the sum of all R if nothing is hidden.
``overlap`` in [0, 1] lies between the two. The slowest of k workers sets the pace: with compute
times that scatter by a share ``spread`` the expected maximum is (1 + spread E_k) times the mean,
E_k the expected largest of k standard normal values. Together

    T(k) = compute (1 + spread E_k) + (1 - overlap) sum_i R(S_i, k) + overlap max(0, f_last)

Pure arrays and numbers: nothing here measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import optimize, special

from esam_tune.scaling.records import Traffic

# Where overlap could change no measured step by more than this share, it cannot be told.
_TELLING = 0.005


@dataclass(frozen=True, kw_only=True)
class Network:
    """What one worker sees of the network.

    Args:
        latency: seconds that a message takes beside its bytes, software included.
        seconds_per_byte: of one worker's link.
    """

    latency: float
    seconds_per_byte: float

    @property
    def bandwidth(self) -> float:
        """Bytes a second; infinite where no measured time grew with the bytes."""
        return 1 / self.seconds_per_byte if self.seconds_per_byte > 0 else float("inf")

    def all_reduce(self, message_bytes: float, workers: int) -> float:
        """Seconds of a ring all-reduce of one message, R(S, k)."""
        turns = 2 * (workers - 1)
        return turns * (self.latency + message_bytes / workers * self.seconds_per_byte)

    def serial(self, traffic: Traffic, workers: int) -> float:
        """Seconds of a step's all-reduces, one after the other."""
        return sum(self.all_reduce(size, workers) for size in traffic.message_bytes)

    def exposed(self, traffic: Traffic, workers: int) -> float:
        """Seconds by which they outlast the backward pass when they run beside it."""
        end = -np.inf
        for size, lead in zip(traffic.message_bytes, traffic.lead_seconds, strict=True):
            end = max(end, -lead) + self.all_reduce(size, workers)
        return max(0.0, float(end))


@lru_cache(maxsize=4096)
def expected_largest(workers: int) -> float:
    """E_k: the expected largest of k independent standard normal values; 0 for one."""
    if workers == 1:
        return 0.0
    # The integral of x k phi(x) Phi(x)^(k - 1). The trapezoidal rule is exact to rounding here:
    # the integrand is smooth and vanishes at both ends.
    x = np.linspace(-12, 12, 4801)
    density = np.exp((workers - 1) * special.log_ndtr(x) - x**2 / 2) / np.sqrt(2 * np.pi)
    return float(np.sum(x * workers * density) * (x[1] - x[0]))


@dataclass(frozen=True, kw_only=True)
class AllReduceTime:
    """One measured all-reduce of messages sent one after the other."""

    workers: int
    message_bytes: Sequence[int]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """One measured step beside what it takes without communication.

    Args:
        workers: k, at least 2.
        compute: seconds of the same step when it sends nothing.
        traffic: what it sends.
        seconds: measured on k workers.
    """

    workers: int
    compute: float
    traffic: Traffic
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Model:
    """The fitted model.

    Args:
        network: latency and bandwidth.
        overlap: share of the hiding that the schedule allows; None where no measurement tells.
        spread: of the workers' compute times, as a share of their mean.
    """

    network: Network
    overlap: float | None
    spread: float

    def step(
        self, compute: float, traffic: Traffic, workers: int, network: Network | None = None
    ) -> float:
        """Seconds of a step, T(k).

        Args:
            compute: seconds of the step when it sends nothing.
            traffic: what it sends.
            workers: k.
            network: another than the fitted one.
        """
        if workers == 1:
            return compute
        network = network or self.network
        # Nothing told: the schedule is the best guess there is.
        overlap = 1.0 if self.overlap is None else self.overlap
        sent = (1 - overlap) * network.serial(traffic, workers)
        sent += overlap * network.exposed(traffic, workers)
        return compute * (1 + self.spread * expected_largest(workers)) + sent


def fit(steps: Sequence[StepTime], all_reduces: Sequence[AllReduceTime]) -> Model:
    """Least squares of relative errors: the network first, then overlap and spread.

    Args:
        steps: at least one, all of more than one worker.
        all_reduces: of at least two sizes, all of more than one worker.

    Raises:
        ValueError: when the measurements cannot tell latency from bandwidth, or there is no step.
    """
    network = fit_network(all_reduces)
    if not steps:
        raise ValueError("steps must hold at least 1 measured step, got 0")
    measured = np.array([step.seconds for step in steps])
    compute = np.array([step.compute for step in steps])
    largest = np.array([expected_largest(step.workers) for step in steps])
    serial = np.array([network.serial(step.traffic, step.workers) for step in steps])
    hidden = serial - [network.exposed(step.traffic, step.workers) for step in steps]
    # T - compute - serial = spread * compute * E_k - overlap * hidden, in shares of T.
    columns = np.stack([compute * largest, -hidden], axis=1) / measured[:, None]
    rest = (measured - compute - serial) / measured
    telling = bool(np.max(hidden / measured) > _TELLING) and len(steps) > 1
    if not telling:
        # Without a share told from the measurements the schedule's own is taken.
        spread = optimize.nnls(columns[:, :1], rest - columns[:, 1])[0][0]
        return Model(network=network, overlap=None, spread=float(spread))
    solved = optimize.lsq_linear(columns, rest, bounds=([0, 0], [np.inf, 1])).x
    return Model(network=network, overlap=float(solved[1]), spread=float(solved[0]))


def fit_network(all_reduces: Sequence[AllReduceTime]) -> Network:
    """Latency and bandwidth from all-reduces with nothing beside them.

    Raises:
        ValueError: when the measurements cannot tell one from the other.
    """
    rows = []
    for timed in all_reduces:
        turns = 2 * (timed.workers - 1)
        per_byte = turns / timed.workers * sum(timed.message_bytes)
        rows.append([turns * len(timed.message_bytes), per_byte])
    columns = np.array(rows, dtype=np.float64).reshape(-1, 2)
    seconds = np.array([timed.seconds for timed in all_reduces])
    # Bytes are counted in millions while solving, lest one column vanish beside the other.
    scaled = columns * [1, 1e-6] / seconds[:, None]
    if np.linalg.matrix_rank(scaled) < 2:
        raise ValueError(
            "all_reduces must hold at least 2 sizes of message, so that latency can be told from "
            f"bandwidth, got {len(all_reduces)} measurements"
        )
    latency, per_million = optimize.nnls(scaled, np.ones(len(seconds)))[0]
    return Network(latency=float(latency), seconds_per_byte=float(per_million) * 1e-6)
