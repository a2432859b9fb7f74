"""Options about the workers of a trial: how many, what each takes, and where checkpoints go."""

from __future__ import annotations

import argparse

from esam_tune.cli.arguments import count, integer
from esam_tune.domains import COUNT, RESTARTS
from esam_tune.errors import InputError
from esam_tune.trial import MAX_EPOCH_SECONDS, MAX_FAILURES
from esam_tune.worker_scaling import BATCH_RULES, FIXED_GLOBAL, LR_RULES

Workers = tuple[int | None, int]

_restarts = integer(RESTARTS)


def workers(text: str) -> Workers:
    """Parse ``N``, or ``MIN-MAX``: the fewest (None for a fixed count) and the most."""
    ends = text.split("-")
    try:
        if len(ends) > 2 or not all(end.isascii() and end.isdigit() for end in ends):
            raise InputError("", f"must be N or MIN-MAX, got {text!r}", "for example 4, or 2-4")
        most = int(COUNT.check("", int(ends[-1][:20])))
        if len(ends) == 1:
            return None, most
        fewest = int(COUNT.check("", int(ends[0][:20])))
        if fewest >= most:
            raise InputError("", f"must rise from MIN to MAX, got {text!r}", "or give one count")
    except InputError as error:
        raise argparse.ArgumentTypeError(f"{error.problem}; {error.remedy}") from None
    return fewest, most


def gpus(text: str) -> float:
    """Parse a number of GPUs, whole or a share of one."""
    from esam_tune.study.placement import WorkerShape

    try:
        return float(WorkerShape(gpus=float(text)).gpus or 0)
    except InputError as error:
        raise argparse.ArgumentTypeError(f"{error.problem}; {error.remedy}") from None
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None


def add_workers_per_trial(parser: argparse.ArgumentParser) -> None:
    """Add ``--workers-per-trial``."""
    parser.add_argument(
        "--workers-per-trial",
        type=workers,
        metavar="N|MIN-MAX",
        help="processes of each trial (default: 1); a range lets it go on with what nodes there "
        "are",
    )


def add_worker_resources(parser: argparse.ArgumentParser, *, cpus: str = "1") -> None:
    """Add ``--gpus-per-worker`` and ``--cpus-per-worker``.

    Args:
        parser: of the verb.
        cpus: that a worker of the verb has unless others are asked for, in words.
    """
    parser.add_argument(
        "--gpus-per-worker",
        type=gpus,
        metavar="N",
        help="GPUs of each worker, or its share of one such as 0.25 (default: 1 where there are "
        "enough, else 0)",
    )
    parser.add_argument(
        "--cpus-per-worker",
        type=count,
        metavar="N",
        help=f"CPU cores of each worker (default: {cpus})",
    )


def add_awaited_workers(parser: argparse.ArgumentParser) -> None:
    """Add ``--await-workers``."""
    parser.add_argument(
        "--await-workers",
        type=count,
        metavar="N",
        help="begin when the cluster at --address has room for N workers, which its autoscaler is "
        "asked to make; needs --gpus-per-worker (default: take what there is)",
    )


def add_checkpoints(parser: argparse.ArgumentParser) -> None:
    """Add ``--checkpoint-storage`` and ``--max-failures``."""
    parser.add_argument(
        "--checkpoint-storage",
        metavar="URI",
        help="folder that all nodes share, or URI such as s3://BUCKET/PATH (default: in --storage)",
    )
    add_max_failures(parser)


def add_max_failures(parser: argparse.ArgumentParser) -> None:
    """Add ``--max-failures``."""
    parser.add_argument(
        "--max-failures",
        type=_restarts,
        default=MAX_FAILURES,
        metavar="N",
        help="restarts of a trial from its last checkpoint after a lost process or node "
        f"(default: {MAX_FAILURES})",
    )


def add_max_epoch_seconds(parser: argparse.ArgumentParser) -> None:
    """Add ``--max-epoch-seconds``."""
    parser.add_argument(
        "--max-epoch-seconds",
        type=count,
        default=int(MAX_EPOCH_SECONDS),
        metavar="N",
        help="a trial that ends no epoch for so long has hung: it fails, and its resources are "
        f"free again; preparing the data counts (default: {MAX_EPOCH_SECONDS:.0f}, "
        f"{MAX_EPOCH_SECONDS / 3600:.0f} hours)",
    )


def add_worker_rule(parser: argparse.ArgumentParser) -> None:
    """Add ``--batch-rule`` and ``--lr-rule``."""
    parser.add_argument(
        "--batch-rule",
        choices=BATCH_RULES,
        help="what stays when the worker count is not the one the setting was found with: the "
        f"global batch, or the rows of each worker (default: {FIXED_GLOBAL})",
    )
    parser.add_argument(
        "--lr-rule",
        choices=LR_RULES,
        help="how the learning rate follows the global batch (default: linear where it changes)",
    )
