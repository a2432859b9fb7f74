"""The Ray cluster a study runs on: found or started, and checked against what a trial needs."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from esam_tune.errors import InputError

_CONNECT_SECONDS = 3.0


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How the trials of a study share the cluster.

    Args:
        max_concurrent: trials at a time.
        threads: CPU cores of each worker.
        gpus_per_worker: 1 where the cluster has enough GPUs for a trial, else 0.
    """

    max_concurrent: int
    threads: int
    gpus_per_worker: float


def check_address(address: str | None) -> None:
    """Require that something answers at a Ray address before Ray itself, which waits long, tries.

    Raises:
        InputError: naming ``--address``.
    """
    if address is None or address == "auto":
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise InputError(
            "--address",
            f"must be auto or HOST:PORT, got {address!r}",
            "use the address that `ray start --head` printed, or `ray job submit` from outside",
        )
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise InputError(
            "--address",
            f"no Ray cluster answers at {address!r} ({error.strerror or error})",
            "check the address and that the cluster is up",
        ) from None


def local_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def check_workers(
    workers: int, cores: int, where: str, option: str = "--workers-per-trial"
) -> None:
    """Require that one trial fits.

    Raises:
        InputError: naming the option.
    """
    if workers > cores:
        raise InputError(
            option,
            f"must be at most {cores}, the CPU cores of {where}, got {workers}",
            "use fewer workers or a larger cluster",
        )


def place(
    resources: Mapping[str, float],
    workers: int,
    asked: int | None,
    option: str = "--workers-per-trial",
) -> Placement:
    """Share the cluster out among trials.

    Args:
        resources: of the cluster, as Ray names them.
        workers: of a trial.
        asked: trials at a time that the user wants at most, or None.
        option: that set ``workers``.

    Raises:
        InputError: when not one trial fits.
    """
    cores = int(resources.get("CPU", 0))
    check_workers(workers, cores, "the Ray cluster", option)
    gpus = int(resources.get("GPU", 0))
    gpus_per_worker = 1.0 if gpus >= workers else 0.0
    # Trials that together ask for more than there is would wait for each other for ever.
    fit = min(cores, gpus) // workers if gpus_per_worker else cores // workers
    return Placement(
        max_concurrent=min(asked or fit, fit), threads=1, gpus_per_worker=gpus_per_worker
    )


@contextmanager
def connected(address: str | None, *, distributed: bool) -> Iterator[Mapping[str, float]]:
    """Connect to a cluster, or start one on this machine for the time of the block.

    Args:
        address: of a running cluster, or None to start one.
        distributed: whether trials have worker groups: only with the dashboard up does Ray give
            a stopped group's resources back.

    Yields:
        The cluster's resources, as Ray names them.

    Raises:
        InputError: when nothing answers at ``address``.
    """
    # Our own handlers save the study on SIGINT and SIGTERM; Tune's would only stop its loop.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    # The journal is the state: Tune's own snapshots would cost time and are never read.
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "100000")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    # Ray gives a worker group a minute to start; on a busy machine importing torch takes longer.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray would let this variable, which a job's shell sets, overrule an address given here.
    if address != "auto":
        os.environ.pop("RAY_ADDRESS", None)
    import ray

    try:
        if address is None:
            ray.init(
                address="local",
                num_cpus=local_cores(),
                include_dashboard=distributed,
                dashboard_host="127.0.0.1",
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        else:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        if address is None:
            raise
        raise InputError(
            "--address",
            f"cannot connect to Ray at {address!r} ({str(error).splitlines()[0]})",
            "check the address, the token and that Ray's versions match",
        ) from None
    try:
        yield ray.cluster_resources()
    finally:
        ray.shutdown()
