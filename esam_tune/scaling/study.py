"""A scaling study from start to end: checks, measurement, model, pictures and records."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import esam_tune
from esam_tune.config import TrialSettings, check_precision
from esam_tune.errors import InputError
from esam_tune.metrics import VAL_ACCURACY
from esam_tune.scaling.checks import leave_one_out
from esam_tune.scaling.communication import Network
from esam_tune.scaling.design import Design, design
from esam_tune.scaling.document import DESCRIBED, findings, method_documents, model_document
from esam_tune.scaling.estimates import FITTED, RESAMPLES, estimator_for
from esam_tune.scaling.records import Measurement, Plan
from esam_tune.scaling.timings import Timings
from esam_tune.study import cluster
from esam_tune.study.awaited_room import Room, check_room, with_room
from esam_tune.study.folder import check_storage, names_in, reserved_folder
from esam_tune.study.node_data import check_all_nodes_have
from esam_tune.study.placement import WorkerShape, place
from esam_tune.study.spec import describe_params
from esam_tune.tracking.scaling import log_scaling
from esam_tune.tracking.store import (
    artifact_root,
    check_uri,
    error_text,
    local_uri,
    without_credentials,
)

_log = logging.getLogger(__name__)

FOLDER = "scaling"
_PACKAGES = ("torch", "ray", "numpy", "scipy")


@dataclass(frozen=True, kw_only=True)
class ScaleOptions:
    """How a scaling study is run.

    Args:
        storage: folder that receives ``scaling/NAME/``.
        name: of the study, a new folder.
        workers: counts, one among them.
        mode: ``strong`` or ``weak``.
        lr_rule: how the learning rate follows the batch, or None for the mode's own.
        rounds: times that everything is measured, at least 3.
        steps: timed steps of a method at a count in a round.
        predict_to: largest count to predict.
        network: a described network to predict for, beside the fitted one.
        accuracy: whether every method is trained to its end at every count.
        shape: what each worker takes of the cluster.
        room: that the cluster is to make before the study begins, or None for what there is.
        tracking_uri: of MLflow, or None for the store inside ``storage``.
        address: of a Ray cluster, or None to start one on this machine.
    """

    storage: Path
    name: str
    workers: Sequence[int]
    mode: str = "strong"
    lr_rule: str | None = None
    rounds: int = 10
    steps: int = 20
    predict_to: int = 1024
    network: Network | None = None
    accuracy: bool = False
    shape: WorkerShape = field(default_factory=WorkerShape)
    room: Room | None = None
    tracking_uri: str | None = None
    address: str | None = None


def scale(
    settings: TrialSettings, options: ScaleOptions, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Measure how SGD, SAM and a setting scale, fit the communication model, and predict.

    Args:
        settings: the chosen setting.
        options: where, on what, how often.
        progress: receives a line on what is being done.

    Returns:
        The JSON document that ``esam-tune scale`` prints.

    Raises:
        InputError: for whatever can be seen to be wrong before anything starts.
        RunFailedError: when a worker fails; nothing is left behind.
    """
    uri = options.tracking_uri or local_uri(options.storage)
    laid_out = _preflight(settings, options, uri)
    # Taken before the long part, so that no other study takes the name meanwhile.
    with reserved_folder((options.storage / FOLDER / options.name).absolute(), "--name") as folder:
        return _run(settings, options, laid_out, uri, folder, progress)


