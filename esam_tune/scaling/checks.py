"""Whether the model tells a count that it was not shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from esam_tune.scaling.design import Design
from esam_tune.scaling.estimates import Estimator
from esam_tune.scaling.timings import Medians, Timed


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """One count predicted from the others.

    Args:
        workers: the count that the fit did not see.
        errors: of each method, predicted over measured step time, minus 1; empty with a reason.
        reason: why it cannot be told, or None.
    """

    workers: int
    errors: Mapping[str, float]
    reason: str | None = None


def leave_one_out(estimator: Estimator, measured: Design, medians: Medians) -> list[LeftOut]:
    """Predict every count above one from the others, where they leave a model to fit."""
    checks = []
    several = [workers for workers in measured.counts if workers > 1]
    for workers in several:
        others = [count for count in measured.counts if count != workers]
        if len(several) == 1:
            reason = (
                f"{workers} is the only count above 1: without it nothing is left to fit; "
                "measure a third count"
            )
            checks.append(LeftOut(workers=workers, errors={}, reason=reason))
            continue
        model = estimator.fit(medians, others)
        crowding = estimator.crowding(medians, others)
        errors = {}
        for method in measured.methods:
            step = medians[Timed("step", workers, method, int(measured.rows(workers)))]
            errors[method] = estimator.predict(model, method, workers, medians, crowding) / step - 1
        checks.append(LeftOut(workers=workers, errors=errors))
    return checks
