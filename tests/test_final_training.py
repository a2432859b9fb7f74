"""The final training: what it reserves, what a death leaves of it, how it goes on."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml
from conftest import REPOSITORY, command_line, environment
from image_files import write_images
from study_events import WrittenStudy, study_spec
from training_process import events, untimed

from esam_tune import journal, step_timer
from esam_tune.config import trial_settings
from esam_tune.errors import InputError, RunFailedError
from esam_tune.final_training import (
    TrainOptions,
    execution,
    recorder,
    run,
    train_chosen,
    weights,
)
from esam_tune.final_training.plan import draw_up
from esam_tune.final_training.publication import lineage, training_start
from esam_tune.final_training.record import TrainingRecord
from esam_tune.final_training.weights import weights_digest
from esam_tune.journal import Journal
from esam_tune.run_state import save_state
from esam_tune.tracking.cursor import Cursor
from esam_tune.tracking.final import open_run
from esam_tune.tracking.live_training import LiveRun
from esam_tune.tracking.store import connect, local_uri
from esam_tune.trial import CHECKPOINT_PATH, FAILURE
from esam_tune.worker_scaling import WorkerRule

torch.set_num_threads(1)

SETTINGS = {
    "task": {"dataset": "digits", "model": "small_cnn"},
    "training": {"epochs": 3, "batch_size": 256, "lr": 0.05},
    "params": {"optimizer": "sgd"},
}
NOTHING = {"mlflow_run_id": None, "model_uri": None, "registered": None}


@pytest.fixture(autouse=True)
def few_timed_steps(monkeypatch):
    monkeypatch.setattr(step_timer, "_PAIRS", 2)


@pytest.fixture
def unpublished(monkeypatch):
    """MLflow is left out of it."""
    monkeypatch.setattr(run, "publish", lambda *arguments: NOTHING)
    monkeypatch.setattr(LiveRun, "add", lambda live, metrics: None)


@pytest.fixture
def on_cluster(monkeypatch, tmp_path, unpublished):
    """Runs a training's reports through ``train_chosen`` as if a cluster had made them."""
    requests = []

    @contextmanager
    def connected(address, *, distributed):
        yield [{"CPU": 4.0}]

    class Kept:
        @contextmanager
        def as_directory(self):
            folder = tmp_path / "kept"
            folder.mkdir(exist_ok=True)
            save_state(folder, 0, 1, {"epoch": 3, "model": {"w": torch.ones(1)}})
            yield str(folder)

    def train(reports, on_epoch=lambda metrics: None, settings=SETTINGS, **options):
        def run_single(request, where, receive):
            requests.append(request)
            for report in reports:
                receive(report)
            return Kept()

        monkeypatch.setattr("esam_tune.study.runner.run_single", run_single)
        options = {"storage": tmp_path / "runs", "name": "m", "workers": 2} | options
        asked = TrainOptions(address="auto", **options)
        return train_chosen(trial_settings(settings), asked, on_epoch)

    monkeypatch.setattr("esam_tune.study.cluster.connected", connected)
    monkeypatch.setattr(execution, "check_all_nodes_see", lambda where, field: None)
    monkeypatch.setattr(execution, "check_all_nodes_have", lambda task, gpus: None)
    train.requests = requests
    return train


def epochs(*numbers):
    return [
        {"epoch": n, "val_accuracy": n / 10, **({"test_accuracy": 0.5} if n == 3 else {})}
        for n in numbers
    ]


def texts(values):
    """Values as MLflow keeps parameters."""
    return {key: str(value) for key, value in values.items()}


def checkpoint(folder):
    """A checkpoint that Ray has kept, as it tells of it when it is asked."""
    folder.mkdir(parents=True)
    save_state(folder, 0, 1, {"epoch": 1, "model": {}})
    return {CHECKPOINT_PATH: str(folder)}


def here(tmp_path, on_epoch=lambda metrics: None, settings=SETTINGS, **options):
    """Train in this process."""
    asked = {"storage": tmp_path / "runs", "name": "m", "threads": 1} | options
    return train_chosen(trial_settings(settings), TrainOptions(**asked), on_epoch)


