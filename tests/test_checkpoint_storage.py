"""Places of checkpoints: folders and the URIs of object stores."""

import pytest
from object_store import object_store
from pyarrow.fs import FileType

from esam_tune.checkpoint_storage import (
    check_checkpoint_storage,
    holds_checkpoint,
    join,
    normalise,
    open_storage,
    ray_arguments,
    read_token,
    remove,
    remove_token,
    split,
    write_token,
)
from esam_tune.errors import InputError

S3 = "s3://bucket/runs?region=us-east-1"


@pytest.fixture(scope="module")
def store():
    with object_store() as uri:
        yield uri


@pytest.mark.parametrize(
    ("where", "name", "below"),
    [
        ("/shared/runs", "a", "/shared/runs/a"),
        ("s3://bucket", "a", "s3://bucket/a"),
        (S3, "a", "s3://bucket/runs/a?region=us-east-1"),
        ("gs://bucket/x/", "a", "gs://bucket/x/a"),
    ],
)
def test_a_place_below_another(where, name, below):
    assert join(where, name) == below
    above, last = split(below)
    assert (above.rstrip("/"), last) == (where.replace("x/", "x"), name)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must be a folder or a URI"),
        ("s3://", "must name a bucket or host"),
        ("s3://me:secret@bucket/x", "must not hold credentials"),
        ("s3://AKIA@bucket/x", "must not hold credentials"),
        ("hdfs://me:secret@name:8020/x", "must not hold credentials"),
        ("abfs://box@account.dfs.core.windows.net/x?client_secret=abc", "must not have 'client_se"),
        ("abfs://box@account.dfs.core.windows.net/x?sig=abc", "must not have 'sig'"),
        ("abfs://box@account.dfs.core.windows.net/x?AccountKey=abc", "must not have 'AccountKey'"),
        ("s3://bucket/x?X-Amz-Signature=abc", "must not have 'X-Amz-Signature'"),
        ("s3://bucket/x?region=a&=abc", "must not have what it has in its query"),
        ("s3://bucket/x?AKIA", "must not have what it has in its query"),
        ("memory://host/x?region=a", "must not have 'region' .* leave the query out"),
        ("s3://[bad", "is not a URI"),
        ("file://server/share", "must name no host in a file URI"),
    ],
)
def test_what_is_no_place(text, words):
    with pytest.raises(InputError, match=f"--checkpoint-storage: {words}") as caught:
        normalise(text)
    assert not any(secret in str(caught.value) for secret in ("AKIA", "secret@", "=abc"))


def test_a_folder_is_made_absolute_and_a_uri_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert normalise("shared") == str(tmp_path / "shared")
    assert normalise("file:///mnt/shared") == "/mnt/shared"
    assert normalise("file:///mnt/two%20words") == "/mnt/two words"
    azure = "abfs://box@account.dfs.core.windows.net/x?tenant_id=t"
    hadoop = "hdfs://me@name:8020/x?replication=2"
    assert [normalise(uri) for uri in (S3, azure, hadoop)] == [S3, azure, hadoop]


@pytest.mark.parametrize("kind", ["folder", "store"])
def test_what_is_written_is_read_and_removed(store, tmp_path, kind):
    where = join(store, "tokens") if kind == "store" else str(tmp_path / "tokens")
    path, content = write_token(where)
    assert read_token(where, path) == content
    filesystem, root = open_storage(where)
    remove_token(where, path)
    with pytest.raises(OSError, match=r"(?i)not found|no such"):
        read_token(where, path)
    remove_token(where, path)
    filesystem.create_dir(f"{root}/a/b", recursive=True)
    remove(join(where, "a"))
    remove(join(where, "a"))
    kinds = [filesystem.get_file_info(place).type for place in (f"{root}/a", root)]
    assert kinds == [FileType.NotFound, FileType.Directory]


@pytest.mark.parametrize("kind", ["folder", "store"])
def test_a_checkpoint_without_the_first_workers_state_is_none(store, tmp_path, kind):
    where = join(store, "checkpoints") if kind == "store" else str(tmp_path)
    filesystem, root = open_storage(where)
    assert not holds_checkpoint(where, f"{root}/000001")
    filesystem.create_dir(f"{root}/000001", recursive=True)
    for name, whole in (("state-1.pt", False), ("state-0.pt", True)):
        filesystem.open_output_stream(f"{root}/000001/{name}").close()
        assert holds_checkpoint(where, f"{root}/000001") == whole


def test_ray_gets_a_file_system_and_a_path_on_it(store):
    assert ray_arguments("/shared") == {"storage_path": "/shared"}
    arguments = ray_arguments(join(store, "x"))
    assert arguments["storage_path"] == "bucket/runs/x"
    assert arguments["storage_filesystem"] == open_storage(store)[0]


def test_what_pyarrow_does_not_know_goes_to_fsspec():
    where = "memory://host/runs"
    path, content = write_token(where)
    assert read_token(where, path) == content
    remove_token(where, path)


def test_a_place_is_tried_before_anything_starts(store, tmp_path):
    check_checkpoint_storage(store)
    check_checkpoint_storage(str(tmp_path / "new" / "folder"))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"-storage: cannot write to .*file/x' .*choose"):
        check_checkpoint_storage(str(tmp_path / "file" / "x"))
    for uri, words in (
        (store.replace("bucket", "another"), "cannot write to 's3://another"),
        ("nowhere://x/y", "Protocol not known: nowhere"),
        ("https://host.invalid/x", "cannot write to 'https://host.invalid/x' .NotImplemented"),
        ("s3://bucket/x?endpoint_overide=a", "endpoint_overide"),
    ):
        with pytest.raises(InputError, match=words):
            check_checkpoint_storage(uri)
