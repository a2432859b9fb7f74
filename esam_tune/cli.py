"""The command line: one thin function per verb.

Only what parsing needs is imported up here; each verb imports the rest when it runs, so that
``--help`` and mistakes answer at once.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from esam_tune import __version__
from esam_tune.config import COUNT, SEED, Domain
from esam_tune.errors import InputError, RunFailedError, choose_from

if TYPE_CHECKING:
    from esam_tune.pareto import Rule

DONE, FAILED, WRONG_INPUT, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143


class _Parser(argparse.ArgumentParser):
    """Answers a mistake with one line on stderr and exit code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_INPUT, f"{self.prog}: error: {message}\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        known, rest = super().parse_known_args(args, namespace)
        if rest:
            options = [option for action in self._actions for option in action.option_strings]
            remedy = choose_from(options, rest[0]) if rest[0].startswith("-") else "remove it"
            self.error(f"{rest[0]}: unknown argument; {remedy}")
        return known, rest


def _integer(domain: Domain) -> Callable[[str], int]:
    def parse(text: str) -> int:
        digits = text.isascii() and text.isdigit() and len(text) < 20
        try:
            return int(domain.check("", int(text) if digits else text))
        except InputError as error:
            raise argparse.ArgumentTypeError(f"{error.problem}; {error.remedy}") from None

    return parse


_count, _seed = _integer(COUNT), _integer(SEED)
_port = _integer(Domain(kind=int, low=1, high=65535))


def _bound(text: str) -> tuple[str, float]:
    metric, equals, number = text.partition("=")
    try:
        value = float(number)
    except ValueError:
        value = float("nan")
    if not equals or value != value or value in (float("inf"), float("-inf")):
        raise argparse.ArgumentTypeError(
            f"must be METRIC=NUMBER such as step_flops_ratio=1.4, got {text!r}"
        )
    return metric, value


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    parser = _Parser(
        prog="esam-tune",
        description="Which ESAM settings give SAM's accuracy at the least cost?",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"esam-tune {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    def verb(name: str, run: Callable[[argparse.Namespace], int], text: str) -> _Parser:
        made: _Parser = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
        made.set_defaults(run=run)
        made.add_argument(
            "--storage",
            type=Path,
            default=Path("runs"),
            metavar="DIR",
            help="folder of all studies (default: runs)",
        )
        return made

    def tracking(made: _Parser) -> None:
        made.add_argument(
            "--tracking-uri",
            metavar="URI",
            help="of MLflow (default: $MLFLOW_TRACKING_URI, or mlflow.db in --storage)",
        )

    def as_json(made: _Parser) -> None:
        made.add_argument("--json", action="store_true", help="print one JSON document on stdout")

    sweep = verb("sweep", _sweep, "run the study that a search space file describes")
    sweep.add_argument("space", type=Path, metavar="SPACE", help="search space file (YAML)")
    sweep.add_argument("--name", help="of the study (default: the file's)")
    sweep.add_argument("--trials", type=_count, metavar="N", help="budget, baselines not counted")
    sweep.add_argument("--epochs", type=_count, metavar="N", help="of every trial")
    sweep.add_argument("--max-concurrent", type=_count, metavar="N", help="trials at a time")
    sweep.add_argument(
        "--workers-per-trial", type=_count, metavar="N", help="processes of each trial (default: 1)"
    )
    sweep.add_argument("--address", metavar="RAY", help="HOST:PORT or auto: a running Ray cluster")
    sweep.add_argument("--seed", type=_seed, metavar="N", help="of the sampler and the trials")
    sweep.add_argument("--resume", action="store_true", help="go on with a study that exists")
    tracking(sweep)
    as_json(sweep)

    pareto = verb("pareto", _pareto, "recompute front, constraints and pick of a stored study")
    pareto.add_argument("study", metavar="STUDY", help="name of the study")
    for option, text in (("--max", "at most"), ("--min", "at least")):
        pareto.add_argument(
            option,
            type=_bound,
            action="append",
            default=[],
            metavar="METRIC=VALUE",
            help=f"only trials with {text} this value",
        )
    pareto.add_argument("--pick", choices=["accuracy", "cost", "knee"], help="default: knee")
    pareto.add_argument("--export", type=Path, metavar="FILE", help="write the pick's settings")
    as_json(pareto)

    train = verb("train", _train, "train a settings file and read the test split once")
    train.add_argument("settings", type=Path, metavar="SETTINGS", help="settings file (YAML)")
    train.add_argument("--name", help="of the run (default: from the settings' study and trial)")
    train.add_argument("--workers", type=_count, default=1, metavar="N", help="processes")
    train.add_argument("--address", metavar="RAY", help="HOST:PORT or auto: a running Ray cluster")
    tracking(train)
    as_json(train)

    ui = verb("ui", _ui, "open MLflow on the storage's runs, on this machine's loopback")
    ui.add_argument("--port", type=_port, default=5000, metavar="N", help="default: 5000")
    tracking(ui)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; the exit code."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    try:
        options = build_parser().parse_args(arguments)
    except SystemExit as exit_:
        return int(exit_.code or 0)
    try:
        return int(options.run(options))
    except InputError as error:
        print(f"esam-tune: error: {error}", file=sys.stderr)  # noqa: T201
        return WRONG_INPUT
    except RunFailedError as error:
        print(f"esam-tune: {error}", file=sys.stderr)  # noqa: T201
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has seen enough; the interpreter must not complain while it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE


def _tracking_uri(options: argparse.Namespace) -> str | None:
    chosen: str | None = options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    return chosen or None


def _print_json(document: Any) -> None:
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")
    sys.stdout.flush()


def _sweep(options: argparse.Namespace) -> int:
    from rich.console import Console

    from esam_tune.study.closing import print_result
    from esam_tune.study.preflight import SweepOptions
    from esam_tune.study.space import Overrides, load_space
    from esam_tune.study.sweep import sweep

    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=not sys.stderr.isatty())
    result = sweep(
        load_space(options.space),
        Overrides(
            name=options.name,
            trials=options.trials,
            epochs=options.epochs,
            max_concurrent=options.max_concurrent,
            seed=options.seed,
        ),
        SweepOptions(
            storage=options.storage,
            tracking_uri=_tracking_uri(options),
            address=options.address,
            workers_per_trial=options.workers_per_trial,
            resume=options.resume,
        ),
        console,
    )
    if options.json:
        _print_json(result.document)
    else:
        print_result(result, Console(highlight=False, markup=False), options.space)
    return {
        "done": DONE,
        "failed": FAILED,
        "interrupted": INTERRUPTED,
        "terminated": TERMINATED,
    }[result.outcome]