def test_a_group_that_goes_on_from_a_checkpoint_repeats_no_epoch(on_cluster, tmp_path):
    seen = []
    document = on_cluster(epochs(1, 2, 2, 3), seen.append)
    assert [metrics["epoch"] for metrics in document["history"]] == [1, 2, 3]
    assert seen == document["history"]
    stored = json.loads((tmp_path / "runs" / "models" / "m" / "result.json").read_text())
    assert stored == document
    assert torch.load(document["weights"], weights_only=True)["w"].item() == 1.0
    # Without a checkpoint on the way a restart would begin at the first epoch.
    (request,) = on_cluster.requests
    assert math.isfinite(request.checkpoint_seconds)
    assert request.resume_from == ()


@pytest.mark.parametrize(
    ("rule", "effective"),
    [
        (WorkerRule(), {"batch_size": 256, "rows_per_worker": 64, "lr": 0.05}),
        (
            WorkerRule(batch="per-worker"),
            {"batch_size": 512, "rows_per_worker": 128, "lr": 0.1},
        ),
    ],
    ids=["the global batch stays", "the rows of a worker stay"],
)
def test_what_the_worker_count_makes_of_a_setting_is_told_beside_what_it_was(
    on_cluster, tmp_path, monkeypatch, empty_store, rule, effective
):
    told = []
    monkeypatch.setattr(
        run,
        "publish",
        lambda plan, record, *_: told.append(training_start(plan, record)) or NOTHING,
    )
    found = {"params": {"optimizer": "sam", "rho": 0.1}, "origin": {"workers": 2}}
    document = on_cluster(epochs(1, 2, 3), settings=SETTINGS | found, workers=4, rule=rule)
    before = {"workers": 2, "batch_size": 256, "rows_per_worker": 128, "lr": 0.05, "rho": 0.1}
    after = {"workers": 4, "rho": 0.1} | effective
    assert document["scaling"]["reference"] == before
    assert document["scaling"]["effective"] == after
    assert document["scaling"]["batch_rule"] == rule.batch
    # The latter is what the workers are asked to train.
    (request,) = on_cluster.requests
    assert request.settings["training"]["batch_size"] == effective["batch_size"]
    assert request.settings["training"]["lr"] == effective["lr"]

    (tmp_path / "mlflow.db").write_bytes(empty_store)
    client = connect(local_uri(tmp_path))
    logged = open_run(client, tmp_path / "artifacts", told[0]).info.run_id
    params = client.get_run(logged).data.params
    assert {key: params[f"reference.{key}"] for key in before} == texts(before)
    assert {key: params[f"effective.{key}"] for key in after} == texts(after)
    assert (params["batch_rule"], params["lr_rule"]) == (rule.batch, rule.lr)


def test_a_training_that_lost_its_cluster_goes_on_from_its_last_checkpoints(on_cluster, tmp_path):
    kept = tmp_path / "runs" / "models" / "m" / "checkpoints" / "001" / "groups"
    seen = []

    def reports():
        yield from epochs(1)
        yield checkpoint(kept / "c1")
        yield checkpoint(kept / "c2")
        yield from epochs(2)
        yield {FAILURE: "node lost"}

    with pytest.raises(RunFailedError, match="node lost"):
        on_cluster(reports(), seen.append)
    document = on_cluster(epochs(2, 3), seen.append, resume=True, workers=None)
    assert document["workers"] == 2
    assert [metrics["epoch"] for metrics in seen] == [1, 2, 3]
    assert seen == document["history"]
    first, second = on_cluster.requests
    assert second.resume_from == (str(kept / "c2"), str(kept / "c1"))
    # Ray would take up by itself what it finds under a name that it knows.
    assert second.storage != first.storage
    assert not kept.exists()


def test_the_name_is_taken_before_the_training_and_free_again_when_nothing_came_of_it(
    on_cluster, tmp_path
):
    folder = tmp_path / "runs" / "models" / "m"
    taken = []

    class Lines(list):
        def __iter__(self):
            taken.append(folder.is_dir())
            with pytest.raises(InputError, match=r"--name: .*'m' exists"):
                on_cluster([])
            with pytest.raises(InputError, match=r"--name: model 'm' is being trained by process"):
                on_cluster([], resume=True)
            yield {FAILURE: "out of luck"}

    with pytest.raises(RunFailedError, match="out of luck"):
        on_cluster(Lines())
    assert taken == [True]
    assert not (tmp_path / "runs").exists()


