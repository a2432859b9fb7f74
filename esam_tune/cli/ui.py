"""``ui``: MLflow on the storage's runs."""

from __future__ import annotations

import argparse
from typing import Any

from esam_tune.cli.arguments import (
    DONE,
    add_tracking_uri,
    add_verb,
    port,
    tracking_uri,
)


def add_parser(verbs: Any) -> None:
    """Add the verb and its options."""
    parser = add_verb(
        verbs, "ui", run, "open MLflow on the storage's runs, on this machine's loopback"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="to listen on (default: 127.0.0.1, which this machine alone reaches)",
    )
    parser.add_argument("--port", type=port, default=5000, metavar="N", help="default: 5000")
    add_tracking_uri(parser)


def run(options: argparse.Namespace) -> int:
    """Run the verb; the exit code."""
    from esam_tune.tracking.store import artifact_root, local_uri
    from esam_tune.tracking.ui import serve_ui

    uri = tracking_uri(options) or local_uri(options.storage)
    serve_ui(uri, artifact_root(options.storage, uri), options.host, options.port)
    return DONE