def _pareto(options: argparse.Namespace) -> int:
    from rich.console import Console

    from esam_tune.study.folder import study_folder
    from esam_tune.study.progress import front_table
    from esam_tune.study.results import DEFAULT_RULE, export_settings, summarise

    folder = study_folder(options.storage, options.study)
    record = folder.record()
    rule: Rule = options.pick or DEFAULT_RULE
    maximum, minimum = dict(options.max), dict(options.min)
    document = summarise(folder, record, rule=rule, maximum=maximum, minimum=minimum)
    front = [record.trials[trial_id] for trial_id in document["front"]]
    picked = document["chosen"] and record.trials[document["chosen"]["trial_id"]]
    if options.export is not None:
        if picked is None:
            raise InputError("--export", "there is no trial to export", "loosen --max and --min")
        try:
            export_settings(record, picked, options.export)
        except OSError as error:
            raise InputError(
                "--export",
                f"cannot write {str(options.export)!r} ({error.strerror})",
                "choose another path",
            ) from None
    if options.json:
        _print_json(document)
        return DONE
    console = Console(highlight=False, markup=False)
    if picked is None:
        console.print("no complete trial keeps the constraints")
        return DONE
    console.print(front_table(record, baselines=True, front=front, chosen=picked))
    console.print(f"\n* pick by {rule}: trial {picked.trial_id}, {picked.label}")
    if options.export is not None:
        console.print(f"settings: {options.export}")
    return DONE


def _train(options: argparse.Namespace) -> int:
    from rich.console import Console

    from esam_tune.config import trial_settings
    from esam_tune.final_training import TrainOptions, default_name, train_chosen
    from esam_tune.study.progress import format_metric
    from esam_tune.study.space import check_name
    from esam_tune.yaml_file import read_yaml

    settings = trial_settings(read_yaml(options.settings, "SETTINGS"))
    progress = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    epochs = settings.training.epochs

    def on_epoch(metrics: dict[str, float | None]) -> None:
        shown = ", ".join(
            f"{key} {format_metric(key, metrics[key])}"
            for key in ("train_loss", "val_loss", "val_accuracy", "test_accuracy")
            if key in metrics
        )
        progress.print(f"epoch {metrics['epoch']:.0f}/{epochs}  {shown}")

    name = options.name or default_name(settings, options.storage)
    document = train_chosen(
        settings,
        TrainOptions(
            storage=options.storage,
            name=check_name("--name", name),
            workers=options.workers,
            tracking_uri=_tracking_uri(options),
            address=options.address,
        ),
        on_epoch,
    )
    if options.json:
        _print_json(document)
        return DONE
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"test accuracy {format_metric('test_accuracy', document['metrics']['test_accuracy'])}"
        f" (validation {format_metric('val_accuracy', document['metrics']['val_accuracy'])})"
    )
    console.print(f"weights: {document['weights']}")
    return DONE


def _ui(options: argparse.Namespace) -> int:
    from esam_tune.tracking.store import artifact_root, local_uri
    from esam_tune.tracking.ui import serve_ui

    uri = _tracking_uri(options) or local_uri(options.storage)
    serve_ui(uri, artifact_root(options.storage, uri), options.port)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
