"""Studies in Python: run one, find one again, look at it, pick from it."""

from __future__ import annotations

import inspect
import signal
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from esam_tune.errors import RunFailedError
from esam_tune.interface.arguments import STORAGE, StrPath, storage_folder, text
from esam_tune.interface.calls import interruptible, named_arguments, pass_on, taking
from esam_tune.interface.requests import SweepRequest, refine_request, sweep_request
from esam_tune.pareto_front import Rule
from esam_tune.study.comparison import Comparison, Pick
from esam_tune.study.folder import StudyFolder, study_folder
from esam_tune.study.results import DEFAULT_RULE
from esam_tune.trial import MAX_EPOCH_SECONDS, MAX_FAILURES

if TYPE_CHECKING:
    from rich.console import Console

    from esam_tune.study.dry_run import DryRun
    from esam_tune.study.execution import SweepResult

_BOUNDS = ("pick", "max", "min")
# What ended a study before its end.
_SIGNALS = {"interrupted": signal.SIGINT, "terminated": signal.SIGTERM}
_UNBOUNDED: Mapping[str, float] = MappingProxyType({})
_BEGINNING = "the study before its first trial"


class Study:
    """A stored study, read anew each time, so that it also follows one that still runs.

    Made by :func:`sweep` and :func:`load_study`. Rows of :attr:`trials` and :attr:`front` are flat
    dicts, which ``pandas.DataFrame`` takes as they are.
    """

    def __init__(self, folder: StudyFolder) -> None:
        self._folder = folder

    @property
    def name(self) -> str:
        """Of the study."""
        return self._folder.name

    @property
    def path(self) -> Path:
        """Its folder: pictures, tables, settings, the journal."""
        return self._folder.path

    @property
    def trials(self) -> list[dict[str, Any]]:
        """Every trial that has begun, in the order of starting, a row each.

        ``study``, ``trial_id``, ``label``, ``state``, ``baseline``, ``on_front``, ``seeds``, then
        its parameters, its last metrics (means over the seeds, in the units of ``docs/``), and
        each objective's standard error as ``METRIC_stderr``, None for one seed.
        """
        return self._front().trials

    @property
    def front(self) -> list[dict[str, Any]]:
        """The front under the study's own constraints, by cost; rows as in :attr:`trials`."""
        return self._front().front

    def document(self) -> dict[str, Any]:
        """What ``esam-tune sweep --json`` prints of it."""
        return self._front().document()

    def pick(
        self,
        rule: Rule = DEFAULT_RULE,
        *,
        max: Mapping[str, float] = _UNBOUNDED,  # noqa: A002 - the option's name
        min: Mapping[str, float] = _UNBOUNDED,  # noqa: A002
    ) -> Pick | None:
        """The setting to carry on with; None when no complete trial keeps the constraints.

        Args:
            rule: ``accuracy``, ``cost`` or ``knee``.
            max: metric -> upper bound, in place of the study's own for that metric.
            min: metric -> lower bound, likewise.

        Raises:
            InputError: for an unknown rule or metric, or bounds that exclude each other.
        """
        with named_arguments(*_BOUNDS):
            return self._front(rule, max, min).chosen

    def export(
        self,
        path: StrPath,
        rule: Rule = DEFAULT_RULE,
        *,
        max: Mapping[str, float] = _UNBOUNDED,  # noqa: A002 - the option's name
        min: Mapping[str, float] = _UNBOUNDED,  # noqa: A002
    ) -> Path:
        """Write the settings file of what :meth:`pick` picks; its path.

        Args:
            path: of the file, a YAML one.
            rule: as of :meth:`pick`.
            max: likewise.
            min: likewise.

        Raises:
            InputError: as :meth:`pick`, when there is nothing to export, or the file cannot be
                written.
        """
        with named_arguments(*_BOUNDS, "export"):
            return self._front(rule, max, min).export(Path(text("path", path)))

    def refine(
        self,
        *,
        seeds: int,
        gpus_per_worker: float | None = None,
        cpus_per_worker: int | None = None,
        max_failures: int = MAX_FAILURES,
        max_epoch_seconds: int = int(MAX_EPOCH_SECONDS),
        address: str | None = None,
        await_workers: int | None = None,
        tracking_uri: str | None = None,
        console: Console | None = None,
    ) -> Study:
        """Run the front and the baselines until each has so many seeds; the study itself.

        Args:
            seeds: that each is to have, those it has included.
            gpus_per_worker: GPUs of each worker, or its share of one.
            cpus_per_worker: CPU cores of each.
            max_failures: restarts of a run after a lost process or node.
            max_epoch_seconds: without a report for so long, a run has hung and fails.
            address: of a running Ray cluster; None starts one for the time of the call.
            await_workers: room for so many that the cluster is to make before anything begins;
                needs ``address`` and ``gpus_per_worker``.
            tracking_uri: of MLflow; the study's own, which may need its password again.
            console: receives the progress; stderr by default.

        Raises:
            InputError: for what cannot be used, before anything starts.
            KeyboardInterrupt: after an interruption; what was run is kept, and called again it
                goes on.
        """
        from esam_tune.study.sweep import refine

        with named_arguments(*inspect.signature(refine_request).parameters):
            request = refine_request(
                self.name,
                seeds=seeds,
                gpus_per_worker=gpus_per_worker,
                cpus_per_worker=cpus_per_worker,
                max_failures=max_failures,
                max_epoch_seconds=max_epoch_seconds,
                address=address,
                await_workers=await_workers,
                tracking_uri=tracking_uri,
                storage=self._folder.storage,
                console=console,
            )
            with interruptible(_BEGINNING):
                result = refine(request.folder, request.seeds, request.options, request.console)
        return _ended(result)

    def report(self, out: StrPath | None = None) -> Path:
        """Write the study as one HTML file; its path.

        Args:
            out: folder that receives ``report.html``; the study's own by default.

        Raises:
            InputError: when the folder cannot be written.
        """
        from esam_tune.study_report import write_report

        with named_arguments("out"):
            return write_report(self._folder, None if out is None else Path(text("--out", out)))

    def __repr__(self) -> str:
        """Name it."""
        return f"<study {self.name!r} in {str(self._folder.storage)!r}>"

    def _repr_html_(self) -> str:
        """The front, as a notebook shows it."""
        return self._front()._repr_html_()

    def _front(
        self,
        rule: Rule = DEFAULT_RULE,
        maximum: Mapping[str, float] = _UNBOUNDED,
        minimum: Mapping[str, float] = _UNBOUNDED,
    ) -> Comparison:
        return Comparison([self._folder], rule=rule, maximum=maximum, minimum=minimum)