def test_of_a_training_that_diverged_nothing_is_left(on_cluster, tmp_path):
    with pytest.raises(RunFailedError, match="loss is nan"):
        on_cluster([*epochs(1, 2), {FAILURE: "DivergedError: training loss is nan in epoch 3"}])
    assert not (tmp_path / "runs").exists()
    broken = {**SETTINGS, "training": {**SETTINGS["training"], "lr": 1e30}}
    with pytest.raises(RunFailedError, match="epoch 1"):
        here(tmp_path, settings=broken)
    assert not (tmp_path / "runs").exists()


def test_a_device_whose_memory_is_full_is_told_in_one_line_here_too(
    tmp_path, monkeypatch, unpublished
):
    def refuse(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

    monkeypatch.setattr(execution, "run_here", refuse)
    with pytest.raises(RunFailedError, match=r"^training failed: OutOfMemoryError: .*batch_size"):
        here(tmp_path)


@pytest.mark.parametrize("content", [{}, {"path": None, "metrics": 3}])
def test_a_journal_with_what_no_training_writes_is_refused(tmp_path, content):
    path = tmp_path / "journal.jsonl"
    writer = Journal(path)
    writer.append(journal.TRAINING, training_id="a")
    writer.append(journal.TRAINING_END, **content)
    writer.close()
    with pytest.raises(
        InputError, match=r"holds something that no training writes, before byte .*KeyError"
    ):
        TrainingRecord.read(path)


def test_a_death_after_the_last_epoch_shows_the_test_accuracy_once(
    tmp_path, monkeypatch, unpublished
):
    monkeypatch.setattr(execution, "_SECONDS_HERE", 0.0)
    whole = here(tmp_path, name="whole")
    seen = []

    class Killed(BaseException):
        """As a SIGKILL: nobody takes it for an error."""

    def die(*arguments):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(recorder, "save_weights", die)
        with pytest.raises(Killed):
            here(tmp_path, seen.append)
    assert [metrics["epoch"] for metrics in seen] == [1, 2]
    assert "training_end" not in [event["event"] for event in events(tmp_path / "runs", "m")]
    document = here(tmp_path, seen.append, resume=True)
    assert [metrics["epoch"] for metrics in seen] == [1, 2, 3]
    assert [m["epoch"] for m in seen if "test_accuracy" in m] == [3]
    assert document["weights_digest"] == whole["weights_digest"]
    assert untimed(document["history"]) == untimed(whole["history"])


def test_a_training_that_has_ended_is_read_back_without_training_or_testing(
    tmp_path, monkeypatch, unpublished
):
    document = here(tmp_path)

    def refuse(*arguments):
        raise AssertionError("trained again")

    monkeypatch.setattr(run, "carry_out", refuse)
    (tmp_path / "runs" / "models" / "m" / "result.json").unlink()
    seen = []
    assert here(tmp_path, seen.append, resume=True) == document
    assert seen == []


def test_only_the_newest_checkpoints_are_kept_and_a_damaged_one_is_passed_over(
    tmp_path, monkeypatch, unpublished, caplog
):
    monkeypatch.setattr(execution, "_SECONDS_HERE", 0.0)
    settings = {**SETTINGS, "training": {**SETTINGS["training"], "epochs": 5}}
    whole = here(tmp_path, name="whole", settings=settings)
    folder = tmp_path / "runs" / "models" / "m" / "checkpoints"

    def stop_after_four(metrics):
        if metrics["epoch"] == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        here(tmp_path, stop_after_four, settings=settings)
    kept = sorted(path.name for path in folder.iterdir())
    assert kept == ["epoch_00000002", "epoch_00000003"]
    state = folder / kept[-1] / "state-0.pt"
    state.write_bytes(state.read_bytes()[:-100])
    seen = []
    document = here(tmp_path, seen.append, settings=settings, resume=True)
    assert "state-0.pt has" in caplog.text
    assert [metrics["epoch"] for metrics in seen] == [5]
    assert document["weights_digest"] == whole["weights_digest"]
    assert untimed(document["history"]) == untimed(whole["history"])
    assert not folder.exists()


def test_a_checkpoint_that_finds_no_room_does_not_end_the_training(
    tmp_path, monkeypatch, unpublished, caplog
):
    monkeypatch.setattr(execution, "_SECONDS_HERE", 0.0)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(execution, "_sync", full)
    document = here(tmp_path)
    assert [metrics["epoch"] for metrics in document["history"]] == [1, 2, 3]
    assert "No space left" in caplog.text


@pytest.mark.parametrize(
    ("settings", "options", "words"),
    [
        ({"seed": 1}, {}, r"SETTINGS: has seed 1, .*begun with 0; name the settings file"),
        ({"params": {"optimizer": "sam"}}, {}, r"params.optimizer sam, .*begun with sgd"),
        (
            {"training": {**SETTINGS["training"], "epochs": 4}},
            {},
            r"training.epochs 4, .*begun with 3",
        ),
        (
            {"task": {**SETTINGS["task"], "label_noise": 0.1}},
            {},
            r"task.label_noise 0.1, .*begun with 0.0",
        ),
        ({}, {"workers": 2}, r"--workers: model 'm' is trained with 1, got 2; leave"),
        (
            {},
            {"rule": WorkerRule(batch="per-worker")},
            r"--batch-rule and --lr-rule: .*batch fixed-global, lr none, got batch per-worker",
        ),
        ({}, {"checkpoint_storage": "/tmp"}, r"--checkpoint-storage: .*none, got /tmp"),
        ({}, {"tracking_uri": "http://127.0.0.1:9"}, r"--tracking-uri: .*got http://127.0.0.1:9"),
        ({}, {"name": "n"}, r"--name: no training 'n' to resume in .*; did you mean|choose from m"),
        ({}, {"register": "a/b"}, r"--register: may hold letters"),
    ],
)
def test_a_training_is_resumed_as_what_it_was_begun(
    tmp_path, unpublished, settings, options, words
):
    def stop(metrics):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        here(tmp_path, stop)
    before = events(tmp_path / "runs", "m")
    with pytest.raises(InputError, match=words):
        here(tmp_path, settings={**SETTINGS, **settings}, resume=True, **options)
    assert events(tmp_path / "runs", "m") == before


def test_a_training_is_not_resumed_on_other_data(tmp_path, monkeypatch, unpublished):
    def stop(metrics):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        here(tmp_path, stop)
    digest = "esam_tune.tasks.digest.data_digest"
    monkeypatch.setattr(digest, lambda task: {"name": "digits", "digest": "another"})
    with pytest.raises(InputError, match=r"task: the data of model 'm' has changed .*now another"):
        here(tmp_path, resume=True)


def test_what_is_no_training_is_not_resumed(tmp_path):
    folder = tmp_path / "runs" / "models" / "m"
    folder.mkdir(parents=True)
    (folder / "weights.pt").touch()
    with pytest.raises(InputError, match=r"--name: no training 'm' to resume .*leave --resume out"):
        here(tmp_path, resume=True)
    (folder / "journal.jsonl").write_text('{"event": "study", "time": 1.0}\n')
    with pytest.raises(InputError, match=r"--name: .*does not begin with a training"):
        here(tmp_path, resume=True)


def test_a_server_that_is_down_gets_the_training_later(tmp_path, monkeypatch, caplog):
    def refuse(*arguments, **options):
        raise ConnectionError("no answer from http://user:secret@host:1")

    with monkeypatch.context() as patched:
        patched.setattr("esam_tune.final_training.publication.log_training", refuse)
        document = here(tmp_path, register="digits")
    assert (document["mlflow_run_id"], document["registered"]) == (None, None)
    assert "--resume sends it again" in caplog.text
    assert "secret" not in caplog.text
    logged = []

    def take(*arguments, **options):
        logged.append(options)
        raise ConnectionError

    monkeypatch.setattr("esam_tune.final_training.publication.log_training", take)
    again = here(tmp_path, resume=True)
    assert again["weights_digest"] == document["weights_digest"]
    (sent,) = logged
    assert [metrics for metrics, _ in sent["epochs"]] == document["history"]


def test_a_training_that_is_stopped_while_its_model_is_sent_says_so(tmp_path, monkeypatch):
    said = []

    def last_word(live):
        said.append(live._verdict)

    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("esam_tune.final_training.publication.log_training", stop)
    monkeypatch.setattr(LiveRun, "_send", last_word)
    with pytest.raises(KeyboardInterrupt):
        here(tmp_path)
    assert said[-1] == ("KILLED", "interrupted")


def test_weights_that_were_changed_are_not_logged_as_the_trained_ones(tmp_path, unpublished):
    document = here(tmp_path)
    kept = torch.load(document["weights"], weights_only=True)
    name = next(iter(kept))
    kept[name] = kept[name] + 1e-3
    assert weights_digest(kept) != document["weights_digest"]
    torch.save(kept, document["weights"])
    with pytest.raises(RunFailedError, match=r"weights.pt is not what the training wrote"):
        weights.load_weights_file(Path(document["weights"]), document["weights_digest"])
    Path(document["weights"]).write_bytes(b"no zip archive")
    with pytest.raises(RunFailedError, match=r"weights.pt is not what the training wrote"):
        weights.load_weights_file(Path(document["weights"]), document["weights_digest"])


def test_the_settings_lead_back_to_the_runs_of_their_study(tmp_path, monkeypatch):
    storage = tmp_path / "runs"
    study = WrittenStudy(storage / "small" / "journal.jsonl", study_spec(), tracking_uri=None)
    trial_id = study.start({"optimizer": "sam", "rho": 0.2})
    Cursor(parent_run_id="p", run_ids={trial_id: "c"}).save(storage / "small" / "tracking.json")
    origin = {"study": "small", "trial_id": trial_id, "workers": 1, "a key = none": 1}
    settings = {**SETTINGS, "params": {"optimizer": "sam", "rho": 0.2}, "origin": origin}

    def found(**changes):
        options = TrainOptions(storage=storage, name="m")
        return lineage(draw_up(trial_settings(settings | changes), options))

    said = {"study": "small", "trial_id": "0000", "workers": "1"}
    runs = {"study_id": "a1b2", "study_run_id": "p", "trial_run_id": "c"}
    assert found() == said | runs
    # Of a study that is not the one they come from, nothing is claimed.
    assert found(params={"optimizer": "sam", "rho": 0.3}) == said
    assert found(origin={**origin, "trial_id": "0007"}) == said | {"trial_id": "0007"}
    assert found(origin={**origin, "study": "../small"}) == said | {"study": "../small"}
    assert found(origin={}) == {"workers": "1"}

    def refuse(path):
        raise PermissionError("another user's")

    # What only adds to the run in MLflow stops no training.
    monkeypatch.setattr(Cursor, "load", refuse)
    assert found() == said


def test_a_checkpoint_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="--checkpoint-storage: cannot write to"):
        here(tmp_path, checkpoint_storage=str(tmp_path / "file" / "x"))
    assert not (tmp_path / "runs").exists()


