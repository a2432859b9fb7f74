"""The Ray cluster a study runs on: found or started, and what its nodes hold."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from esam_tune.errors import InputError, RunFailedError
from esam_tune.study.placement import Node
from esam_tune.study.process_end import children, ended_by_a_signal, kill_with_descendants
from esam_tune.study.ray_messages import kept_to_its_log, nodes_speak_to_the_logger
from esam_tune.study.signals import handlers_put_back

_log = logging.getLogger(__name__)

_CONNECT_SECONDS = 3.0
_LATE = "timed out during startup"
_DASHBOARD = "RAY_API_SERVER_ADDRESS"
_RAY_S = ("RAY_", "TUNE_")  # beginnings of its environment variables


def check_address(address: str | None) -> None:
    """Require that something answers at a Ray address before Ray itself, which waits long, tries.

    Raises:
        InputError: naming ``--address``.
    """
    if address is None or address == "auto":
        return
    host, _, port = address.rpartition(":")
    plain = port.isascii() and port.isdigit() and len(port) <= 5
    if "://" in address or not host or not plain or not 0 < int(port) < 65536:
        raise InputError(
            "--address",
            f"must be auto or HOST:PORT, got {address!r}",
            "use the address that `ray start --head` printed, or `ray job submit` from outside",
        )
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    # UnicodeError: a name that cannot be a host's.
    except (OSError, UnicodeError) as error:
        raise InputError(
            "--address",
            f"no Ray cluster answers at {address!r} ({getattr(error, 'strerror', None) or error})",
            "check the address and that the cluster is up",
        ) from None


def local_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def local_nodes() -> list[Node]:
    """This machine as a cluster of one node, without asking Ray."""
    import torch

    return [{"CPU": float(local_cores()), "GPU": float(torch.cuda.device_count())}]


def cluster_nodes() -> list[Node]:
    """Resources of each node of the connected cluster that runs now.

    Those that an autoscaler may add are not among them: Ray 2.60's tells nobody which these are.
    """
    import ray

    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


@contextmanager
def _own_dashboard() -> Iterator[int]:
    """A free port for the dashboard of the Ray that the block starts, told to its processes.

    What gives a stopped group's workers back asks a dashboard whether the group is still led, and
    looks for one by itself: beside another Ray of this machine it would find two and end, or find
    the other one, where the group is unknown, and take a running group's workers away.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    before = os.environ.get(_DASHBOARD)
    os.environ[_DASHBOARD] = f"http://127.0.0.1:{port}"
    try:
        yield port
    finally:
        if before is None:
            del os.environ[_DASHBOARD]
        else:
            os.environ[_DASHBOARD] = before


@contextmanager
def _no_handler_of_rays() -> Iterator[None]:
    """Leave SIGTERM to whom it was while Ray starts or connects.

    Ray's own handler would wait until the node is drained and then raise SystemExit wherever the
    process is: in a hook of fork, say, where it goes unnoticed and leaves a lock held for good.
    """
    from ray._private import utils

    def keep(_handler: object) -> None:
        pass

    installs = utils.set_sigterm_handler
    utils.set_sigterm_handler = keep
    try:
        yield
    finally:
        utils.set_sigterm_handler = installs


@contextmanager
def connected(address: str | None, *, distributed: bool) -> Iterator[list[Node]]:
    """Connect to a cluster, or start one on this machine for the time of the block.

    Args:
        address: of a running cluster, or None to start one.
        distributed: whether trials have worker groups: only with the dashboard up does Ray give
            a stopped group's resources back.

    Yields:
        The resources of each node that runs now.

    Raises:
        InputError: when nothing answers at ``address``, or the cluster there cannot take worker
            groups; when this process is connected already.
    """
    with ExitStack() as held:
        # Tune puts one of its own in SIGUSR1's place.
        held.enter_context(handlers_put_back(signal.SIGTERM, signal.SIGUSR1))
        known = held.enter_context(_variables(address))
        with ended_by_a_signal():
            if address is None:
                held.enter_context(_kept_to_this_machine())
            import ray

            if ray.is_initialized():
                raise InputError(
                    "--address",
                    "this process is connected to Ray already",
                    "call ray.shutdown() first; give the cluster's address to use that one",
                )
            held.enter_context(nodes_speak_to_the_logger())
            held.callback(ray.shutdown)
            # Ray's C++ has one for SIGTERM that prints a stack and three seconds later aborts.
            with handlers_put_back(signal.SIGTERM):
                _connect(address, known, distributed=distributed)
            held.enter_context(kept_to_its_log())
            nodes = cluster_nodes()
        yield nodes