def _run(
    settings: TrialSettings,
    options: ScaleOptions,
    laid_out: Design,
    uri: str,
    folder: Path,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    plan = Plan(
        cells=laid_out.cells(), rounds=options.rounds, steps=options.steps, seed=settings.seed
    )
    started, load = time.time(), os.getloadavg()[0]
    measurement, accuracies = _measure(laid_out, plan, options, progress)
    # What was measured is kept whatever happens to what is made of it.
    _write(measurement.to_dict(), folder / "samples.json")
    progress("fitting the model")
    document = _document(settings, options, laid_out, plan, measurement, accuracies)
    document["machine"]["load_at_start"] = load
    document["seconds"] = time.time() - started
    document["tracking_uri"] = without_credentials(uri)
    document["parent_run_id"] = None
    document["plots"] = [str(path) for path in _draw(document, folder)]
    document["result"] = str(folder / "result.json")
    _write(document, folder / "result.json")
    try:
        parent, children = log_scaling(
            uri,
            artifact_root(options.storage, uri),
            name=options.name,
            document=document,
            started=started,
            ended=started + document["seconds"],
            artifacts=[*map(Path, document["plots"]), *sorted(folder.glob("*.json"))],
        )
        document["parent_run_id"] = parent
        for method in document["methods"]:
            for point in method["points"]:
                point["mlflow_run_id"] = children[method["method"], point["workers"]]
        _write(document, folder / "result.json")
    except Exception as error:  # noqa: BLE001 - the result is on disk: tracking must not lose it
        reason = error_text(error, uri)
        _log.warning("MLflow did not take the runs (%s); they are kept in %s", reason, folder)
    return document


def default_name(storage: Path, mode: str) -> str:
    """A name that is not taken: the mode and a count."""
    taken = names_in(storage / FOLDER)
    count = 1
    while (name := mode if count == 1 else f"{mode}-{count}") in taken:
        count += 1
    return name


def _preflight(settings: TrialSettings, options: ScaleOptions, uri: str) -> Design:
    laid_out = design(settings, options.workers, options.mode, options.lr_rule)
    largest = laid_out.counts[-1]
    check_storage(options.storage)
    if (options.storage / FOLDER / options.name).exists():
        raise InputError(
            "--name",
            f"a scaling study {options.name!r} exists in {str(options.storage / FOLDER)!r}",
            "choose another --name",
        )
    if options.address is None:
        # One thread a worker: more workers than cores would measure how they wait for a core.
        nodes = cluster.local_nodes()
        placed = place(nodes, largest, 1, "--workers", shape=options.shape, where="this machine")
        check_precision(settings.training, gpu=placed.gpus_per_worker > 0)
    check_room(options.room, largest, "largest count")
    cluster.check_address(options.address)
    if uri != local_uri(options.storage):
        check_uri(uri)
    from esam_tune.tasks.data import check_batch_size, checked_train_split

    train = checked_train_split(settings.task)
    if options.accuracy:
        for workers in laid_out.counts:
            check_batch_size(laid_out.batch_size(workers), workers, train)
    return laid_out


def _measure(
    laid_out: Design, plan: Plan, options: ScaleOptions, progress: Callable[[str], None]
) -> tuple[Measurement, dict[tuple[str, int], float]]:
    """Everything that needs the cluster."""
    from esam_tune.scaling.group import run_study

    largest = laid_out.counts[-1]
    trainings = laid_out.trainings() if options.accuracy else []
    with cluster.connected(options.address, distributed=True) as nodes:
        nodes = with_room(nodes, options.room)
        placement = place(nodes, largest, 1, "--workers", shape=options.shape)
        training = laid_out.methods[laid_out.chosen].training
        check_precision(training, gpu=placement.gpus_per_worker > 0)
        check_all_nodes_have(laid_out.methods[laid_out.chosen].task, placement.gpus_per_worker)
        counts = ", ".join(map(str, laid_out.counts))
        then = ", then training each to its end" if trainings else ""
        progress(f"measuring {len(laid_out.methods)} methods on {counts} workers{then}")
        measurement, last = run_study(plan, trainings, placement)
    accuracies = {
        (cell.method, cell.workers): metrics[VAL_ACCURACY]
        for cell, metrics in zip(trainings, last, strict=True)
    }
    return measurement, accuracies


def _document(
    settings: TrialSettings,
    options: ScaleOptions,
    laid_out: Design,
    plan: Plan,
    measurement: Measurement,
    accuracies: Mapping[tuple[str, int], float],
) -> dict[str, Any]:
    networks = {DESCRIBED: options.network} if options.network else {}
    doublings = [2**n for n in range(options.predict_to.bit_length())]
    predict = sorted({*doublings, *laid_out.counts, options.predict_to})
    estimator = estimator_for(laid_out, measurement, predict, networks)
    timings = Timings(measurement.samples)
    estimates = estimator.estimates(timings, plan.seed)
    labels = {method: describe_params(one.params) for method, one in laid_out.methods.items()}
    methods = method_documents(laid_out, labels, measurement.traffic, estimates, accuracies)
    checks = leave_one_out(estimator, laid_out, timings.medians())
    return {
        "study": options.name,
        "mode": laid_out.mode,
        "workers": list(laid_out.counts),
        "batch_rule": laid_out.rule.batch,
        "lr_rule": laid_out.rule.lr,
        "rounds": plan.rounds,
        "steps": plan.steps,
        "intervals": f"95 %, percentile bootstrap over rounds, {RESAMPLES} resamples; those of "
        "predictions hold the noise of the measurement, given the model",
        "settings": settings.to_dict(),
        "methods": methods,
        "model": model_document(estimates, checks, options.network, laid_out),
        "findings": findings(laid_out, methods),
        "machine": {
            "processor": platform.machine(),
            "cores": cluster.local_cores(),
            "device": measurement.device,
            "backend": measurement.backend,
        },
        "versions": {
            "esam_tune": esam_tune.__version__,
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in _PACKAGES},
        },
    }


def _draw(document: Mapping[str, Any], folder: Path) -> list[Path]:
    from esam_tune.report.style import save_figure
    from esam_tune.scaling.plots import measured_figure, predicted_figure

    figures = {"measured.png": measured_figure(document)}
    for network in (FITTED, DESCRIBED):
        if network in document["methods"][0]["predictions"]:
            figures[f"predicted_{network}.png"] = predicted_figure(document, network)
    for name, figure in figures.items():
        save_figure(figure, folder / name)
    return [folder / name for name in figures]


def _write(document: Mapping[str, Any], path: Path) -> None:
    path.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
