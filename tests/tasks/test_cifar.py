"""CIFAR in its real format: batches as pickles in an archive, behind checksums."""

import hashlib
import io
import multiprocessing
import pickle
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from esam_tune.config import task_settings
from esam_tune.errors import InputError
from esam_tune.tasks.data import checked_train_split, load_split, step_example

# torchvision first asks where the address leads, then for the file.
ONE_DOWNLOAD = 2
SPLITS = ("train", "val", "test")


def md5(data):
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def published(dataset, count):
    """Files of a tiny CIFAR by name, in the published form, and what they hold."""
    generator = np.random.default_rng(7)
    classes = 10 if dataset == "cifar10" else 100
    key = "labels" if dataset == "cifar10" else "fine_labels"
    names = (
        [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]
        if dataset == "cifar10"
        else ["train", "test"]
    )
    files, arrays = {}, {}
    for name in names:
        data = generator.integers(0, 256, size=(count, 3072), dtype=np.uint8)
        labels = (np.arange(count) % classes).tolist()
        files[name] = pickle.dumps({"data": data, key: labels})
        arrays[name] = data.reshape(-1, 3, 32, 32), labels
    meta = "batches.meta" if dataset == "cifar10" else "meta"
    files[meta] = pickle.dumps({"label_names" if dataset == "cifar10" else "fine_label_names": []})
    return files, arrays, meta


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, *arguments, server, directory):
        self._counts = server
        super().__init__(*arguments, None, directory=directory)

    def do_GET(self):
        self._counts.requests += 1
        super().do_GET()

    def log_message(self, *arguments):
        pass


class Server:
    """Publishes a tiny archive over HTTP on loopback, and counts requests."""

    def __init__(self, root, dataset, count, monkeypatch):
        from torchvision import datasets

        kind = datasets.CIFAR10 if dataset == "cifar10" else datasets.CIFAR100
        files, self.arrays, meta = published(dataset, count)
        self.archive = root / kind.filename
        with tarfile.open(self.archive, "w:gz") as tar:
            for name, data in files.items():
                entry = tarfile.TarInfo(f"{kind.base_folder}/{name}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
        self.folder, self.filename = kind.base_folder, kind.filename
        self.requests = 0
        serve = partial(_Handler, server=self, directory=str(root))
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: serve(*a[:2]))
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()
        address = f"http://127.0.0.1:{self._http.server_port}"
        self.table = {
            "url": f"{address}/{self.filename}",
            "tgz_md5": md5(self.archive.read_bytes()),
            "train_list": [[n, md5(d)] for n, d in files.items() if n not in (meta, *self._test())],
            "test_list": [[n, md5(d)] for n, d in files.items() if n in self._test()],
            "meta": {**kind.meta, "md5": md5(files[meta])},
        }
        for name, value in self.table.items():
            monkeypatch.setattr(kind, name, value)

    def _test(self):
        return ("test_batch", "test")

    def close(self):
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def data(tmp_path, monkeypatch):
    load_split.cache_clear()
    folder = tmp_path / "data"
    monkeypatch.setenv("ESAM_TUNE_DATA", str(folder))
    yield folder
    load_split.cache_clear()


@pytest.fixture
def server(tmp_path, monkeypatch, data):
    server = Server(tmp_path, "cifar10", 100, monkeypatch)
    yield server
    server.close()


def task(dataset="cifar10", **changes):
    return task_settings({"dataset": dataset, "model": "small_cnn", **changes})


@pytest.mark.parametrize(("dataset", "count"), [("cifar10", 100), ("cifar100", 1000)])
def test_the_published_images_are_downloaded_and_shared_out(
    dataset, count, tmp_path, data, monkeypatch
):
    server = Server(tmp_path, dataset, count, monkeypatch)
    splits = {name: load_split(task(dataset, val_share=0.2), name) for name in SPLITS}
    arrays = server.arrays
    test = arrays.pop("test_batch" if dataset == "cifar10" else "test")
    images = np.concatenate([images for images, _ in arrays.values()])
    labels = np.concatenate([labels for _, labels in arrays.values()])
    total = len(images)
    assert [len(splits[name]) for name in SPLITS] == [0.8 * total, 0.2 * total, count]
    rows = torch.cat([splits["train"].rows, splits["val"].rows])
    assert sorted(rows.tolist()) == list(range(total))
    for name in SPLITS:
        # Kept and moved as bytes: a batch at a time becomes numbers, on the device that trains.
        assert splits[name].pixels.dtype == torch.uint8
        moved = splits[name].to(torch.device("meta")).pixels
        assert (moved.device.type, moved.dtype) == ("meta", torch.uint8)
        assert moved.shape == (len(splits[name]), 3, 32, 32)
    for name in ("train", "val"):
        split = splits[name]
        assert np.array_equal(split.pixels[split.rows].numpy(), images[split.rows.numpy()])
        assert np.array_equal(split.labels.numpy(), labels[split.rows.numpy()])
        counts = torch.bincount(split.labels)
        assert counts.min() == counts.max()
    assert np.array_equal(splits["test"].pixels.numpy(), test[0])
    assert splits["test"].labels.tolist() == test[1]
    assert splits["train"].num_classes == (10 if dataset == "cifar10" else 100)
    assert server.requests == ONE_DOWNLOAD
    server.close()


