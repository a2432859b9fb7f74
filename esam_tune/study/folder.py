"""Where a study lives inside the storage, who may write it, and how it is found again."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from esam_tune import journal
from esam_tune.checkpoint_storage import join, remove
from esam_tune.errors import InputError, choose_from
from esam_tune.journal import Event
from esam_tune.study import lock
from esam_tune.study.record import StudyRecord
from esam_tune.study.space import check_name
from esam_tune.tracking.cursor import Cursor

_log = logging.getLogger(__name__)

_RESERVED = ("models", "scaling", "mlartifacts", "mlflow.db")
# Two databases alone take 1.3 before there is any trial.
_LEAST_FREE_MIB = 8


@dataclass(frozen=True, kw_only=True)
class StudyFolder:
    """Paths of one study.

    Args:
        storage: root of all studies, absolute.
        name: of the study.
    """

    storage: Path
    name: str

    @property
    def by_default(self) -> bool:
        """Whether a command that is given here finds it without ``--storage``."""
        here = working_folder()
        return here is not None and self.storage == here / "runs"

    @property
    def path(self) -> Path:
        """The study's own folder."""
        return self.storage / self.name

    @property
    def journal(self) -> Path:
        """The append-only record everything else is derived from."""
        return self.path / "journal.jsonl"

    @property
    def optuna(self) -> Path:
        """Optuna's SQLite database."""
        return self.path / "optuna.db"

    @property
    def cursor(self) -> Path:
        """How far the journal has reached the tracking server."""
        return self.path / "tracking.json"

    @property
    def chosen(self) -> Path:
        """Settings file of the chosen trial."""
        return self.path / "chosen.yaml"

    def exists(self) -> bool:
        """Whether a study has been started here: whether its journal holds a whole event."""
        try:
            with self.journal.open("rb") as file:
                return file.readline().endswith(b"\n")
        except OSError:
            return False

    def started_with(self) -> Event:
        """The journal's first event, which says how the study was started."""
        return next(journal.read(self.journal))[0]

    def optuna_name(self) -> str:
        """The study's name in an Optuna storage that may hold studies of other storages."""
        return f"{self.name}-{self.started_with()['study_id'][:8]}"

    def checkpoint_root(self) -> str:
        """Folder or URI of the study's checkpoints and Tune's files.

        In an object store studies of several storages may have the same name, so it bears the
        study's id.
        """
        started = self.started_with()
        shared = started.get("checkpoint_storage")
        if shared is None:
            return str(self.path / "tune")
        study_id = str(started["study_id"])[:12]
        # What lies there is removed in the end: no journal from elsewhere may name another place.
        if not (study_id.isascii() and study_id.isalnum()):
            raise journal.JournalError(self.journal, f"holds no study's id, but {study_id!r}")
        return join(shared, f"{self.name}-{study_id}")

    def new_tune_folder(self) -> str:
        """A place for Tune's files of one process, named by a count."""
        root = self.path / "tune"
        root.mkdir(exist_ok=True)
        used = [int(folder.name) for folder in root.iterdir() if folder.name.isdigit()]
        name = f"{max(used, default=-1) + 1:03d}"
        # Also where the files go elsewhere: it is what counts.
        (root / name).mkdir()
        return join(self.checkpoint_root(), name)

    def drop_tune_folders(self) -> None:
        """Remove checkpoints and Tune's files, which a finished study has no use for."""
        root = self.checkpoint_root()
        try:
            remove(root)
        except (OSError, ValueError) as error:
            _log.warning("checkpoints at %s could not be removed (%s)", root, error)
        shutil.rmtree(self.path / "tune", ignore_errors=True)

    def record(self) -> StudyRecord:
        """What the journal tells.

        Raises:
            InputError: when there is no such study.
        """
        if not self.exists():
            self._require_readable()
            names = sorted(p.parent.name for p in self.storage.glob("*/journal.jsonl"))
            remedy = choose_from(names, self.name) if names else "run `esam-tune sweep` first"
            raise InputError("STUDY", f"no study {self.name!r} in {str(self.storage)!r}", remedy)
        return StudyRecord.from_journal(self.journal)

    def _require_readable(self) -> None:
        """Tell a journal that cannot be read from one that is not there."""
        try:
            self.journal.open("rb").close()
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            raise InputError(
                "STUDY",
                f"cannot read {str(self.journal)!r} ({error.strerror})",
                "see to the file's permissions and its disk",
            ) from None

    def tracked(self) -> Cursor:
        """Run ids on the tracking server."""
        return Cursor.load(self.cursor)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the study for this process; a lock that a dead process left is recovered.

        Where no study comes of it, nothing is left behind.

        Raises:
            InputError: when another process holds it, or the folder cannot be written.
        """
        made = [path for path in (self.path, *self.path.parents) if not path.exists()]
        file = self.path / "lock"
        with ExitStack() as held:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                held.enter_context(lock.exclusive(file))
            except lock.Held as other:
                raise InputError(
                    "--name",
                    f"study {self.name!r} is being run by {other}",
                    "wait for it, stop it, or choose another name",
                ) from None
            except OSError as error:
                _remove_empty(made)
                raise InputError(
                    "--storage",
                    f"cannot write to {str(self.path)!r} ({error.strerror})",
                    "make the study's folder writable, or choose another --storage",
                ) from None
            try:
                yield
            finally:
                if not self.exists():
                    with suppress(OSError):
                        file.unlink(missing_ok=True)
                    _remove_empty(made)


def working_folder() -> Path | None:
    """The folder that this process runs in, or None if it is gone.

    Ray takes a job's away where another node of the same host unpacks the upload once more.
    """
    try:
        return Path.cwd()
    except FileNotFoundError:
        return None


def study_folder(storage: Path, name: str, field: str = "STUDY") -> StudyFolder:
    """The folder of a study; nothing is created.

    Raises:
        InputError: for a name that could leave the storage.
    """
    if check_name(field, name) in _RESERVED:
        raise InputError(field, f"{name!r} is a name the storage itself uses", "choose another")
    folder = StudyFolder(storage=storage.absolute(), name=name)
    # A study's folder is emptied of checkpoints when it ends: not another place by another name.
    with suppress(OSError):
        if folder.path.is_symlink():
            raise InputError(
                field,
                f"{name!r} is a link in {str(folder.storage)!r}, not a study's own folder",
                "give --storage the folder that holds the study itself",
            )
    return folder


def check_storage(storage: Path) -> None:
    """Require that the storage can be written; a folder made for the check is removed again.

    Raises:
        InputError: naming ``--storage``.
    """
    if "://" in str(storage) or ":/" in str(storage):
        raise InputError(
            "--storage",
            f"must be a folder, got {str(storage)!r}",
            "mount it, or use a local folder; --checkpoint-storage takes a URI",
        )
    made: list[Path] = []
    try:
        for folder in (*reversed(storage.absolute().parents), storage.absolute()):
            if not folder.exists():
                folder.mkdir()
                made.append(folder)
        with tempfile.TemporaryFile(dir=storage):
            pass
        free = shutil.disk_usage(storage).free >> 20
        if free < _LEAST_FREE_MIB:
            raise InputError(
                "--storage",
                f"must have {_LEAST_FREE_MIB} MiB free, and {str(storage)!r} has {free}",
                "make room, or choose another folder",
            )
    except OSError as error:
        raise InputError(
            "--storage",
            f"cannot write to {str(storage)!r} ({error.strerror})",
            "choose a folder you can write to",
        ) from None
    finally:
        _remove_empty(reversed(made))


def names_in(folder: Path) -> set[str]:
    """What a folder holds; nothing where there is none, or none that can be read."""
    with suppress(OSError):
        return {path.name for path in folder.iterdir()}
    return set()


@contextmanager
def reserved_folder(path: Path, field: str) -> Iterator[Path]:
    """Make a new folder, which no other process may make meanwhile, for what the block puts there.

    Left empty, it goes again, together with folders made above it.

    Raises:
        InputError: naming ``field``, when it exists.
    """
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        raise InputError(
            field, f"{path.name!r} exists in {str(path.parent)!r}", f"choose another {field}"
        ) from None
    try:
        yield path
    finally:
        _remove_empty(made)


def _remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders, innermost first, that nothing was put into meanwhile."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
