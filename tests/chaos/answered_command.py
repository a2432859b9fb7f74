"""The command line in this process, with all that it may start taken away, and its answer judged.

A right answer is success, the attempt to start what was asked for, or exit code 2 with one line
that leaves everything as it was. Whatever else it does is a defect.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import signal
import socket
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esam_tune import cli
from esam_tune.errors import UNWANTED

# Beyond it an answer counts as none: a pipe that nobody writes to would be waited for without end.
LIMIT_SECONDS = 120
LONGEST_MESSAGE = 4_500
STARTED = "started"


class Started(BaseException):
    """All checks are passed: a cluster, a server or a training would be started now."""


class TooSlow(BaseException):
    """No answer within the limit."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a command said.

    Args:
        code: the exit code, ``started``, or None where it ended otherwise.
        out: on stdout.
        err: on stderr.
        seconds: that it took.
        cpu_seconds: of the process, in all its threads: what others do on the machine counts less.
        escaped: the traceback of what it let out, or "".
        left: what it made, changed or removed in its folder.
    """

    code: int | str | None
    out: str
    err: str
    seconds: float
    cpu_seconds: float
    escaped: str
    left: frozenset[str]


def defect(answer: Answer, arguments: Sequence[str]) -> str | None:
    """What is wrong with an answer, or None."""
    if answer.escaped:
        return answer.escaped
    if answer.code not in (0, 2, STARTED):
        return f"exit code {answer.code}: {answer.err[-500:]}"
    # A terminal acts on what it is shown.
    if UNWANTED.search(answer.out.replace("\r", "")) or UNWANTED.search(answer.err):
        return f"control characters in {answer.out[-300:]!r} {answer.err[-300:]!r}"
    if answer.code == 0:
        if "--json" in arguments and "--help" not in arguments:
            json.loads(answer.out, parse_constant=_no_number)
        return None
    if answer.code == STARTED:
        return None
    lines = answer.err.splitlines()
    # `spaces` has a line for each file that is wrong, and tells of those that are right, too.
    several = list(arguments[:1]) == ["spaces"]
    if not lines or (len(lines) > 1 and not several):
        return f"not one message: {answer.err[-500:]!r}"
    for line in lines:
        if not line.startswith("esam-tune") or "error: " not in line:
            return f"no message: {line!r}"
        if len(line) > LONGEST_MESSAGE:
            return f"a message of {len(line)} characters"
    if answer.out and not several:
        return f"output beside the message: {answer.out[:300]!r}"
    return f"left behind: {sorted(answer.left)[:5]}" if answer.left else None


def _no_number(text: str) -> Any:
    raise ValueError(f"no JSON: {text}")


def answered(arguments: Sequence[str], folder: Path) -> Answer:
    """Run the command in a folder.

    Args:
        arguments: of the command line.
        folder: to run in; it is compared before and after.
    """
    before = _files(folder)
    out, err = io.StringIO(), io.StringIO()
    code: int | str | None = None
    escaped = ""
    # The handler that an earlier run made writes to that run's stderr.
    logging.getLogger().handlers.clear()
    begun, worked = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _limited():
        try:
            code = cli.main(list(arguments))
        except Started:
            code = STARTED
        except TooSlow:
            escaped = f"no answer in {LIMIT_SECONDS} s: {traceback.format_exc(limit=-3)}"
        except BaseException:  # noqa: BLE001 - that is what is looked for
            escaped = traceback.format_exc(limit=-6)
    seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - worked
    after = _files(folder)
    left = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    return Answer(
        code=code,
        out=out.getvalue(),
        err=err.getvalue(),
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        escaped=escaped,
        left=frozenset(left),
    )


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for name, folders, files in os.walk(folder):
        for entry in (*folders, *files):
            path = os.path.join(name, entry)  # noqa: PTH118 - names need not be UTF-8
            state = os.lstat(path)
            # A folder's time says that something was in it for a moment: what is left counts.
            changed = 0 if os.path.isdir(path) else state.st_mtime_ns  # noqa: PTH112
            found[path] = (state.st_ino, changed)
    return found


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def late(*_: Any) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def forbid_starts(monkeypatch: Any) -> None:
    """Let nothing be started or reached outside of this process, and no step be timed for long.

    Clusters, servers and trainings raise :class:`Started`; names of other hosts are unknown, as
    without a network; the dry run's steps of a large or compiled network are not timed.
    """
    import esam_tune.step_probe
    import esam_tune.study.cluster
    import esam_tune.study.sweep
    import esam_tune.tracking.spool
    from esam_tune import trial

    def start(*_: Any, **__: Any) -> Any:
        raise Started

    monkeypatch.setattr(esam_tune.study.cluster, "connected", start)
    monkeypatch.setattr(esam_tune.tracking.spool.Tracker, "ship_all", start)
    monkeypatch.setattr(os, "execv", start)
    monkeypatch.setattr(trial, "run_worker", start)
    real_probe, real_names = esam_tune.step_probe.probe_steps, socket.getaddrinfo

    def probe(task: Any, training: Any, *rest: Any, **__: Any) -> Any:
        if task.model == "small_cnn" and not training.compile:
            return real_probe(task, training, *rest, seconds=0.1)
        return [0.01, 0.01, 0.02], [0.02, 0.02, 0.04]

    def names(host: Any, *rest: Any, **named: Any) -> Any:
        if isinstance(host, str):
            host.encode("idna")
            if not host.replace(".", "").isdigit() and host not in ("localhost", "::1"):
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real_names(host, *rest, **named)

    monkeypatch.setattr(esam_tune.step_probe, "probe_steps", probe)
    monkeypatch.setattr(socket, "getaddrinfo", names)
