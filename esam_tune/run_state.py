"""The files of a checkpoint: written whole, told from damaged and foreign ones, and read back.

A worker's state lies in ``state-RANK.pt``. Beside it, written after it, lies a manifest with the
state's length and digest, which bears a digest of its own: whatever became of either file on its
way through disks, copies and object stores shows before any of it is used. The first worker's
state holds all that the workers have in common, the others' only what differs.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

_FORMAT = "esam-tune checkpoint 1"
# A manifest has a few hundred bytes: what is longer is none.
_MOST_BYTES = 65_536
# What a state holds for each worker alone: its random streams and the step times it took.
_OWN = ("random", "timer")


class CheckpointError(RuntimeError):
    """A checkpoint that must not be used: torn, damaged, incomplete, or of another run."""

    def __init__(self, folder: str | Path, problem: str) -> None:
        super().__init__(f"checkpoint {str(folder)!r} is refused: {problem}")
        self.folder = str(folder)
        self.problem = problem

    def __reduce__(self) -> tuple[type[CheckpointError], tuple[str, str]]:
        """Survive the trip from a worker process."""
        return CheckpointError, (self.folder, self.problem)


def state_file(rank: int) -> str:
    """Name of a worker's state in a checkpoint folder."""
    return f"state-{rank}.pt"


def manifest_file(rank: int) -> str:
    """Name of the manifest of a worker's state."""
    return f"state-{rank}.json"


def run_identity(settings: Mapping[str, Any]) -> str:
    """What tells one run from another: a digest of all that its training depends on.

    Args:
        settings: a settings document; where it comes from (``origin``) does not count.
    """
    trained = {key: value for key, value in settings.items() if key != "origin"}
    return _digest_of(trained)


def save_state(
    folder: str | Path,
    rank: int,
    workers: int,
    state: Mapping[str, Any],
    *,
    run: str = "",
) -> None:
    """Write the state of a worker, one of so many, into a checkpoint folder that exists.

    Each file is written under a temporary name and renamed when it is whole.

    Args:
        folder: of the checkpoint.
        rank: of the worker; all but the first keep only what differs between workers.
        workers: of the run.
        state: tensors and plain values, ``epoch`` among them.
        run: identity of the run, see :func:`run_identity`; a reader may ask for it.
    """
    import torch

    folder = Path(folder)
    kept = {key: value for key, value in state.items() if rank == 0 or key in (*_OWN, "epoch")}
    path = folder / state_file(rank)
    _write(path, lambda file: torch.save(kept, file))
    content = {
        "format": _FORMAT,
        "run": run,
        "rank": rank,
        "workers": workers,
        "epoch": int(state["epoch"]),
        "bytes": path.stat().st_size,
        "sha256": _file_digest(path),
    }
    text = json.dumps({"content": content, "sha256": _digest_of(content)}, indent=1)
    _write(folder / manifest_file(rank), lambda file: file.write(text.encode()))


def load_state(folder: str | Path, rank: int, run: str | None = None) -> dict[str, Any]:
    """A worker's state, after the whole checkpoint was checked.

    A worker that the group did not have before takes the first one's, with random streams of its
    own: equal ones would give two workers the same noise.

    Args:
        folder: of the checkpoint.
        rank: of the worker.
        run: identity that it must have, or None for any.

    Raises:
        CheckpointError: for one that must not be used, and why.
    """
    epoch = _checked_epoch(folder, run)
    state = _read(Path(folder), 0)
    workers = int(_manifest(Path(folder), 0)["workers"])
    if 0 < rank < workers:
        return state | _read(Path(folder), rank)
    if rank >= workers:
        return state | {"random": {"seed": epoch << 16 | rank}}
    return state


def load_weights(folder: str | Path) -> dict[str, Any]:
    """The network's state dict from a checkpoint folder of a run.

    Raises:
        CheckpointError: for one that must not be used, and why.
    """
    return dict(load_state(folder, 0)["model"])


def _checked_epoch(folder: str | Path, run: str | None = None) -> int:
    """The epoch of a checkpoint, after its files were compared with their manifests.

    All workers' files are looked at, so that all workers of a group come to the same verdict.
    """
    first = _checked(Path(folder), 0, run)
    for rank in range(1, int(first["workers"])):
        manifest = _checked(Path(folder), rank, run)
        for key in ("workers", "epoch"):
            if manifest[key] != first[key]:
                raise CheckpointError(
                    folder, f"{key} is {manifest[key]} in worker {rank}'s state, {first[key]} else"
                )
    return int(first["epoch"])


def _checked(folder: Path, rank: int, run: str | None) -> dict[str, Any]:
    """A worker's manifest, after its state was compared with it."""
    manifest = _manifest(folder, rank)
    if run is not None and manifest["run"] != run:
        raise CheckpointError(folder, "it is of a run with other settings")
    path = folder / state_file(rank)
    try:
        size, digest = path.stat().st_size, _file_digest(path)
    except FileNotFoundError:
        raise CheckpointError(folder, f"{path.name} is missing") from None
    if size != manifest["bytes"]:
        raise CheckpointError(
            folder, f"{path.name} has {size} bytes, its manifest says {manifest['bytes']}"
        )
    if digest != manifest["sha256"]:
        raise CheckpointError(folder, f"{path.name} is not what was written: its digest differs")
    return manifest


def _manifest(folder: Path, rank: int) -> dict[str, Any]:
    path = folder / manifest_file(rank)
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES)
    except FileNotFoundError:
        raise CheckpointError(folder, f"{path.name} is missing") from None
    try:
        document = json.loads(text)
        content = document["content"]
        whole = document["sha256"] == _digest_of(content) and content["format"] == _FORMAT
    except (ValueError, TypeError, KeyError, RecursionError):
        whole = False
    if not whole:
        raise CheckpointError(folder, f"{path.name} is damaged, or not of this program")
    if content["rank"] != rank:
        raise CheckpointError(folder, f"{path.name} is of worker {content['rank']}")
    return dict(content)


def _read(folder: Path, rank: int) -> dict[str, Any]:
    """A worker's file, of which nothing but tensors and plain values is taken."""
    import torch

    path = folder / state_file(rank)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).strip().splitlines()
        raise CheckpointError(
            folder, f"{path.name} cannot be read ({reason[0] if reason else error!r})"
        ) from None
    return dict(state)


def _write(path: Path, put: Callable[[IO[bytes]], object]) -> None:
    """Write a file under another name and rename it; a failed attempt leaves nothing.

    Nothing waits for the disk: a checkpoint is copied from here to where it is kept, and one that
    a power loss tears there is refused.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        with unfinished.open("wb") as file:
            put(file)
            file.flush()
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of(document: object) -> str:
    """Digest of plain values, the same for equal documents however they are laid out."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
