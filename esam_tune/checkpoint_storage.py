"""Where checkpoints lie: a folder that all nodes see, or a URI of an object store.

pyarrow's file systems take ``s3://``, ``gs://``, ``abfs://``, ``hdfs://`` and folders; what it does
not know goes to fsspec. An address never holds credentials: those come from the environment of each
node (``AWS_ACCESS_KEY_ID``, an instance's role and the like), so that none reaches a file or a log.
"""

from __future__ import annotations

import posixpath
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from esam_tune.errors import InputError, choose_from
from esam_tune.run_state import state_file

OPTION = "--checkpoint-storage"
# What a query may hold, as pyarrow's file systems read it: their keys that are no credentials.
_QUERY_KEYS = {
    "s3": (
        *("region", "scheme", "endpoint_override", "tls_ca_file_path", "smart_defaults"),
        *("allow_bucket_creation", "allow_bucket_deletion", "allow_delayed_open"),
        "check_directory_existence_before_creation",
    ),
    "gs": ("scheme", "endpoint_override", "retry_limit_seconds", "project_id"),
    "abfs": (
        *("blob_storage_authority", "blob_storage_scheme", "enable_tls", "background_writes"),
        *("dfs_storage_authority", "dfs_storage_scheme", "credential_kind", "tenant_id"),
        "client_id",
    ),
    "hdfs": ("user", "replication", "buffer_size", "default_block_size", "kerb_ticket"),
}
_SAME_KEYS = {"gcs": "gs", "abfss": "abfs", "viewfs": "hdfs"}
# Where a user's name is a part of the address: Azure's container, HDFS' user.
_NAMES_A_USER = ("abfs", "hdfs")


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
    kind = _SAME_KEYS.get(parts.scheme, parts.scheme)
    if parts.password is not None or (parts.username is not None and kind not in _NAMES_A_USER):
        raise InputError(
            OPTION,
            "must not hold credentials, which would reach files and logs",
            "set them in the environment of every node, such as AWS_ACCESS_KEY_ID",
        )
    known = _QUERY_KEYS.get(kind, ())
    # The values stay unsaid, and so does what has none: either may be a secret.
    for key, value in parse_qsl(parts.query, keep_blank_values=True):
        if key not in known:
            name = repr(key) if key and value else "what it has"
            raise InputError(
                OPTION,
                f"must not have {name} in its query, which reaches files and logs",
                "set credentials in the environment of every node; "
                + (choose_from(known, key) if known else "leave the query out"),
            )
    if parts.scheme == "file":
        if parts.netloc:
            raise InputError(
                OPTION,
                f"must name no host in a file URI, got {parts.netloc!r}",
                "write file:///PATH, or the folder itself",
            )
        return str(Path(unquote(parts.path)))
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
    """Whether a checkpoint folder is still there, and not half removed.

    Args:
        where: any place on the file system that holds it.
        path: as Ray reported it, without scheme.
    """
    from pyarrow import fs

    filesystem, _ = open_storage(where)
    found = filesystem.get_file_info(posixpath.join(path, state_file(0)))
    return bool(found.type == fs.FileType.File)


def siblings_before(where: str, path: str) -> list[str]:
    """Folders beside a checkpoint that were made before it, newest first.

    Args:
        where: any place on the file system that holds them.
        path: of the checkpoint's folder. Ray names a run's checkpoints so that names rise.
    """
    from pyarrow import fs

    above, name = posixpath.split(path)
    prefix = name.split("_")[0]
    found = open_storage(where)[0].get_file_info(fs.FileSelector(above, allow_not_found=True))
    names = [item.base_name for item in found if item.type == fs.FileType.Directory]
    older = sorted((n for n in names if n < name and n.split("_")[0] == prefix), reverse=True)
    return [posixpath.join(above, sibling) for sibling in older]


@contextmanager
def fetched(where: str, path: str) -> Iterator[str]:
    """A folder as one of this machine, for the time of the block; one that is missing is empty.

    Args:
        where: any place on the file system that holds it.
        path: of the folder on that file system.

    Raises:
        OSError: when it cannot be reached.
    """
    from pyarrow import fs

    if not is_remote(where):
        yield path
        return
    filesystem, _ = open_storage(where)
    with tempfile.TemporaryDirectory(prefix="esam-tune-") as folder:
        if filesystem.get_file_info(path).type == fs.FileType.Directory:
            fs.copy_files(path, folder, source_filesystem=filesystem)
        yield folder


@contextmanager
def staging(where: str) -> Iterator[str]:
    """A new folder in which a checkpoint is put together, for the time of the block.

    It lies beside the checkpoints where these are on a file system: what a death in the middle
    leaves there goes with them in the end, and a small ``/tmp`` is no limit. An object store's are
    put together in the system's place for temporary files.

    Args:
        where: the checkpoints go; made where missing, or empty for nowhere in particular.
    """
    beside = where if where and not is_remote(where) else None
    if beside is not None:
        Path(beside).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="esam-tune-", dir=beside) as folder:
        yield folder


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


def read_token(where: str, path: str) -> str:
    """What :func:`write_token` wrote.

    Raises:
        OSError: when it is not to be seen from here.
    """
    filesystem, _ = open_storage(where)
    with filesystem.open_input_stream(path) as stream:
        return bytes(stream.read()).decode()


def remove_token(where: str, path: str) -> None:
    """Remove the file again, if it can be."""
    with suppress(OSError, ValueError):
        open_storage(where)[0].delete_file(path)


@contextmanager
def token(where: str) -> Iterator[tuple[str, str]]:
    """What :func:`write_token` writes, for the time of the block; folders made for it go, too.

    Raises:
        OSError: when it cannot be written.
    """
    above = [] if is_remote(where) else [Path(where), *Path(where).parents]
    made = [folder for folder in above if not folder.exists()]
    try:
        path, content = write_token(where)
        try:
            yield path, content
        finally:
            remove_token(where, path)
    finally:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


def remove(where: str) -> None:
    """Remove a place and all below it, if it is there."""
    from pyarrow import fs

    filesystem, path = open_storage(where)
    if filesystem.get_file_info(path).type == fs.FileType.Directory:
        filesystem.delete_dir(path)


def check_checkpoint_storage(where: str, field: str = OPTION) -> None:
    """Require that this process can write to a place; what the check made is removed again.

    Args:
        where: folder or URI.
        field: option that named it.

    Raises:
        InputError: naming the option.
    """
    try:
        with token(where):
            pass
    # NotImplementedError: a file system that reads alone, such as that of http.
    except (OSError, ValueError, ImportError, NotImplementedError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            field,
            f"cannot write to {where!r} ({reason[:300]})",
            "check bucket, endpoint and the credentials in the environment"
            if is_remote(where)
            else "choose a folder you can write to",
        ) from None