@taking(sweep_request)
def sweep(request: SweepRequest) -> Study:
    """Run the study that a space describes, or with ``resume=True`` the rest of one.

    Returns:
        The study, at its end.

    Raises:
        InputError: for what can be seen to be wrong before anything starts.
        RunFailedError: when no trial reached its end.
        KeyboardInterrupt: after an interruption; everything is saved, and ``resume=True`` goes on.
    """
    from esam_tune.study.sweep import sweep

    with interruptible(_BEGINNING):
        result = sweep(request.space, request.overrides, request.options, request.console)
    return _ended(result)


@taking(sweep_request)
def dry_run(request: SweepRequest) -> DryRun:
    """Find out what :func:`sweep` would do with these arguments; nothing is started.

    Returns:
        Trials, first proposals, predicted cost and time: printed, or as ``document()``.

    Raises:
        InputError: as of :func:`sweep`.
    """
    from esam_tune.study.dry_run import dry_run
    from esam_tune.study.preflight import preflight

    plan = preflight(request.space, request.overrides, request.options)
    return dry_run(plan, request.options.shape, request.options.address)


def load_study(name: str, *, storage: StrPath = STORAGE) -> Study:
    """A study that was run before, or runs now.

    Args:
        name: of the study.
        storage: folder of all studies.

    Raises:
        InputError: when there is no such study.
    """
    with named_arguments("name", "storage"):
        folder = study_folder(storage_folder(storage), name)
        folder.record()
    return Study(folder)


def _ended(result: SweepResult) -> Study:
    """The study, or the exception that its end is to the caller."""
    name = result.folder.name
    if result.outcome in _SIGNALS:
        again = "the same call goes on with it, a sweep's with resume=True"
        message = f"study {name!r} was interrupted and is saved; {again}"
        pass_on(_SIGNALS[result.outcome], message)
    if result.outcome == "failed":
        reasons = [trial.reason for trial in result.record.finished if trial.reason]
        first = f"; the first: {reasons[0]}" if reasons else ""
        raise RunFailedError(f"study {name!r}: no trial reached its end{first}")
    return Study(result.folder)
