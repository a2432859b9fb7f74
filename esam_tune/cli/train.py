"""``train``: train a settings file and read the test split once."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from esam_tune.cli.arguments import (
    DONE,
    FAILED,
    STOPPED_CODES,
    add_address,
    add_json,
    add_tracking_uri,
    add_verb,
    arguments_of,
    count,
    print_json,
)
from esam_tune.cli.worker_options import (
    add_awaited_workers,
    add_checkpoints,
    add_worker_resources,
    add_worker_rule,
)
from esam_tune.errors import RunFailedError


def add_parser(verbs: Any) -> None:
    """Add the verb and its options."""
    parser = add_verb(verbs, "train", run, "train a settings file and read the test split once")
    parser.add_argument("settings", type=Path, metavar="SETTINGS", help="settings file (YAML)")
    parser.add_argument("--name", help="of the run (default: from the settings' study and trial)")
    parser.add_argument("--workers", type=count, metavar="N", help="processes (default: 1)")
    parser.add_argument(
        "--resume", action="store_true", help="go on with the training of that --name"
    )
    parser.add_argument(
        "--register",
        metavar="MODEL",
        help="name in MLflow's model registry that receives the model as its next version",
    )
    add_worker_rule(parser)
    add_worker_resources(parser, cpus="1; all of them for one that trains alone")
    add_awaited_workers(parser)
    add_checkpoints(parser)
    add_address(parser)
    add_tracking_uri(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the verb; the exit code."""
    from esam_tune.final_training import train_chosen, training_folder
    from esam_tune.interface.trainings import train_request
    from esam_tune.study.signals import Stopped, raise_on_signals

    asked = train_request(**arguments_of(train_request, options))
    progress, name = asked.console, asked.options.name
    folder = training_folder(asked.options.storage, name)
    again = f"go on with it: --name {name} --resume"
    try:
        with raise_on_signals():
            document = train_chosen(asked.settings, asked.options, asked.show_epoch)
    except Stopped as stop:
        kept = f"{again}" if folder.started() else "nothing is kept"
        progress.print(f"esam-tune: {stop.signal.name} ended the training; {kept}")
        return STOPPED_CODES[stop.signal]
    except RunFailedError:
        if folder.started():
            progress.print(f"esam-tune: {again}")
        raise
    if options.json:
        print_json(document)
    else:
        _print(document)
    # What was asked for by name and did not come about is no success.
    return FAILED if options.register and document["registered"] is None else DONE


def _print(document: dict[str, Any]) -> None:
    from rich.console import Console

    from esam_tune.study.front_table import format_metric

    console = Console(highlight=False, markup=False, soft_wrap=True)
    metrics, registered = document["metrics"], document["registered"]
    console.print(
        f"test accuracy {format_metric('test_accuracy', metrics['test_accuracy'])}"
        f" (validation {format_metric('val_accuracy', metrics['val_accuracy'])})"
    )
    console.print(f"weights:    {document['weights']}")
    if document["model_uri"] is not None:
        console.print(f"MLflow:     {document['model_uri']}")
    if registered is not None:
        console.print(f"registered: {registered['name']}, version {registered['version']}")
