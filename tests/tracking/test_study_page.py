"""What a study's runs say: description, tags that move with the front, seeds, data set."""

import io
import json
import re
from pathlib import Path

import pytest
from mlflow_double import MlflowDouble, serving, wait_until
from PIL import Image
from shipped_study import DATASET, ShippedStudy
from study_events import WrittenStudy, study_spec

from esam_tune import journal
from esam_tune.study.description import describe_study, escape_markdown
from esam_tune.study.tracked_study import TrackedStudy
from esam_tune.tracking import spool
from esam_tune.tracking.store import artifact_root, connect, local_uri


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(spool, "_POLL_SECONDS", 0.01)


@pytest.fixture
def double():
    return MlflowDouble()


@pytest.fixture
def study(tmp_path, double):
    with serving(double) as uri:
        yield ShippedStudy(tmp_path, uri)


def shown(double, tag):
    """Trial id -> a tag's value, of the runs that have it."""
    runs = double.snapshot()
    return {key: run["tags"][tag] for key, run in runs.items() if key and tag in run["tags"]}


def test_the_studys_run_says_what_it_is(study, double):
    study.write_all()
    assert study.ship()
    run = double.snapshot()[""]
    assert (run["name"], run["status"]) == ("small", "FINISHED")
    expected = {
        "study": "small",
        "task": "digits",
        "model": "small_cnn",
        "device": "CPU",
        "seed": "0",
        "git_commit": "1a2b3c4",
        "version.torch": "2.14.1",
        "chosen": "0004",
        "esam_tune.kind": "study",
        "esam_tune.trials": "5",
    }
    assert {key: run["tags"][key] for key in expected} == expected
    assert run["artifacts"] == ["front.csv", "front.png", "front.png", "space.yaml"]
    sizes = {
        path.partition("/artifacts/")[2]: Image.open(io.BytesIO(content)).size
        for path, content in double.artifacts.items()
        if path.endswith(".png")
    }
    # The description shows a picture as large as it is.
    assert sizes == {"front.png": (1800, 1200), "description/front.png": (720, 480)}
    (logged,) = run["inputs"]
    assert logged["tags"] == [{"key": "mlflow.data.context", "value": "training"}]
    dataset = logged["dataset"]
    assert (dataset["name"], dataset["digest"]) == (DATASET["name"], DATASET["digest"])
    assert json.loads(dataset["profile"]) == DATASET["profile"]


def test_children_say_what_they_are(study, double):
    study.write_all()
    assert study.ship()
    names = {key: run["name"] for key, run in double.snapshot().items()}
    assert names["0000"] == "SGD"
    assert names["0001"] == "ESAM beta=0.60 gamma=0.50 rho=0.050"
    assert shown(double, "baseline") == {"0000": "true"}
    assert shown(double, "pruned") == {"0003": "true"}
    assert shown(double, "chosen") == {"0004": "true"}
    assert shown(double, "pareto") == {"0000": "front", "0001": "dominated", "0004": "front"}
    assert shown(double, "study") == dict.fromkeys(names.keys() - {""}, "small")


def test_a_trials_seeds_are_runs_below_it_and_their_mean_is_its_own(study, double):
    study.write_all()
    assert study.ship()
    runs = double.snapshot()
    for number, (key, value) in enumerate((("0004-s1", 0.92), ("0004-s2", 0.94)), 1):
        run = runs[key]
        assert (run["name"], run["tags"]["mlflow.parentRunId"]) == (f"seed {number}", "0004")
        assert run["tags"]["seed"] == str(number)
        assert run["params"] == runs["0004"]["params"]
        assert {m[2] for m in run["metrics"] if m[0] == "val_accuracy"} == {value}
        assert "pareto" not in run["tags"]
    means = [m[1:3] for m in runs["0004"]["metrics"] if m[0] == "val_accuracy_mean"]
    # After two seeds and after three: the number of seeds is the step.
    assert means == [(2, pytest.approx(0.91)), (3, pytest.approx(0.92))]
    errors = [m[1:3] for m in runs["0004"]["metrics"] if m[0] == "val_accuracy_stderr"]
    assert errors == [(2, pytest.approx(0.01)), (3, pytest.approx(0.02 / 3**0.5))]


