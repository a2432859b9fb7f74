"""What ``ray job submit --working-dir`` would send, measured and bounded before it is sent.

Ray leaves out what ``.gitignore`` and ``.rayignore`` name, at any depth, and ``.git``, ``.venv``,
``venv`` and ``__pycache__``; it stores the rest in an uncompressed zip, which the dashboard refuses
above 100 MiB and the cluster keeps in its head node's memory.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from esam_tune.errors import InputError

_log = logging.getLogger(__name__)

MIB = 1024**2
# A third of what the dashboard takes: room for growth, and still quick over a slow line.
LIMIT_MIB = 32


@dataclass(frozen=True)
class Upload:
    """The files of an upload.

    Args:
        folder: that is sent.
        sizes: bytes of each file, by its path below ``folder``.
    """

    folder: Path
    sizes: Mapping[PurePath, int]

    @property
    def total(self) -> int:
        """Bytes of all files together."""
        return sum(self.sizes.values())

    def largest(self, count: int) -> list[tuple[str, int]]:
        """The largest entries of the folder's first level, with the bytes of all below each."""
        entries: Counter[str] = Counter()
        for path, size in self.sizes.items():
            entries[path.parts[0] + ("/" if len(path.parts) > 1 else "")] += size
        return entries.most_common(count)

    def describe(self) -> str:
        """One line: size, number of files and the largest entries."""
        largest = ", ".join(f"{name} {_size(size)}" for name, size in self.largest(4))
        return f"{_size(self.total)} in {len(self.sizes)} files; the largest entries: {largest}"

    def check(self, limit_mib: float = LIMIT_MIB) -> None:
        """Require that the upload is small.

        Raises:
            InputError: naming ``--working-dir`` and the largest entries.
        """
        if self.total > limit_mib * MIB:
            raise InputError(
                "--working-dir",
                f"must hold at most {limit_mib:g} MiB to upload, {str(self.folder)!r} has "
                + self.describe(),
                "name what the job does not need in .rayignore, or move it elsewhere",
            )


def measure(folder: Path, excludes: Iterable[str] = ()) -> Upload:
    """Measure what Ray would pack, by Ray's own walk of the folder.

    Args:
        folder: to send.
        excludes: further patterns, as ``excludes`` of a runtime environment has them.

    Raises:
        InputError: when the folder does not exist.
    """
    if not folder.is_dir():
        raise InputError("--working-dir", f"no folder {str(folder)!r}", "name the repository's")
    from ray._private import ray_constants
    from ray._private.runtime_env import packaging

    root = folder.absolute()
    sizes: dict[PurePath, int] = {}

    def visit(path: Path) -> None:
        if path.is_file():
            sizes[path.relative_to(root)] = path.stat().st_size

    patterns = [*ray_constants.get_runtime_env_default_excludes(), *excludes]
    packaging._dir_travel(
        root,
        [packaging._get_excludes(root, patterns)],
        visit,
        include_gitignore=os.environ.get(ray_constants.RAY_RUNTIME_ENV_IGNORE_GITIGNORE) != "1",
        logger=_log,
    )
    return Upload(root, sizes)


def check_submission(
    runtime_env: str | None = None,
    runtime_env_json: str | None = None,
    working_dir: str | None = None,
    **_others: Any,
) -> None:
    """Check the upload of a ``ray job submit`` that is about to be sent.

    Ray calls this with the command's options when ``RAY_JOB_SUBMIT_HOOK`` is
    ``esam_tune.upload.check_submission``.

    Raises:
        SystemExit: with code 2, which ends the command, when the upload is too large.
    """
    from ray.dashboard.modules.dashboard_sdk import parse_runtime_env_args

    found = parse_runtime_env_args(runtime_env, runtime_env_json, working_dir)
    # An archive or an address of one is not packed from here.
    folder = Path(found.get("working_dir") or "")
    if not found.get("working_dir") or not folder.is_dir():
        return
    try:
        upload = measure(folder, found.get("excludes") or ())
        upload.check()
    except InputError as error:
        print(f"ray job submit: error: {error}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from None
    print(f"upload: {upload.describe()}", file=sys.stderr)  # noqa: T201


def _size(bytes_: int) -> str:
    return f"{bytes_ / MIB:.1f} MiB" if bytes_ >= MIB else f"{bytes_ / 1024:.0f} KiB"
