"""``sync``: send what a study has recorded, and MLflow has not yet received."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from esam_tune.cli.arguments import (
    DONE,
    FAILED,
    add_json,
    add_verb,
    print_json,
    tracking_uri,
)


def add_parser(verbs: Any) -> None:
    """Add the verb and its options."""
    parser = add_verb(
        verbs, "sync", run, "send MLflow what it has not yet received of a study, nothing twice"
    )
    parser.add_argument("study", metavar="STUDY", help="name of the study, which may be running")
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="of MLflow (default: the study's own); another one receives a copy of the whole study",
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run the verb; the exit code."""
    from esam_tune.study.folder import study_folder
    from esam_tune.study.tracked_study import tracker_of
    from esam_tune.tracking.store import check_form, error_text, without_credentials

    folder = study_folder(options.storage, options.study)
    own = folder.record().tracking_uri
    uri = options.tracking_uri or own
    known = tracking_uri(options)
    # The study remembers its server without a password, which the environment may have.
    if known is not None and without_credentials(known) == without_credentials(uri):
        uri = known
    check_form(uri)
    tracker = tracker_of(folder, own, uri)
    before, problem = tracker.unsent(), None
    try:
        tracker.ship_all()
    except Exception as error:  # noqa: BLE001 - whatever a store raises
        problem = error_text(error, uri)
    refused = [
        {
            "event": "description and tags" if event is None else event["event"],
            "trial_id": None if event is None else event.get("trial_id"),
            "answer": answer,
        }
        for event, answer in tracker.set_aside()
    ]
    document = {
        "study": folder.name,
        "storage": str(folder.storage),
        "tracking_uri": without_credentials(uri),
        "parent_run_id": tracker.cursor.parent_run_id,
        "sent": max(0, before - tracker.unsent()),
        "unsent": tracker.unsent(),
        "refused": refused,
        "problem": problem,
        "arrived": problem is None and not refused,
    }
    if options.json:
        print_json(document)
    else:
        _print(document)
    return DONE if document["arrived"] else FAILED


def _print(document: dict[str, Any]) -> None:
    where = document["tracking_uri"]
    if document["arrived"]:
        sent = document["sent"]
        what = f"{sent} records sent" if sent else "nothing new to send"
        sys.stdout.write(f"{what}: MLflow at {where} has all of {document['study']}\n")
        return
    if document["problem"] is not None:
        left = document["unsent"]
        sys.stderr.write(
            f"esam-tune: MLflow at {where} does not take records ({document['problem']}); "
            f"{left} are kept: try again later\n"
        )
    for refused in document["refused"]:
        trial = f" of trial {refused['trial_id']}" if refused["trial_id"] else ""
        sys.stderr.write(
            f"esam-tune: MLflow at {where} refuses {refused['event']}{trial} "
            f"({refused['answer']})\n"
        )