def test_a_mean_waits_for_the_last_seed_that_is_running(study, double):
    trial = study.study.trial(0.9, 1.4, number=0)
    first, second = study.study.replicate(trial, 1), study.study.replicate(trial, 2)
    for run, accuracy in ((second, 0.94), (first, 0.92)):
        for epoch in (1, 2):
            study.study.epoch(run, epoch, val_accuracy=accuracy, step_flops_ratio=1.4)
        study.study.end(run)
    assert study.ship()
    metrics = double.snapshot()[trial]["metrics"]
    assert [m[1] for m in metrics if m[0] == "val_accuracy_mean"] == [3]


def test_few_metric_keys_however_many_trials(study, double):
    study.write_all()
    assert study.ship()
    keys = {metric[0] for run in double.snapshot().values() for metric in run["metrics"]}
    assert len(keys) <= 16


@pytest.mark.parametrize("same_process", [True, False])
def test_a_front_that_changes_leaves_no_stale_tags(study, double, same_process, monkeypatch):
    monkeypatch.setattr(spool, "_VIEW_SECONDS", 0.0)
    first = study.study.trial(0.8, 1.4, number=0)
    tracker = study.tracker()
    tracker.ship_all()
    assert (shown(double, "pareto"), shown(double, "chosen")) == ({first: "front"}, {first: "true"})
    second = study.study.trial(0.9, 1.3, number=1)
    (tracker if same_process else study.tracker()).ship_all()
    assert shown(double, "pareto") == {first: "dominated", second: "front"}
    assert shown(double, "chosen") == {second: "true"}
    assert double.snapshot()[""]["tags"]["chosen"] == second
    # A further seed breaks down, and with it the setting: it is on no front any more.
    run = study.study.replicate(second, 1)
    study.study.epoch(run, 1, val_accuracy=None, step_flops_ratio=1.3)
    study.study.end(run, "failed", "val_loss is not finite")
    (tracker if same_process else study.tracker()).ship_all()
    assert shown(double, "pareto") == {first: "front"}
    assert shown(double, "chosen") == {first: "true"}


def test_a_trial_that_breaks_a_constraint_is_tagged_so(tmp_path, double):
    spec = study_spec(constraints={"step_flops_ratio": "<= 1.5"})
    with serving(double) as uri:
        study = ShippedStudy(tmp_path, uri, spec=spec)
        study.study.trial(0.8, 1.4, number=0)
        study.study.trial(0.9, 1.6, number=1)
        assert study.ship()
    assert shown(double, "pareto") == {"0000": "front", "0001": "infeasible"}


def test_the_description_is_renewed_now_and_then_and_at_the_end(study, double, monkeypatch):
    monkeypatch.setattr(spool, "_VIEW_SECONDS", 3600.0)
    tracker = study.tracker()
    tracker.start()
    wait_until(lambda: "runs/set-tag" in double.requests)
    for number in range(20):
        study.study.trial(0.8 + number / 200, 1.4, number=number)
        wait_until(lambda: tracker.cursor.offset == study.study.path.stat().st_size)
    assert double.requests.count("runs/set-tag") == 1
    assert tracker.close(60)
    assert double.requests.count("runs/set-tag") == 2
    assert "0019" in double.snapshot()[""]["tags"]["mlflow.note.content"]


def test_a_description_has_question_front_and_choice(study, double):
    study.write_all()
    assert study.ship()
    text = double.snapshot()[""]["tags"]["mlflow.note.content"]
    assert text.startswith("**Question.** a study for tests\n")
    assert "Maximise `val_accuracy` and minimise `step_flops_ratio`" in text
    assert "4 of 5 search trials and 1 baseline begun: 3 complete, 1 pruned, 1 failed" in text
    rows = [line for line in text.splitlines() if line.startswith("| 00")]
    assert [row.split(" | ")[0] for row in rows] == ["| 0000", "| 0004"]
    assert "92.0% ± " in rows[1]
    assert rows[1].endswith("| 3 | **chosen**, front |")
    setting = escape_markdown("ESAM beta=0.60 gamma=0.50 rho=0.050")
    assert f"**Chosen** by knee: trial 0004, {setting}, with val acc 92.0% ± " in text
    assert "esam-tune pareto small --pick knee --export settings.yaml" in text
    assert text.endswith("(get-artifact?path=description/front.png&run_uuid=ID)")


