"""How far a study's journal has reached a tracking server, kept beside the journal."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from esam_tune.tracking.store import without_credentials


@dataclass(kw_only=True)
class Cursor:
    """How far the journal has been shipped, and the runs made so far.

    Args:
        offset: bytes of the journal that have been dealt with.
        parent_run_id: of the study's run.
        run_ids: id of a trial, or of one of its further seeds -> run id.
        set_aside: what the server refused although it took other things: the event's first byte,
            as text, -> the server's answer. Tried again now and then, and by the next process.
        viewed: the offset at which description and tags were last brought up to date.
    """

    offset: int = 0
    parent_run_id: str | None = None
    run_ids: dict[str, str] = field(default_factory=dict)
    set_aside: dict[str, str] = field(default_factory=dict)
    viewed: int = 0

    @classmethod
    def load(cls, path: Path) -> "Cursor":
        """Read a cursor; a fresh one when there is none or it is torn.

        Starting over is safe: runs are found again by their tags.
        """
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return cls()

    @classmethod
    def following(cls, path: Path, journal: Path) -> "Cursor":
        """Read the cursor of a journal; one that begins anew where the journal is another.

        A power loss may take the journal's last epochs and leave the cursor, and an older copy may
        have taken the journal's place: then no event ends where the cursor stands, and it would
        pass over what is written there from now on.
        """
        cursor = cls.load(path)
        if cursor.offset and not _event_ends_at(journal, cursor.offset):
            cursor.forget()
        return cursor

    def forget(self) -> None:
        """Start over: the server has none of it."""
        self.offset = self.viewed = 0
        self.run_ids, self.set_aside = {}, {}

    def save(self, path: Path) -> None:
        """Replace the file in one go."""
        scratch = path.with_suffix(".tmp")
        with scratch.open("w", encoding="utf-8") as file:
            json.dump(asdict(self), file)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)


def _event_ends_at(journal: Path, offset: int) -> bool:
    with journal.open("rb") as file:
        file.seek(offset - 1)
        return file.read(1) == b"\n"


def cursor_for(own: Path, own_uri: str, uri: str) -> Path:
    """The cursor's file of a server: each has its own, the study's server the plain one.

    Args:
        own: of the study's server.
        own_uri: its address.
        uri: of the server that is shipped to. Credentials make no difference.
    """
    address = without_credentials(uri)
    if address == without_credentials(own_uri):
        return own
    digest = hashlib.sha256(address.encode()).hexdigest()[:12]
    return own.with_name(f"{own.stem}-{digest}{own.suffix}")


@contextmanager
def turn(path: Path) -> Iterator[None]:
    """Wait for one's turn to ship with a cursor, and hold it; a dead process gives it back."""
    with path.with_suffix(".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
