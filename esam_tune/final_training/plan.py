"""What a final training is to do, and all that can be checked before it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from esam_tune.checkpoint_storage import check_checkpoint_storage, normalise
from esam_tune.config import TrialSettings, check_precision, trial_settings
from esam_tune.errors import InputError
from esam_tune.final_training.folder import TrainingFolder, training_folder
from esam_tune.final_training.record import TrainingRecord
from esam_tune.study import cluster
from esam_tune.study.awaited_room import Room, check_room
from esam_tune.study.folder import check_storage
from esam_tune.study.placement import WorkerShape, place
from esam_tune.study.space import check_name
from esam_tune.tracking.store import check_form, check_uri, local_uri, without_credentials
from esam_tune.trial import MAX_FAILURES
from esam_tune.worker_scaling import ScaledSettings, WorkerRule, scale_settings


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How a setting is trained, as opposed to what it is.

    Args:
        storage: folder that receives ``models/NAME/``.
        name: of the run: a new folder, or that of the training to resume.
        workers: processes that train it together; None for one, or as many as before.
        rule: what becomes of the setting when it was found with another worker count; None for
            ``WorkerRule()``, or the one before.
        shape: what each worker takes.
        room: that the cluster is to make before the training begins, or None for what there is.
        threads: CPU cores of a single local worker; None for all there are, or as many as before.
        checkpoint_storage: folder that all nodes share, or URI, for the checkpoints of a training
            on a cluster; None for ``storage``.
        max_failures: restarts after a lost process, worker or node.
        tracking_uri: of MLflow, or None for the store inside ``storage``.
        address: of a Ray cluster for more than one worker, or None to start one.
        resume: whether to go on with the training of that name.
        register: name in MLflow's model registry that receives the model as its next version, or
            None.
    """

    storage: Path
    name: str
    workers: int | None = None
    rule: WorkerRule | None = None
    shape: WorkerShape = field(default_factory=WorkerShape)
    room: Room | None = None
    threads: int | None = None
    checkpoint_storage: str | None = None
    max_failures: int = MAX_FAILURES
    tracking_uri: str | None = None
    address: str | None = None
    resume: bool = False
    register: str | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A training that has been checked as far as can be without a cluster.

    Args:
        folder: of the training.
        found: the settings as they were found.
        scaled: as they are on so many workers.
        threads: CPU cores of a single local worker.
        checkpoint_storage: folder or URI, normalised, or None.
        uri: of MLflow, with its credentials.
        dataset: digest of its training and validation data.
    """

    folder: TrainingFolder
    found: TrialSettings
    scaled: ScaledSettings
    threads: int
    checkpoint_storage: str | None
    uri: str
    dataset: Mapping[str, Any]

    @property
    def settings(self) -> TrialSettings:
        """The settings that are trained."""
        return self.scaled.settings

    @property
    def workers(self) -> int:
        """Processes that train together."""
        return self.scaled.effective.workers

    def beginning(self) -> dict[str, Any]:
        """What the journal's first event says of it, in JSON values."""
        local = self.uri == local_uri(self.folder.storage)
        return {
            "settings": self.found.to_dict(),
            "workers": self.workers,
            "rule": asdict(self.scaled.rule),
            "threads": self.threads,
            "checkpoint_storage": self.checkpoint_storage,
            # The store inside the storage is found by the storage, wherever that is moved to.
            "tracking_uri": None if local else without_credentials(self.uri),
            "dataset": self.dataset,
        }


def draw_up(settings: TrialSettings, options: TrainOptions) -> Plan:
    """Check all that needs no cluster.

    Args:
        settings: as they were found.
        options: how they are trained.

    Raises:
        InputError: naming what is wrong; nothing is left behind.
    """
    if options.register is not None:
        check_name("--register", options.register)
    check_storage(options.storage)
    folder = training_folder(options.storage, options.name)
    cluster.check_address(options.address)
    if options.resume:
        folder.require_started()
        return _resumed(settings, options, folder)
    folder.require_new()
    uri = options.tracking_uri or local_uri(options.storage)
    if uri != local_uri(options.storage):
        check_uri(uri)
    shared = options.checkpoint_storage
    return _checked(
        settings,
        options,
        folder,
        workers=options.workers or 1,
        rule=options.rule or WorkerRule(),
        threads=options.threads or cluster.local_cores(),
        checkpoint_storage=None if shared is None else normalise(shared),
        uri=uri,
    )