def test_images_come_standardised_by_the_training_split(server):
    train = load_split(task(), "train")
    images, labels = train.first(len(train))
    assert images.shape == (450, 3, 32, 32)
    assert images.dtype == torch.float32
    assert torch.equal(labels, train.labels)
    for channel in range(3):
        assert images[:, channel].mean().item() == pytest.approx(0.0, abs=1e-4)
        assert images[:, channel].std(correction=0).item() == pytest.approx(1.0, abs=1e-4)
    val, test = load_split(task(), "val"), load_split(task(), "test")
    assert train.mean == val.mean == test.mean


def test_label_noise_changes_the_training_labels_alone(server):
    clean, noisy = task(), task(label_noise=0.3)
    changed = {
        name: (load_split(noisy, name).labels != load_split(clean, name).labels).sum().item()
        for name in SPLITS
    }
    assert changed == {"train": 135, "val": 0, "test": 0}


def test_a_set_that_is_there_needs_no_download_again(server, data):
    load_split(task(), "train")
    server.close()
    load_split.cache_clear()
    assert len(load_split(task(split_seed=1), "train")) == 450
    # Nor do the published files, once the set is prepared.
    for file in (data / server.folder).iterdir():
        file.unlink()
    load_split.cache_clear()
    assert len(load_split(task(), "test")) == 100


def test_only_the_test_split_reads_test_images(server, data):
    load_split(task(), "train")
    load_split.cache_clear()
    for file in (data / "prepared" / "cifar10").glob("test-*"):
        file.unlink()
    assert [len(load_split(task(), name)) for name in ("train", "val")] == [450, 50]
    with pytest.raises(InputError, match=r"test-images\.npy' cannot be read"):
        load_split(task(), "test")


def test_a_set_that_cannot_be_downloaded_is_refused(server, data):
    server.close()
    with pytest.raises(InputError) as caught:
        checked_train_split(task())
    assert caught.value.field == "task.dataset"
    assert f"cifar10 is not in {str(data)!r} and cannot be downloaded" in caught.value.problem
    assert server.filename in caught.value.remedy
    assert not (data / "prepared" / "cifar10").exists()


@pytest.mark.parametrize("what", ["batch", "archive"])
def test_a_damaged_set_is_refused_and_not_unpickled(server, data, what, monkeypatch):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (data / "executed",))

    data.mkdir()
    if what == "archive":
        (data / server.filename).write_bytes(server.archive.read_bytes()[:-100])
    else:
        with tarfile.open(server.archive) as tar:
            tar.extractall(data, filter="data")
        (data / server.folder / "data_batch_2").write_bytes(pickle.dumps(Evil()))
    server.close()
    with pytest.raises(InputError, match="is damaged in"):
        load_split(task(), "train")
    assert not (data / "executed").exists()


def test_a_damaged_batch_is_mended_from_the_archive(server, data):
    data.mkdir()
    with tarfile.open(server.archive) as tar:
        tar.extractall(data, filter="data")
    (data / server.folder / "data_batch_2").write_bytes(b"damaged")
    (data / server.filename).write_bytes(server.archive.read_bytes())
    server.close()
    assert len(load_split(task(), "train")) == 450


def test_standard_output_is_left_to_the_commands_document(server, capsys):
    load_split(task(), "train")
    assert capsys.readouterr().out == ""


def test_the_example_of_a_step_needs_no_data(data):
    for dataset, classes in (("cifar10", 10), ("cifar100", 100)):
        model, images, labels = step_example(task(dataset), 4)
        assert images.shape == (4, 3, 32, 32)
        assert model(images).shape == (4, classes)
        assert labels.shape == (4,)
    assert not data.exists()


def load_in_process(table, data, results):
    import os

    from torchvision import datasets

    for name, value in table.items():
        setattr(datasets.CIFAR10, name, value)
    os.environ["ESAM_TUNE_DATA"] = data
    results.put(len(load_split(task(), "train")))


@pytest.mark.slow
def test_two_processes_download_at_once_without_harm(server, data):
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    processes = [
        spawn.Process(target=load_in_process, args=(server.table, str(data), results))
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    assert [results.get(timeout=120) for _ in processes] == [450, 450]
    for process in processes:
        process.join()
    assert server.requests == ONE_DOWNLOAD
    assert [path.name for path in (data / "prepared").iterdir() if path.is_dir()] == ["cifar10"]
