"""The JSON document of a scaling study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from esam_tune.scaling.checks import LeftOut
from esam_tune.scaling.communication import Network
from esam_tune.scaling.design import SGD, Design
from esam_tune.scaling.estimates import FITTED, Estimate, Path
from esam_tune.scaling.records import Traffic

DESCRIBED = "described"

Estimates = Mapping[Path, Estimate]


def method_documents(
    design: Design,
    labels: Mapping[str, str],
    traffic: Mapping[str, Traffic],
    estimates: Estimates,
    accuracies: Mapping[tuple[str, int], float],
) -> list[dict[str, Any]]:
    """Every method with its measured points and its predictions."""
    return [
        {
            "method": method,
            "label": labels[method],
            "params": dict(settings.params),
            "points": [
                _point(design, method, workers, traffic[method], estimates, accuracies)
                for workers in design.counts
            ],
            "predictions": _predictions(method, estimates),
        }
        for method, settings in design.methods.items()
    ]


def _point(
    design: Design,
    method: str,
    workers: int,
    traffic: Traffic,
    estimates: Estimates,
    accuracies: Mapping[tuple[str, int], float],
) -> dict[str, Any]:
    scaled = design.scaled(method, workers)
    sent = sum(traffic.message_bytes) if workers > 1 else 0
    return {
        "workers": workers,
        "scaled": scaled.params(),
        "batch_size": scaled.effective.batch_size,
        "rows_per_worker": scaled.effective.rows_per_worker,
        "all_reduce_bytes": sent,
        "all_reduce_messages": len(traffic.message_bytes) if workers > 1 else 0,
        **{
            path[3]: estimate.to_dict()
            for path, estimate in estimates.items()
            if path[:3] == ("measured", method, workers)
        },
        "val_accuracy": accuracies.get((method, workers)),
        "mlflow_run_id": None,
    }


def _predictions(method: str, estimates: Estimates) -> dict[str, list[dict[str, Any]]]:
    """By network, the predicted quantities at each count."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for path, estimate in estimates.items():
        if path[0] == "predicted" and path[2] == method:
            _, network, _, workers, key = path
            at = found.setdefault(network, {}).setdefault(workers, {"workers": workers})
            at[key] = estimate.to_dict()
    return {network: list(counts.values()) for network, counts in found.items()}


def model_document(
    estimates: Estimates, left_out: Sequence[LeftOut], described: Network | None, design: Design
) -> dict[str, Any]:
    """The fitted model, what could not be fitted, and how it did on counts it was not shown."""
    per_byte = estimates["model", "seconds_per_byte"]
    unknown = []
    if estimates["model", "overlap"].to_dict()["value"] is None:
        unknown.append(
            "overlap: every step sends too little beside its computation, or in one message, so "
            "that hiding it would change no measured time; predictions take the schedule's own"
        )
    if per_byte.value == 0:
        unknown.append(
            "bandwidth: all-reduces of more bytes took no longer; predictions take it as infinite"
        )
    if len(design.counts) < 3:
        unknown.append(
            "growth with the count: one count above 1 fits latency, bandwidth and spread, but how "
            "each grows with the count is the model's word alone"
        )
    fewest = min(design.rows(workers) for workers in design.counts)
    predicted = {path[3] for path in estimates if path[0] == "predicted"}
    if any(design.rows(workers) < fewest for workers in predicted):
        unknown.append(
            f"steps of few rows: fewer than {fewest:g} rows a worker were not timed; predictions "
            "take the line through the steps that were, whose end at no rows is what a step costs "
            "beside its rows, and methods that differ by it alone may change places"
        )
    return {
        "latency_seconds": estimates["model", "latency_seconds"].to_dict(),
        "bandwidth_bytes_per_second": Estimate(
            value=_inverse(per_byte.value), low=_inverse(per_byte.high), high=_inverse(per_byte.low)
        ).to_dict(),
        "overlap": estimates["model", "overlap"].to_dict(),
        "spread": estimates["model", "spread"].to_dict(),
        "crowding": {
            str(path[1]): estimate.to_dict()
            for path, estimate in estimates.items()
            if path[0] == "crowding"
        },
        "not_told": unknown,
        "leave_one_out": [
            {"workers": check.workers, "errors": dict(check.errors), "reason": check.reason}
            for check in left_out
        ],
        "described_network": described
        and {
            "latency_seconds": described.latency,
            "bandwidth_bytes_per_second": described.bandwidth,
        },
    }


def _inverse(seconds_per_byte: float) -> float:
    return 1 / seconds_per_byte if seconds_per_byte > 0 else float("inf")


def findings(design: Design, methods: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the chosen setting changes beside SGD, in sentences, from the numbers alone."""
    found = {method["method"]: method for method in methods}
    if design.chosen == SGD or SGD not in found:
        return []
    chosen, sgd = found[design.chosen], found[SGD]
    most = design.counts[-1]
    ours, base = chosen["points"][-1], sgd["points"][-1]
    megabytes = ours["all_reduce_bytes"] / 1e6
    compute = ours["compute_seconds"]["value"] / base["compute_seconds"]["value"]
    sentences = [
        f"Compute for each byte sent: a step of {chosen['label']} sends {megabytes:.3g} MB, "
        f"{_compared(ours['all_reduce_bytes'], base['all_reduce_bytes'])} SGD's, and computes for "
        f"{compute:.2f} times as long."
    ]
    where = [(f"measured on {most} workers", ours, base)]
    for network in (FITTED, DESCRIBED):
        if network in chosen["predictions"]:
            ends = [method["predictions"][network][-1] for method in (chosen, sgd)]
            shown = "fitted" if network == FITTED else "described"
            count = ends[0]["workers"]
            where.append((f"predicted for {count:,} workers on the {shown} network", *ends))
    for text, one, other in where:
        efficiency = one["efficiency"]["value"], other["efficiency"]["value"]
        images = one["images_per_second"]["value"], other["images_per_second"]["value"]
        sentences.append(
            f"Efficiency {text}: {efficiency[0]:.3g} against SGD's {efficiency[1]:.3g}. Throughput "
            f"is another matter: {images[0]:,.0f} images/s against {images[1]:,.0f}."
        )
    return sentences


def _compared(ours: int, other: int) -> str:
    return "the same as" if ours == other else f"{ours / max(1, other):.2f} times"
