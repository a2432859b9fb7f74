"""``sweep``: run the study that a space file describes."""

from __future__ import annotations

import argparse
from typing import Any

from esam_tune.cli.arguments import (
    DONE,
    EXIT_CODES,
    add_address,
    add_json,
    add_tracking_uri,
    add_verb,
    arguments_of,
    count,
    output_console,
    print_json,
    seed,
    shown_path,
)
from esam_tune.cli.worker_options import (
    add_awaited_workers,
    add_checkpoints,
    add_max_epoch_seconds,
    add_worker_resources,
    add_workers_per_trial,
)


def add_parser(verbs: Any) -> None:
    """Add the verb and its options."""
    parser = add_verb(verbs, "sweep", run, "run the study that a search space file describes")
    parser.set_defaults(parser=parser)
    parser.add_argument("space", type=shown_path, metavar="SPACE", help="search space file (YAML)")
    parser.add_argument("--name", help="of the study (default: the file's)")
    parser.add_argument("--trials", type=count, metavar="N", help="budget, baselines not counted")
    parser.add_argument("--epochs", type=count, metavar="N", help="of every trial")
    parser.add_argument("--max-concurrent", type=count, metavar="N", help="trials at a time")
    add_workers_per_trial(parser)
    add_worker_resources(parser)
    add_awaited_workers(parser)
    add_checkpoints(parser)
    add_max_epoch_seconds(parser)
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
        help="over the file's, such as task.label_noise=0.2 or 'search.every={choices: [1, 2]}'; "
        "repeatable",
    )
    parser.add_argument(
        "--optuna-storage",
        metavar="URL",
        help="of Optuna's study: postgresql://..., mysql+pymysql://..., sqlite:///FILE or "
        "journal:///FILE (default: in the storage)",
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
    from esam_tune.cli.repetition import repetition
    from esam_tune.interface.requests import sweep_request
    from esam_tune.study.closing import print_result
    from esam_tune.study.dry_run import dry_run
    from esam_tune.study.preflight import preflight
    from esam_tune.study.sweep import sweep

    asked = sweep_request(**arguments_of(sweep_request, options))
    if options.dry_run:
        plan = preflight(asked.space, asked.overrides, asked.options)
        how = asked.options
        found = dry_run(plan, how.shape, how.address, how.room)
        if options.json:
            print_json(found.document())
        else:
            found.print(output_console())
        return DONE
    result = sweep(asked.space, asked.overrides, asked.options, asked.console)
    if options.json:
        print_json(result.document)
    else:
        again = repetition(options, name=result.folder.name, resume=True)
        print_result(result, output_console(), again.command, again.left_out)
    return EXIT_CODES[result.outcome]
