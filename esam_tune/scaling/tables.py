"""A scaling study as the terminal shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def print_study(document: Mapping[str, Any], console: Console) -> None:
    """Print measurements, model, checks, predictions and where the files are."""
    console.print(
        f"{document['mode'].capitalize()} scaling, medians of {document['rounds']} rounds "
        "with 95 % intervals"
    )
    console.print(_measured(document))
    if any(point["val_accuracy"] is not None for point in document["methods"][0]["points"]):
        console.print()
        console.print(_trained(document))
    model = document["model"]
    latency, bandwidth = model["latency_seconds"], model["bandwidth_bytes_per_second"]
    console.print(
        f"\nmodel: latency {_with_interval(latency, 1e6, '.3g')} µs, bandwidth "
        f"{_with_interval(bandwidth, 1e-6, '.3g')} MB/s, overlap "
        f"{_with_interval(model['overlap'], 1, '.2f')}, spread "
        f"{_with_interval(model['spread'], 1, '.2g')}"
    )
    for line in model["not_told"]:
        console.print(f"not told by these counts: {line}")
    for check in model["leave_one_out"]:
        told = ", ".join(
            f"{_label(document, method)} {100 * error:+.1f} %"
            for method, error in check["errors"].items()
        )
        console.print(f"leaving out {check['workers']} workers: {check['reason'] or told}")
    console.print()
    console.print(_predicted(document))
    console.print()
    for sentence in document["findings"]:
        console.print(sentence)
    console.print()
    for path in document["plots"]:
        console.print(f"picture: {path}")
    console.print(f"numbers: {document['result']}")


def _measured(document: Mapping[str, Any]) -> str:
    """A line for each count under the name of its method: names are too long for a column."""
    head = ("workers", "images/s", "step ms", "speed-up", "efficiency", "exposed ms")
    points = [point for method in document["methods"] for point in method["points"]]
    rows = [
        (
            f"{point['workers']:,}",
            _value(point["images_per_second"], 1, ",.0f"),
            _value(point["step_seconds"], 1e3, ".4g"),
            _with_interval(point["speed_up"], 1, ".3g"),
            _value(point["efficiency"], 100, ".0f") + " %",
            _value(point.get("exposed_seconds"), 1e3, ".2g"),
            _value(point.get("all_reduce_seconds"), 1e3, ".2g"),
            f"{point['all_reduce_bytes'] / 1e6:.3g}",
        )
        for point in points
    ]
    first, *others = _columns([(*head, "all-reduce ms", "MB"), *rows])
    lines, rest = [f"  {first}"], iter(others)
    for method in document["methods"]:
        lines.append(method["label"])
        # The points first: zip takes one more of what stands before the shorter.
        lines += [f"  {line}" for _, line in zip(method["points"], rest, strict=False)]
    return "\n".join(lines)


def _trained(document: Mapping[str, Any]) -> Table:
    """What the count does to batch, learning rate and m, and the accuracy reached."""
    table = _table("setting", "workers", "batch", "rows each", "lr", "rho", "validation accuracy")
    for method in document["methods"]:
        for point in method["points"]:
            accuracy = point["val_accuracy"]
            table.add_row(
                method["label"],
                str(point["workers"]),
                str(point["batch_size"]),
                str(point["rows_per_worker"]),
                f"{point['scaled']['effective.lr']:.3g}",
                f"{point['scaled'].get('effective.rho', '-')}",
                "-" if accuracy is None else f"{100 * accuracy:.1f} %",
            )
    return table


def _predicted(document: Mapping[str, Any]) -> str:
    """The largest predicted count on each network."""
    rows = []
    for network in document["methods"][0]["predictions"]:
        ends = [method["predictions"][network][-1] for method in document["methods"]]
        head = f"predicted for {ends[0]['workers']:,} workers on the {network} network"
        rows.append((head, "efficiency", "images/s"))
        rows += [
            (
                f"  {method['label']}",
                _with_interval(end["efficiency"], 1, ".2g"),
                _with_interval(end["images_per_second"], 1, ",.0f"),
            )
            for method, end in zip(document["methods"], ends, strict=True)
        ]
    width = max(len(first) for first, *_ in rows)
    return "\n".join(_columns([(f"{first:<{width}}", *others) for first, *others in rows]))


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """A line for each row, its cells set right in columns at least two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{c:>{w}}" for c, w in zip(row, widths, strict=True)) for row in rows]


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="left" if name == "setting" else "right")
    return table


def _value(estimate: Mapping[str, Any] | None, unit: float, form: str) -> str:
    if estimate is None or estimate["value"] is None:
        return "-"
    return f"{estimate['value'] * unit:{form}}"


def _with_interval(estimate: Mapping[str, Any] | None, unit: float, form: str) -> str:
    """A value with its interval behind it; the value alone where both ends are it."""
    if estimate is None or estimate["value"] is None:
        return _value(estimate, unit, form)
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    if low == high:
        return f"{value * unit:{form}}"
    ends = ["-" if end is None else f"{end * unit:{form}}" for end in (low, high)]
    return f"{value * unit:{form}} ({ends[0]} to {ends[1]})"


def _label(document: Mapping[str, Any], method: str) -> str:
    labels = {each["method"]: each["label"] for each in document["methods"]}
    return str(labels[method])
