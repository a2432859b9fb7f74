"""A scaling study whose times were made by a known model instead of measured."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from esam_tune.config import trial_settings
from esam_tune.scaling.communication import Model, Network
from esam_tune.scaling.design import Design, design
from esam_tune.scaling.records import Measurement, Sample, Traffic, message_sets

BUCKETS = Traffic(message_bytes=(8_000_000, 8_000_000, 2_000_000), lead_seconds=(0.05, 0.02, 0.0))
MODEL = Model(network=Network(latency=1e-4, seconds_per_byte=1e-9), overlap=0.6, spread=0.02)
# Seconds of a step of one worker: a fixed part, and one for each of its rows.
COSTS: Mapping[str, tuple[float, float]] = {
    "sgd": (0.01, 0.001),
    "sam": (0.02, 0.002),
    "chosen": (0.02, 0.0015),
}


def settings_document(**params: Any) -> dict[str, Any]:
    """Settings of an ESAM run on digits; keyword arguments are its parameters."""
    return {
        "task": {"dataset": "digits", "model": "small_cnn", "label_noise": 0.4},
        "training": {"epochs": 1, "batch_size": 128, "lr": 0.05},
        "params": params or {"optimizer": "esam", "beta": 0.5, "gamma": 0.5, "rho": 0.1},
    }


def made_design(counts: Sequence[int] = (1, 2, 4), mode: str = "strong") -> Design:
    """A study of these settings."""
    return design(trial_settings(settings_document()), counts, mode)


def compute(method: str, rows: float) -> float:
    """Seconds of one worker's step."""
    fixed, each = COSTS[method]
    return fixed + each * rows


def made_measurement(
    made: Design,
    *,
    model: Model = MODEL,
    traffic: Traffic = BUCKETS,
    rounds: int = 5,
    noise: float = 0.0,
    crowding: float = 1.0,
) -> Measurement:
    """What a machine whose truth is the model would bring back.

    Args:
        made: the study.
        model: the truth.
        traffic: of every method.
        rounds: count.
        noise: relative standard deviation of each time.
        crowding: factor on the compute of several workers.
    """
    draw = random.Random(0)
    samples = []

    def note(seconds: float, **of: Any) -> None:
        samples.append(Sample(seconds=seconds * (1 + draw.gauss(0, noise)), **of))

    for number in range(rounds):
        for cell in made.cells():
            where = {
                "round": number,
                "workers": cell.workers,
                "method": cell.method,
                "rows": cell.rows,
            }
            alone = compute(cell.method, cell.rows)
            if cell.workers == 1:
                note(alone, kind="step", **where)
                continue
            share = alone / compute(cell.method, made.rows(1))
            leads = [lead * share for lead in traffic.lead_seconds]
            sent = Traffic(message_bytes=traffic.message_bytes, lead_seconds=leads)
            note(alone * crowding, kind="local_step", **where)
            note(model.step(alone * crowding, sent, cell.workers), kind="step", **where)
        for workers in made.counts[1:]:
            for sizes in message_sets(traffic.message_bytes):
                seconds = sum(model.network.all_reduce(size, workers) for size in sizes)
                note(seconds, kind="all_reduce", round=number, workers=workers, message_bytes=sizes)
    return Measurement(samples=samples, traffic=dict.fromkeys(made.methods, traffic))
