"""Where checkpoints lie: a folder that all nodes see, or a URI of an object store.

pyarrow's file systems take ``s3://``, ``gs://``, ``abfs://``, ``hdfs://`` and folders; what it does
not know goes to fsspec. An address never holds credentials: those come from the environment of each
node (``AWS_ACCESS_KEY_ID``, an instance's role and the like), so that none reaches a file or a log.
"""

from __future__ import annotations

import posixpath
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from esam_tune.errors import InputError

OPTION = "--checkpoint-storage"
_SECRET_WORDS = ("secret", "password", "token", "key", "credential", "sas")


def is_remote(where: str) -> bool:
    """Whether this is a URI and not a folder."""
    return "://" in where


def normalise(text: str) -> str:
    """A folder as an absolute path, a URI as it is.

    Raises:
        InputError: for a URI without a place in it, or with credentials.
    """
    if not is_remote(text):
        if not text.strip():
            raise InputError(OPTION, "must be a folder or a URI, got ''", "leave it out")
        return str(Path(text).absolute())
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise InputError(OPTION, f"is not a URI ({error})", "check it") from None
    secrets = [
        key for key, _ in parse_qsl(parts.query) if any(word in key for word in _SECRET_WORDS)
    ]
    if parts.password or secrets or (parts.username and not parts.scheme.startswith("abfs")):
        raise InputError(
            OPTION,
            "must not hold credentials, which would reach files and logs",
            "set them in the environment of every node, such as AWS_ACCESS_KEY_ID",
        )
    if parts.scheme == "file":
        return str(Path(parts.path))
    if not parts.netloc:
        raise InputError(OPTION, f"must name a bucket or host, got {text!r}", "use s3://BUCKET/...")
    return text


def join(where: str, *names: str) -> str:
    """A place below another; a URI keeps its query."""
    if not is_remote(where):
        return str(Path(where, *names))
    parts = urlsplit(where)
    return urlunsplit(parts._replace(path=posixpath.join(parts.path or "/", *names)))


def split(where: str) -> tuple[str, str]:
    """The place above, and the last name of the path."""
    if not is_remote(where):
        return str(Path(where).parent), Path(where).name
    parts = urlsplit(where)
    above, name = posixpath.split(parts.path)
    return urlunsplit(parts._replace(path=above)), name


def open_storage(where: str) -> tuple[Any, str]:
    """The file system of a place, and the path on it.

    Returns:
        A ``pyarrow.fs.FileSystem`` and a path without scheme or query.

    Raises:
        OSError: when it cannot be reached.
        ValueError: for a URI that neither pyarrow nor fsspec understands.
    """
    import pyarrow
    from pyarrow import fs

    if not is_remote(where):
        return fs.LocalFileSystem(), where
    try:
        filesystem, path = fs.FileSystem.from_uri(where)
    except pyarrow.ArrowInvalid as error:
        if "Unrecognized filesystem type" not in str(error):
            raise
        from fsspec.core import url_to_fs

        other, path = url_to_fs(where)
        filesystem = fs.PyFileSystem(fs.FSSpecHandler(other))
    return filesystem, path.rstrip("/")


def ray_arguments(where: str) -> dict[str, Any]:
    """``storage_path`` and ``storage_filesystem`` for Ray's run configurations."""
    if not is_remote(where):
        return {"storage_path": where}
    filesystem, path = open_storage(where)
    return {"storage_path": path, "storage_filesystem": filesystem}


def holds_checkpoint(where: str, path: str) -> bool:
    """Whether a checkpoint folder is still there.

    Args:
        where: any place on the file system that holds it.
        path: as Ray reported it, without scheme.
    """
    from pyarrow import fs

    filesystem, _ = open_storage(where)
    return bool(filesystem.get_file_info(path).type == fs.FileType.Directory)


def write_token(where: str) -> tuple[str, str]:
    """Write a small new file below a place.

    Returns:
        Its path on the place's file system, and its content.

    Raises:
        OSError: when it cannot be written.
    """
    filesystem, root = open_storage(where)
    content = uuid.uuid4().hex
    path = posixpath.join(root, f".esam-tune-{content[:8]}")
    filesystem.create_dir(root, recursive=True)
    with filesystem.open_output_stream(path) as stream:
        stream.write(content.encode())
    return path, content


def read_token(where: str, path: str) -> str | None:
    """What :func:`write_token` wrote, or None when it is not to be seen from here."""
    try:
        filesystem, _ = open_storage(where)
        with filesystem.open_input_stream(path) as stream:
            return bytes(stream.read()).decode()
    except (OSError, ValueError):
        return None


def remove_token(where: str, path: str) -> None:
    """Remove the file again, if it can be."""
    with suppress(OSError, ValueError):
        open_storage(where)[0].delete_file(path)


def remove(where: str) -> None:
    """Remove a place and all below it, if it is there."""
    from pyarrow import fs

    filesystem, path = open_storage(where)
    if filesystem.get_file_info(path).type == fs.FileType.Directory:
        filesystem.delete_dir(path)


def check_checkpoint_storage(where: str) -> None:
    """Require that this process can write to an object store; folders are checked elsewhere.

    Raises:
        InputError: naming ``--checkpoint-storage``.
    """
    if not is_remote(where):
        return
    try:
        path, _ = write_token(where)
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            OPTION,
            f"cannot write to {where!r} ({reason[:300]})",
            "check bucket, endpoint and the credentials in the environment",
        ) from None
    remove_token(where, path)
