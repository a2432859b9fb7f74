"""``sweep``: run the study that a space file describes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esam_tune.cli.arguments import (
    DONE,
    EXIT_CODES,
    add_address,
    add_json,
    add_tracking_uri,
    add_verb,
    count,
    output_console,
    print_json,
    progress_console,
    seed,
    tracking_uri,
)
from esam_tune.cli.worker_options import (
    add_checkpoints,
    add_worker_resources,
    add_workers_per_trial,
    worker_shape,
)

if TYPE_CHECKING:
    from esam_tune.study.preflight import SweepOptions
    from esam_tune.study.space import Overrides


def add_parser(verbs: Any) -> None:
    """Add the verb and its options."""
    parser = add_verb(verbs, "sweep", run, "run the study that a search space file describes")
    parser.add_argument("space", type=Path, metavar="SPACE", help="search space file (YAML)")
    parser.add_argument("--name", help="of the study (default: the file's)")
    parser.add_argument("--trials", type=count, metavar="N", help="budget, baselines not counted")
    parser.add_argument("--epochs", type=count, metavar="N", help="of every trial")
    parser.add_argument("--max-concurrent", type=count, metavar="N", help="trials at a time")
    add_workers_per_trial(parser)
    add_worker_resources(parser)
    add_checkpoints(parser)
    add_address(parser)
    parser.add_argument("--seed", type=seed, metavar="N", help="of the sampler and the trials")
    parser.add_argument(
        "--seeds", type=count, metavar="N", help="runs of each setting, from --seed on (default: 1)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="over the file's, such as task.label_noise=0.2 or 'search.every={choices: [1, 2]}'",
    )
    parser.add_argument(
        "--optuna-storage",
        metavar="URL",
        help="of Optuna's study, postgresql://... or journal:///FILE (default: in the storage)",
    )
    parser.add_argument(
        "--warm-start",
        action="append",
        default=[],
        metavar="STUDY",
        help="an earlier study, by name or folder, that the sampler is to know; repeatable",
    )
    parser.add_argument("--resume", action="store_true", help="go on with a study that exists")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would run, at what cost; start nothing"
    )
    add_tracking_uri(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the verb; the exit code."""
    from esam_tune.study.closing import print_result
    from esam_tune.study.dry_run import dry_run
    from esam_tune.study.preflight import preflight
    from esam_tune.study.space import load_space
    from esam_tune.study.sweep import sweep

    space, overrides = load_space(options.space, options.set), _overrides(options)
    how = _sweep_options(options)
    if options.dry_run:
        found = dry_run(preflight(space, overrides, how), how.shape, how.address)
        if options.json:
            print_json(found.document())
        else:
            found.print(output_console())
        return DONE
    console = progress_console()
    result = sweep(space, overrides, how, console)
    if options.json:
        print_json(result.document)
    else:
        again = f"sweep {options.space} --name {result.folder.name} --resume"
        print_result(result, output_console(), again)
    return EXIT_CODES[result.outcome]


def _overrides(options: argparse.Namespace) -> Overrides:
    from esam_tune.study.space import Overrides

    return Overrides(
        name=options.name,
        trials=options.trials,
        epochs=options.epochs,
        max_concurrent=options.max_concurrent,
        seed=options.seed,
        seeds=options.seeds,
    )


def _sweep_options(options: argparse.Namespace) -> SweepOptions:
    from esam_tune.study.preflight import SweepOptions

    fewest, most = options.workers_per_trial or (None, None)
    return SweepOptions(
        storage=options.storage,
        tracking_uri=tracking_uri(options),
        address=options.address,
        workers_per_trial=most,
        min_workers=fewest,
        shape=worker_shape(options),
        checkpoint_storage=options.checkpoint_storage,
        max_failures=options.max_failures,
        optuna_storage=options.optuna_storage,
        warm_start=tuple(options.warm_start),
        resume=options.resume,
        space_file=options.space,
    )