def _resumed(settings: TrialSettings, options: TrainOptions, folder: TrainingFolder) -> Plan:
    """The plan of a training under way: what is not said anew stays as it was."""
    started = TrainingRecord.read(folder.journal).started
    kept = trial_settings(started["settings"])
    for section in ("task", "training", "params", "seed", "origin"):
        _require_same("SETTINGS", section, kept, settings)
    rule = options.rule or WorkerRule(**started["rule"])
    shared, uri = options.checkpoint_storage, started["tracking_uri"] or local_uri(folder.storage)
    chosen: dict[str, Any] = {
        "workers": options.workers or started["workers"],
        "rule": asdict(rule),
        "checkpoint_storage": started["checkpoint_storage"]
        if shared is None
        else normalise(shared),
        "tracking_uri": without_credentials(options.tracking_uri or uri),
    }
    before = {**started, "tracking_uri": without_credentials(uri)}
    options_of = {"workers": "--workers", "rule": "--batch-rule and --lr-rule"}
    for key, value in chosen.items():
        if value != before[key]:
            option = options_of.get(key, f"--{key.replace('_', '-')}")
            raise InputError(
                option,
                f"model {folder.name!r} is trained with {_shown(before[key])}, got {_shown(value)}",
                "leave the option out, or train another --name",
            )
    # A training that is under way goes on without its server, which gets everything later.
    if uri != local_uri(folder.storage):
        check_form(options.tracking_uri or uri)
    plan = _checked(
        kept,
        options,
        folder,
        workers=chosen["workers"],
        rule=rule,
        threads=options.threads or started["threads"],
        checkpoint_storage=chosen["checkpoint_storage"],
        uri=options.tracking_uri or uri,
    )
    if plan.dataset != started["dataset"]:
        raise InputError(
            "task",
            f"the data of model {folder.name!r} has changed since its training began (digest "
            f"{started['dataset']['digest']}, now {plan.dataset['digest']})",
            "bring the data back, or train another --name",
        )
    return plan


def _checked(
    settings: TrialSettings,
    options: TrainOptions,
    folder: TrainingFolder,
    *,
    workers: int,
    rule: WorkerRule,
    threads: int,
    checkpoint_storage: str | None,
    uri: str,
) -> Plan:
    if options.address is None:
        nodes, shape = cluster.local_nodes(), options.shape
        here = place(nodes, workers, 1, "--workers", shape=shape, where="this machine")
        check_precision(settings.training, gpu=here.gpus_per_worker > 0)
    check_room(options.room, workers, "training")
    if checkpoint_storage is not None:
        check_checkpoint_storage(checkpoint_storage)
    from esam_tune.tasks.data import check_batch_size, checked_train_split, load_split
    from esam_tune.tasks.digest import data_digest

    scaled = scale_settings(settings, workers, rule)
    batch_size = scaled.settings.training.batch_size
    check_batch_size(batch_size, workers, checked_train_split(settings.task))
    # Found missing at the end, it would cost the whole training. Its images are not evaluated here.
    load_split(settings.task, "test")
    return Plan(
        folder=folder,
        found=settings,
        scaled=scaled,
        threads=threads,
        checkpoint_storage=checkpoint_storage,
        uri=uri,
        dataset=data_digest(settings.task),
    )


def _require_same(field: str, section: str, kept: TrialSettings, asked: TrialSettings) -> None:
    before, now = kept.to_dict()[section], asked.to_dict()[section]
    if before == now:
        return
    if not isinstance(before, Mapping):
        before, now, prefix = {section: before}, {section: now}, ""
    else:
        prefix = f"{section}."
    key = next(key for key in {**before, **now} if before.get(key) != now.get(key))
    raise InputError(
        field,
        f"has {prefix}{key} {_shown(now.get(key))}, and the training to resume was begun with "
        f"{_shown(before.get(key))}",
        "name the settings file it was begun with, or train another --name",
    )


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {part}" for key, part in value.items())
    return "none" if value is None else str(value)