def test_a_description_fits_every_server(tmp_path, double):
    with serving(double) as uri:
        study = ShippedStudy(tmp_path, uri, spec=study_spec(description="why " * 3000, trials=200))
        for number in range(100):
            study.study.trial(0.5 + number / 300, 1.0 + number / 100, number=number)
        study.write_end("done")
        assert study.ship()
    text = double.snapshot()[""]["tags"]["mlflow.note.content"]
    assert len(text) <= 5000
    assert text.endswith("(get-artifact?path=description/front.png&run_uuid=ID)")
    record = study.study.record()
    lines = describe_study(record, "knee").splitlines()
    assert sum(line.startswith("| 00") for line in lines) == 20
    assert any(line.startswith("80 more trials are on the front") for line in lines)


@pytest.mark.parametrize(
    "typed",
    [
        "<script>alert(1)</script>",
        "![x](http://elsewhere/x.png)",
        "[click](javascript:alert(1))",
        "# a heading\n\n- a list | a cell",
        "`code` **bold** _slanted_ ~~gone~~",
        "http://elsewhere/ &lt;b&gt;",
    ],
)
def test_what_users_typed_stays_text(tmp_path, typed):
    escaped = escape_markdown(typed)
    assert "\n" not in escaped
    assert "<" not in escaped
    assert ":" not in escaped
    assert not re.search(r"(?<![\\&])[\[\]()#`*_|~!]", escaped)
    study = WrittenStudy(tmp_path / "journal.jsonl", study_spec(description=typed))
    study.trial(0.9, 1.4, number=0, label=typed)
    text = describe_study(study.record(), "knee")
    assert text.count(escaped) == 3
    assert typed not in text.replace(escaped, "")


def test_a_study_without_a_finished_trial_is_described_too(tmp_path):
    study = WrittenStudy(tmp_path / "journal.jsonl", study_spec())
    assert "none yet" in describe_study(study.record(), "knee")
    study.start(number=0)
    assert "1 running" in describe_study(study.record(), "knee")


def test_a_description_says_that_no_trial_keeps_the_constraints(tmp_path):
    spec = study_spec(constraints={"step_flops_ratio": "<= 1.5"})
    study = WrittenStudy(tmp_path / "journal.jsonl", spec)
    study.trial(0.9, 1.6, number=0)
    text = describe_study(study.record(), "knee")
    assert "subject to `step_flops_ratio <= 1.5`" in text
    assert "None: no complete trial keeps the constraints." in text


def test_artifacts_are_found_where_the_storage_was_moved_to(tmp_path, double):
    folder = tmp_path / "moved"
    folder.mkdir()
    (folder / "plots").mkdir()
    (folder / "plots" / "front.html").write_text("<html>")
    (folder / "front.csv").write_text("trial_id")
    with serving(double) as uri:
        study = ShippedStudy(folder, uri)
        listed = ["/no/longer/here/front.csv", "plots", "gone.png"]
        study.study.writer.append(journal.STUDY_END, state="done", artifacts=listed)
        assert study.ship()
    paths = sorted(path.partition("/artifacts/")[2] for path in double.artifacts)
    assert paths == ["front.csv", "plots/front.html", "space.yaml"]


def test_a_real_store_takes_all_of_it(tmp_path):
    """Limits, dataset inputs and tags as MLflow's own store has them."""
    uri = local_uri(tmp_path)
    study = ShippedStudy(tmp_path, uri)
    study.write_all()
    tracker = spool.Tracker(
        uri, artifact_root(tmp_path, uri), study.study.path, study.cursor, TrackedStudy()
    )
    tracker.ship_all()
    assert tracker.arrived
    client = connect(uri)
    parent = client.get_run(tracker.cursor.parent_run_id)
    (logged,) = parent.inputs.dataset_inputs
    assert (logged.dataset.name, logged.dataset.digest) == (DATASET["name"], DATASET["digest"])
    assert "**Chosen** by knee" in parent.data.tags["mlflow.note.content"]
    folder = Path(parent.info.artifact_uri.removeprefix("file://"))
    assert sorted(path.name for path in folder.rglob("*.*")) == [
        "front.csv",
        "front.png",
        "front.png",
        "space.yaml",
    ]
    found = client.search_runs(
        [parent.info.experiment_id], "tags.pareto = 'front' and tags.chosen = 'true'"
    )
    assert [run.data.tags["esam_tune.trial_id"] for run in found] == ["0004"]
    assert found[0].data.metrics["val_accuracy_mean"] == pytest.approx(0.92)