@contextmanager
def _kept_to_this_machine() -> Iterator[None]:
    """Have a Ray of our own listen on loopback alone, and write no keys into its logs.

    Ray listens for other nodes, but where it holds clusters for impossible; the processes that it
    starts read that from the environment. Tune writes keys of object stores into each trial's
    runtime environment, which an agent logs; processes of this machine inherit them anyway.
    """
    from ray._private import ray_constants
    from ray.tune.execution import class_cache

    clusters: bool = ray_constants.ENABLE_RAY_CLUSTER
    passed_on: set[str] = class_cache.ENV_VARS_TO_PROPAGATE
    keys = {name for name in passed_on if name.startswith("AWS_")}
    ray_constants.ENABLE_RAY_CLUSTER = False
    # One of the variables that are put back afterwards.
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    passed_on -= keys
    try:
        yield
    finally:
        passed_on |= keys
        ray_constants.ENABLE_RAY_CLUSTER = clusters


@contextmanager
def _variables(address: str | None) -> Iterator[str | None]:
    """Ray's environment variables as the block needs them, and then as they were.

    Yields:
        The address as worker processes are to know it.
    """
    before = {key: value for key, value in os.environ.items() if key.startswith(_RAY_S)}
    # Our own handlers save the study on SIGINT and SIGTERM; Tune's would only stop its loop.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    # The journal is the state: Tune's own snapshots would cost time and are never read.
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "100000")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    # A trial's failure is a report without metrics, which a scheduler's check would choke on.
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray would let this variable, which a job's shell sets, overrule an address given here.
    known = os.environ.get("RAY_ADDRESS") if address == "auto" else address
    if address != "auto":
        os.environ.pop("RAY_ADDRESS", None)
    try:
        yield known
    finally:
        # A program that calls us, such as a notebook, may use Ray in its own way afterwards.
        for key in [key for key in os.environ if key.startswith(_RAY_S)]:
            del os.environ[key]
        os.environ.update(before)


def _start(*, distributed: bool) -> None:
    """Start a Ray of our own, and once more where it does not come up in Ray's half a minute.

    That happens where a machine has other things to do; nobody can ask Ray to wait longer.
    """
    import ray

    for patient in (True, False):
        before = children()
        try:
            with _own_dashboard() as port, _no_handler_of_rays():
                ray.init(
                    address="local",
                    num_cpus=local_cores(),
                    include_dashboard=distributed,
                    dashboard_host="127.0.0.1",
                    dashboard_port=port,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
            return
        # Ray raises a plain Exception for a node that did not start in time.
        except Exception as error:
            if not patient or _LATE not in str(error):
                raise
        _log.warning("Ray did not start within half a minute; trying once more")
        # Ray leaves them running until this process ends.
        for pid in children() - before:
            if str(Path(ray.__file__).parent) in _command_line(pid):
                kill_with_descendants(pid)


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _connect(address: str | None, known: str | None, *, distributed: bool) -> None:
    """Start a Ray of our own, or connect to the one at an address."""
    import ray

    try:
        if address is None:
            _start(distributed=distributed)
            return
        named = {"RAY_ADDRESS": known} if distributed and known else {}
        with _no_handler_of_rays():
            context = ray.init(
                address=address,
                runtime_env={"env_vars": named} if named else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        if address is None:
            raise RunFailedError(
                f"Ray did not start on this machine ({reason}); when it is less busy, repeat the "
                "command, with --resume if the study exists"
            ) from error
        if not isinstance(error, ConnectionError | RuntimeError | ValueError):
            raise
        raise InputError(
            "--address",
            f"cannot connect to Ray at {address!r} ({reason})",
            "check the address, the token and that Ray's versions match",
        ) from None
    if distributed and not context.dashboard_url:
        raise InputError(
            "--address",
            f"the Ray cluster at {address!r} runs without its dashboard, without which Ray "
            "never gives the workers of a stopped trial back",
            "install ray[default] on its head and start it with --include-dashboard=true",
        )
