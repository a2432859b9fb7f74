"""Where Ray's messages go: to a file beside its other logs, and to neither stdout nor stderr."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)
_RAY = "ray"


@contextmanager
def nodes_speak_to_the_logger() -> Iterator[None]:
    """Hand the logger what nodes have to say, such as that a worker or another node was lost.

    A thread of Ray's prints that on stdout, whatever is asked of its logs, in the midst of tables
    and of the document that ``--json`` promises. It begins while Ray connects.
    """
    from ray._private import worker

    def log(said: Mapping[str, Any], *_: Any, **__: Any) -> None:
        logging.getLogger(f"{_RAY}.{said['pid']}").warning("%s", "\n".join(said["lines"]))

    prints = worker.print_to_stdstream
    worker.print_to_stdstream = log
    try:
        yield
    finally:
        worker.print_to_stdstream = prints


def _log_folder() -> Path:
    """Where the connected Ray keeps this node's logs."""
    import ray

    context = ray.get_runtime_context()
    return Path(context.get_temp_dir(), context.get_session_name(), "logs")


@contextmanager
def kept_to_its_log() -> Iterator[None]:
    """Let what Ray logs in this process go to a file beside its other logs, not to the terminal.

    A trial that fails, say, is reported with a traceback there; the study records why in a line.
    """
    logger = logging.getLogger(_RAY)
    try:
        handler = logging.FileHandler(_log_folder() / f"esam-tune-{os.getpid()}.log")
    except OSError as error:
        # The logs of a Ray that another user started.
        _log.debug("Ray's messages stay on the terminal (%s)", error)
        yield
        return
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    before, logger.handlers = logger.handlers, [handler]
    try:
        yield
    finally:
        logger.handlers = before
        handler.close()
