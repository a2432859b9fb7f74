"""What follows from the times of all rounds: medians, the fitted model, its predictions, intervals.

Every quantity is a function of the medians over rounds. Its interval is the 95 % percentile
bootstrap over rounds (Efron and Tibshirani 1993): rounds are drawn with replacement, each with all
its times, and everything is computed again, the fit included.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize

from esam_tune.scaling.communication import AllReduceTime, Model, Network, StepTime, fit
from esam_tune.scaling.design import Design
from esam_tune.scaling.records import Measurement, Traffic
from esam_tune.scaling.timings import Medians, Timed, Timings

RESAMPLES = 1000
FITTED = "fitted"
_PERCENTILES = (2.5, 97.5)

Path = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A quantity with its 95 % interval; NaN where nothing tells it."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float | None]:
        """Plain values, with null for what is not finite."""
        values = {"value": self.value, "low": self.low, "high": self.high}
        return {key: value if np.isfinite(value) else None for key, value in values.items()}


class Estimator:
    """Computes every quantity of a study from medians.

    Args:
        design: of the study.
        traffic: of each method.
        predict: worker counts to predict.
        networks: described networks by name, beside the fitted one.
    """

    def __init__(
        self,
        design: Design,
        traffic: Mapping[str, Traffic],
        predict: Sequence[int],
        networks: Mapping[str, Network],
    ) -> None:
        self._design = design
        self._traffic = traffic
        self._predict = predict
        self._networks = networks
        self._solo_rows = int(design.rows(1))

    def estimates(
        self, timings: Timings, seed: int, resamples: int = RESAMPLES
    ) -> dict[Path, Estimate]:
        """Every quantity with its interval."""
        point = self.quantities(timings.medians())
        draw = np.random.default_rng(seed)
        drawn = []
        for _ in range(resamples):
            rounds = draw.integers(timings.rounds, size=timings.rounds).tolist()
            again = self.quantities(timings.medians(rounds))
            drawn.append([again[path] for path in point])
        low, high = np.percentile(np.array(drawn), _PERCENTILES, axis=0)
        return {
            path: Estimate(value=value, low=float(low[i]), high=float(high[i]))
            for i, (path, value) in enumerate(point.items())
        }

    def quantities(self, medians: Medians) -> dict[Path, float]:
        """Every quantity by its path in the result."""
        found: dict[Path, float] = {}
        for method in self._design.methods:
            for workers in self._design.counts:
                rows = int(self._design.rows(workers))
                step = medians[Timed("step", workers, method, rows)]
                parts = {"step_seconds": step, **self._rates(method, workers, step, medians)}
                parts["compute_seconds"] = medians[Timed("step", 1, method, rows)]
                if workers > 1:
                    local = medians[Timed("local_step", workers, method, rows)]
                    parts["local_step_seconds"] = local
                    parts["exposed_seconds"] = step - local
                    messages = tuple(self._traffic[method].message_bytes)
                    parts["all_reduce_seconds"] = medians[
                        Timed("all_reduce", workers, message_bytes=messages)
                    ]
                found |= {("measured", method, workers, key): v for key, v in parts.items()}
        model = self.fit(medians, self._design.counts)
        found[("model", "latency_seconds")] = model.network.latency
        found[("model", "seconds_per_byte")] = model.network.seconds_per_byte
        found[("model", "overlap")] = np.nan if model.overlap is None else model.overlap
        found[("model", "spread")] = model.spread
        crowding = self.crowding(medians, self._design.counts)
        found |= {("crowding", workers): value for workers, value in crowding.items()}
        for name in (FITTED, *self._networks):
            for method in self._design.methods:
                for workers in self._predict:
                    step = self.predict(model, method, workers, medians, crowding, name)
                    parts = {"step_seconds": step, **self._rates(method, workers, step, medians)}
                    found |= {
                        ("predicted", name, method, workers, key): v for key, v in parts.items()
                    }
        return found

    def fit(self, medians: Medians, counts: Sequence[int]) -> Model:
        """The model from the measurements at these counts.

        Raises:
            ValueError: when none is larger than one.
        """
        steps = [
            StepTime(
                workers=workers,
                # Without the all-reduce, but beside the others: they share caches and memory.
                compute=medians[
                    Timed("local_step", workers, method, int(self._design.rows(workers)))
                ],
                traffic=self._led(method, workers, medians),
                seconds=medians[Timed("step", workers, method, int(self._design.rows(workers)))],
            )
            for method in self._design.methods
            for workers in counts
            if workers > 1
        ]
        all_reduces = [
            AllReduceTime(workers=key.workers, message_bytes=key.message_bytes, seconds=seconds)
            for key, seconds in medians.items()
            if key.kind == "all_reduce" and key.workers in counts
        ]
        return fit(steps, all_reduces)

    def crowding(self, medians: Medians, counts: Sequence[int]) -> dict[int, float]:
        """How much slower workers compute beside each other than alone, by count.

        The median over methods of a step without all-reduce over the same step of one worker.
        """
        shares = {}
        for workers in counts:
            if workers > 1:
                rows = int(self._design.rows(workers))
                shares[workers] = statistics.median(
                    medians[Timed("local_step", workers, method, rows)]
                    / medians[Timed("step", 1, method, rows)]
                    for method in self._design.methods
                )
        return shares

    def predict(
        self,
        model: Model,
        method: str,
        workers: int,
        medians: Medians,
        crowding: Mapping[int, float],
        network: str = FITTED,
    ) -> float:
        """Seconds of a step at any count.

        On the fitted network further workers share machines like the measured ones: they are as
        crowded as the largest count in ``crowding`` that is not above theirs. On a described one
        every worker has a machine of its own.
        """
        if network == FITTED:
            known = [count for count in crowding if count <= workers] or list(crowding)[:1]
            crowded = crowding[known[-1]] if workers > 1 else 1.0
        else:
            crowded = 1.0
        return model.step(
            self._compute(method, workers, medians) * crowded,
            self._led(method, workers, medians),
            workers,
            self._networks.get(network),
        )

    def _rates(self, method: str, workers: int, step: float, medians: Medians) -> dict[str, float]:
        one = medians[Timed("step", 1, method, self._solo_rows)]
        images = self._design.batch_size(workers) / step
        speed_up = images / (self._design.batch_size(1) / one)
        return {
            "images_per_second": images,
            "speed_up": speed_up,
            "efficiency": speed_up / workers,
        }

    def _compute(self, method: str, workers: int, medians: Medians) -> float:
        """Seconds of one worker's step with the rows it has at this count.

        Rows that were not measured lie on c0 + c1 * rows through those that were.
        """
        timed = {
            key.rows: seconds
            for key, seconds in medians.items()
            if key.kind == "step" and key.workers == 1 and key.method == method
        }
        rows = self._design.rows(workers)
        if rows in timed:
            return timed[int(rows)]
        seconds = np.array(list(timed.values()))
        columns = np.array([[1.0, count] for count in timed])
        fixed, each = optimize.nnls(columns / seconds[:, None], np.ones(len(seconds)))[0]
        return float(fixed + each * rows)

    def _led(self, method: str, workers: int, medians: Medians) -> Traffic:
        """The traffic of a step with the rows of this count: leads shrink as the compute does."""
        traffic = self._traffic[method]
        one = medians[Timed("step", 1, method, self._solo_rows)]
        share = self._compute(method, workers, medians) / one
        return Traffic(
            message_bytes=traffic.message_bytes,
            lead_seconds=[lead * share for lead in traffic.lead_seconds],
        )


def estimator_for(
    design: Design,
    measurement: Measurement,
    predict: Sequence[int],
    networks: Mapping[str, Network],
) -> Estimator:
    """The estimator of what was measured; counts that leave a worker without a row are left out."""
    reachable = [workers for workers in predict if design.reachable(workers)]
    return Estimator(design, measurement.traffic, reachable, networks)
