"""Where a final training lives inside the storage, and who may write it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from esam_tune.config import TrialSettings
from esam_tune.errors import InputError, choose_from
from esam_tune.study import lock
from esam_tune.study.folder import names_in, reserved_folder

_MODELS = "models"


@dataclass(frozen=True, kw_only=True)
class TrainingFolder:
    """Paths of one training.

    Args:
        storage: that it belongs to, absolute.
        name: of the training.
    """

    storage: Path
    name: str

    @property
    def path(self) -> Path:
        """The training's own folder."""
        return self.storage / _MODELS / self.name

    @property
    def journal(self) -> Path:
        """The append-only record that a killed training is taken up from."""
        return self.path / "journal.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints of a training under way, where they have no storage of their own."""
        return self.path / "checkpoints"

    @property
    def weights(self) -> Path:
        """State dict of the trained network."""
        return self.path / "weights.pt"

    @property
    def result(self) -> Path:
        """The document that ``esam-tune train --json`` prints."""
        return self.path / "result.json"

    def exists(self) -> bool:
        """Whether the name is taken."""
        return self.path.exists()

    def started(self) -> bool:
        """Whether a training has been started here: whether its journal holds a whole event."""
        try:
            with self.journal.open("rb") as file:
                return file.readline().endswith(b"\n")
        except OSError:
            return False

    def require_new(self) -> None:
        """Require that the name is free.

        Raises:
            InputError: naming ``--name``.
        """
        if self.exists():
            raise InputError(
                "--name",
                f"a model {self.name!r} exists in {str(self.path.parent)!r}",
                "choose another --name" + (", or add --resume" if self.started() else ""),
            )

    def require_started(self) -> None:
        """Require that there is a training to go on with.

        Raises:
            InputError: naming ``--name``.
        """
        if not self.started():
            known = [
                path.name
                for path in sorted(self.path.parent.glob("*"))
                if TrainingFolder(storage=self.storage, name=path.name).started()
            ]
            raise InputError(
                "--name",
                f"no training {self.name!r} to resume in {str(self.path.parent)!r}",
                choose_from(known, self.name) if known else "leave --resume out to start one",
            )

    @contextmanager
    def held(self, *, new: bool) -> Iterator[None]:
        """Hold the training for this process; of one that is forgotten the folder goes, too.

        Args:
            new: whether to make the folder, which no other process may make meanwhile.

        Raises:
            InputError: when another process has the name, or holds the training.
        """
        with reserved_folder(self.path, "--name") if new else nullcontext(), self._locked():
            try:
                yield
            finally:
                if not self.started():
                    self._lock.unlink(missing_ok=True)
                    with suppress(OSError):
                        self.path.rmdir()

    def forget(self) -> None:
        """Remove what is needed to go on with the training."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        with suppress(OSError):
            self.journal.unlink(missing_ok=True)

    @property
    def _lock(self) -> Path:
        return self.path / "lock"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            with lock.exclusive(self._lock):
                yield
        except lock.Held as other:
            raise InputError(
                "--name",
                f"model {self.name!r} is being trained by {other}",
                "wait for it, stop it, or choose another name",
            ) from None


def training_folder(storage: Path, name: str) -> TrainingFolder:
    """The folder of a training; nothing is created."""
    return TrainingFolder(storage=storage.absolute(), name=name)


def default_name(settings: TrialSettings, storage: Path) -> str:
    """A name that is not taken: the study and trial the settings come from, and a count."""
    origin = settings.origin
    known = {"study", "trial_id"} <= origin.keys()
    stem = f"{origin['study']}-{origin['trial_id']}" if known else "model"
    taken = names_in(storage / _MODELS)
    count = 1
    while (name := stem if count == 1 else f"{stem}-{count}") in taken:
        count += 1
    return name
