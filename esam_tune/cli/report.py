"""``report``: a study as one page that needs nothing else."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from esam_tune.cli.arguments import DONE, add_verb, shown_path


def add_parser(verbs: Any) -> None:
    """Add the verb and its options."""
    text = "write a study, which may be running, as one HTML file: answer, front, costs, plots"
    parser = add_verb(verbs, "report", run, text)
    parser.add_argument("study", metavar="STUDY", help="name of the study")
    parser.add_argument(
        "--out",
        type=shown_path,
        metavar="DIR",
        help="folder that receives report.html (default: the study's own)",
    )


def run(options: argparse.Namespace) -> int:
    """Run the verb; the exit code."""
    from esam_tune.study.folder import study_folder
    from esam_tune.study_report import write_report

    path = write_report(study_folder(options.storage, options.study), options.out)
    sys.stdout.write(f"{path}\n")
    return DONE