def test_weights_that_cannot_be_written_leave_no_torn_file(tmp_path, monkeypatch):
    def fail(state, path):
        Path(path).write_bytes(b"torn")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="No space"):
        weights.save_weights({}, tmp_path / "weights.pt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.e2e
@pytest.mark.parametrize(("stop", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_training_says_how_to_go_on(tmp_path, stop, code):
    settings = {**SETTINGS, "training": {**SETTINGS["training"], "epochs": 10_000}}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    process = subprocess.Popen(
        command_line("train", tmp_path / "settings.yaml", "--storage", tmp_path / "runs"),
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=REPOSITORY,
    )
    try:
        lines = iter(process.stderr.readline, "")
        assert any(line.startswith("epoch 1/") for line in lines)
        os.kill(process.pid, stop)
        rest = [line.rstrip() for line in lines]
        assert process.wait(60) == code
    finally:
        process.kill()
        process.stderr.close()
    said = [line for line in rest if not line.startswith("epoch ")]
    again = "go on with it: --name model --resume"
    assert said == [f"esam-tune: {stop.name} ended the training; {again}"]
    kinds = [event["event"] for event in events(tmp_path / "runs", "model")]
    assert kinds[:2] == ["training", "epoch"]
    # However far MLflow's thread had come: no store, or one that works.
    left = {path.name for path in (tmp_path / "runs").iterdir()}
    assert left - {"mlflow.db", "mlartifacts"} == {"models"}
    assert connect(local_uri(tmp_path / "runs")).search_experiments()


def test_a_test_split_that_cannot_be_read_is_found_before_the_training(tmp_path, monkeypatch):
    monkeypatch.setenv("ESAM_TUNE_DATA", str(tmp_path / "kept"))
    images = write_images(tmp_path / "images", ["train", "test"], count=4)
    (images / "test" / "bee" / "0.png").write_bytes(b"damaged")
    task = {"dataset": "folder", "model": "small_cnn", "data_dir": str(images), "image_size": 8}
    training = {"epochs": 1, "batch_size": 2, "lr": 0.05}
    seen = []
    with pytest.raises(InputError, match=r"0\.png' cannot be read"):
        here(tmp_path, seen.append, settings={**SETTINGS, "task": task, "training": training})
    assert seen == []
    assert not (tmp_path / "runs").exists()
