"""A sweep, and more seeds for its front, from the first check to the last line."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console

from esam_tune.checkpoint_storage import OPTION
from esam_tune.domains import SEED
from esam_tune.errors import InputError
from esam_tune.study import cluster
from esam_tune.study.awaited_room import with_room
from esam_tune.study.execution import SweepResult, carry_out
from esam_tune.study.node_data import check_all_nodes_have
from esam_tune.study.preflight import Plan, SweepOptions, check_plan, draw_up, preflight
from esam_tune.study.shared_storage import check_all_nodes_see
from esam_tune.study.signals import raise_on_signals, stop_on_signals
from esam_tune.study.space import Overrides
from esam_tune.study.spec import StudySpec

if TYPE_CHECKING:
    from esam_tune.study.agenda import Agenda
    from esam_tune.study.folder import StudyFolder
    from esam_tune.study.proposals import Proposals
    from esam_tune.study.record import StudyRecord


def sweep(
    space: StudySpec, overrides: Overrides, options: SweepOptions, console: Console
) -> SweepResult:
    """Run a study, or the rest of one.

    Args:
        space: what the space file asks.
        overrides: what the command line asks instead.
        options: how it is run.
        console: receives the live table.

    Raises:
        InputError: for whatever can be seen to be wrong before anything starts.
    """
    from esam_tune.study.agenda import SearchAgenda

    def plan_again() -> Plan:
        return draw_up(space, overrides, options)

    plan = preflight(space, overrides, options)
    for start in plan.warm_start:
        console.print(start.notice(plan.spec.sampler), soft_wrap=True)
    return _run(plan, plan_again, options, SearchAgenda, console)


def refine(folder: StudyFolder, seeds: int, options: SweepOptions, console: Console) -> SweepResult:
    """Spend more seeds on a study's front, so that the winner is not the luckiest.

    Each member of the front and each baseline is run until it has so many seeds; what comes onto
    the front as others leave it gets them, too. Nothing new is proposed.

    Args:
        folder: of the study.
        seeds: that each is to have.
        options: how it is run.
        console: receives the live table.

    Raises:
        InputError: for whatever can be seen to be wrong before anything starts.
    """
    from esam_tune.study.agenda import RefineAgenda

    resumed = replace(options, storage=folder.storage, resume=True)

    def plan_again() -> Plan:
        return draw_up(folder.record().spec, Overrides(), resumed)

    record = folder.record()
    if not record.front():
        raise InputError(
            "STUDY", f"{folder.name!r} has no front yet", "run or resume its sweep first"
        )
    if record.spec.seed + seeds - 1 > SEED.high:
        raise InputError("--seeds", f"must keep seeds at or below {SEED.high}", "lower it")
    plan = plan_again()
    check_plan(plan, resumed)

    def agenda_for(record: StudyRecord, _: Proposals) -> Agenda:
        return RefineAgenda(record, seeds)

    return _run(plan, plan_again, resumed, agenda_for, console)


def _run(
    plan: Plan,
    plan_again: Callable[[], Plan],
    options: SweepOptions,
    agenda_for: Callable[[StudyRecord, Proposals], Agenda],
    console: Console,
) -> SweepResult:
    with stop_on_signals() as stop, ExitStack() as held:
        # Until a trial starts there is nothing to save.
        with raise_on_signals():
            held.enter_context(plan.folder.lock())
            # Another process may have made or ended the study between the check and the lock.
            checked, plan = plan, plan_again()
            if plan != checked:
                check_plan(plan, options)
            found = held.enter_context(
                cluster.connected(options.address, distributed=plan.workers > 1)
            )
            found = with_room(found, options.room)
            placement = plan.place(found, options.shape, "the Ray cluster")
            where, field = plan.checkpoint_storage or str(plan.folder.path), "--storage"
            check_all_nodes_see(where, OPTION if plan.checkpoint_storage else field)
            check_all_nodes_have(plan.spec.task, placement.gpus_per_worker)
        return carry_out(plan, options, placement, agenda_for, stop, console)
