"""What a run goes on from: the newest of its checkpoints that can be used."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from esam_tune.checkpoint_storage import fetched, siblings_before
from esam_tune.run_state import CheckpointError, load_state

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Resumption:
    """What was found.

    Args:
        state: of the worker, or None where there is nothing to go on from.
        refused: why each newer checkpoint was not used, newest first.
    """

    state: dict[str, Any] | None
    refused: tuple[str, ...]

    @property
    def epoch(self) -> int:
        """The epoch after which the run goes on; 0 begins it."""
        return 0 if self.state is None else int(self.state["epoch"])


def candidates(where: str, own: str | None, earlier: Iterable[str]) -> list[str]:
    """Checkpoint folders to try, newest first.

    Beside the one that Ray hands a restarted run there are those that it kept from before. What
    lies there and is newer was never registered, so its epochs may not have been reported: to go
    on from it would leave a gap in the run's history.

    Args:
        where: any place on the file system that holds them.
        own: path of the checkpoint that this attempt's predecessor registered last, or None.
        earlier: of earlier processes, newest first.
    """
    kept = [] if own is None else [own, *siblings_before(where, own)]
    return [*kept, *earlier]


def resume(where: str, paths: Iterable[str], rank: int, run: str) -> Resumption:
    """A worker's state from the first of these checkpoints that can be used.

    One that is torn, damaged or of another run is refused, and the next is tried; so a checkpoint
    that was lost costs the epochs since the one before it, and nothing else.

    Args:
        where: any place on the file system that holds them.
        paths: of the folders, without scheme, newest first.
        rank: of the worker.
        run: identity of the run, see :func:`esam_tune.run_state.run_identity`.

    Raises:
        OSError: when the storage cannot be reached. That says nothing about what lies there.
    """
    refused: list[str] = []
    for path in paths:
        try:
            with fetched(where, path) as folder:
                return Resumption(state=load_state(folder, rank, run), refused=tuple(refused))
        except CheckpointError as error:
            # Under the name that it has in the storage, not that of a copy.
            refused.append(str(CheckpointError(path, error.problem)))
            _log.warning("%s", refused[-1])
    return Resumption(state=None, refused=tuple(refused))
