"""When a study's driver is killed: moments drawn from a stated distribution, and waited for."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from isolated_sweep import IsolatedSweep

# Share of the moments of each kind, what they are counted from, and the most seconds after it.
# Within these the delay is uniform.
KINDS: dict[str, tuple[float, float]] = {
    # After the process' start: before Ray, while Ray starts, before the first trial goes on.
    "start": (0.25, 9.0),
    # After the process' first event, which it writes when Ray is up.
    "running": (0.35, 9.0),
    # After a worker has begun to write a checkpoint: in it, or on its way to the storage.
    "checkpoint": (0.20, 0.05),
    # After the end of a trial is recorded: Optuna is told, the next one is asked for and begins.
    "between": (0.20, 0.3),
}
# After the end of the last trial is recorded: results are written, MLflow gets the last of them.
END, _END_SECONDS = "end", 1.5
# Share of the kills that take all of the study's processes at once, as a machine's end does.
EVERYTHING = 0.3


@dataclass(frozen=True)
class Moment:
    """A kill to come.

    Args:
        kind: one of ``KINDS``, or ``END``.
        delay: seconds after what the kind is counted from.
        everything: whether all of the study's processes are killed, or its driver alone.
    """

    kind: str
    delay: float
    everything: bool


def moments(count: int, ends: int, dice: random.Random) -> list[Moment]:
    """So many moments in random order, and at last some at the study's end."""
    kinds = dice.choices(list(KINDS), [share for share, _ in KINDS.values()], k=count - ends)
    most = {kind: seconds for kind, (_, seconds) in KINDS.items()} | {END: _END_SECONDS}
    return [
        Moment(kind, dice.uniform(0, most[kind]), dice.random() < EVERYTHING)
        for kind in [*kinds, *[END] * ends]
    ]


def wait_for(moment: Moment, sweep: IsolatedSweep, over: Callable[[], bool]) -> bool:
    """Wait for a moment of a process that was just started.

    Args:
        moment: to come.
        sweep: the process.
        over: whether the study's last run has ended.

    Returns:
        False when the process ended by itself before.
    """
    # A worker that was killed in a checkpoint may have left its folder.
    known = sweep.checkpoints_in_writing()
    if moment.kind == "start":
        base = sweep.began
    else:
        ready = sweep.until(lambda: sweep.new_events("study", "study_resume"))
        before = len(sweep.events("trial_end"))
        if moment.kind == "between":
            ready = ready and sweep.until(lambda: len(sweep.events("trial_end")) > before)
        elif moment.kind == "checkpoint":
            ready = ready and sweep.until(lambda: sweep.checkpoints_in_writing() - known)
        elif moment.kind == END:
            ready = ready and sweep.until(over)
        if not ready:
            return False
        base = time.monotonic()
    return sweep.until(lambda: time.monotonic() - base >= moment.delay)
