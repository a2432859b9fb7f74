"""``pareto``: front, constraints and pick of a stored study."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from esam_tune.cli.arguments import (
    DONE,
    add_json,
    add_verb,
    bound,
    export_file,
    output_console,
    print_json,
)
from esam_tune.errors import InputError

if TYPE_CHECKING:
    from esam_tune.pareto_front import Rule


def add_parser(verbs: Any) -> None:
    """Add the verb and its options."""
    parser = add_verb(
        verbs, "pareto", run, "recompute front, constraints and pick of a stored study"
    )
    parser.add_argument("study", metavar="STUDY", help="name of the study")
    for option, text in (("--max", "at most"), ("--min", "at least")):
        parser.add_argument(
            option,
            type=bound,
            action="append",
            default=[],
            metavar="METRIC=VALUE",
            help=f"only trials with {text} this value",
        )
    parser.add_argument("--pick", choices=["accuracy", "cost", "knee"], help="default: knee")
    parser.add_argument(
        "--export", type=export_file, metavar="FILE", help="write the pick's settings (*.yaml)"
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the verb; the exit code."""
    from esam_tune.study.folder import study_folder
    from esam_tune.study.front_table import front_table
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
        print_json(document)
        return DONE
    console = output_console()
    if picked is None:
        console.print("no complete trial keeps the constraints")
        return DONE
    console.print(front_table(record, baselines=True, front=front, chosen=picked))
    console.print(f"\n* pick by {rule}: trial {picked.trial_id}, {picked.label}")
    if options.export is not None:
        console.print(f"settings: {options.export}")
    return DONE
