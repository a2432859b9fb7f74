"""What a journal tells: trials, the front, picks and the JSON document."""

import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from study_events import WrittenStudy, study_spec

from esam_tune import journal
from esam_tune.config import trial_settings
from esam_tune.errors import InputError
from esam_tune.journal import Journal, JournalError
from esam_tune.study.folder import study_folder
from esam_tune.study.record import StudyRecord
from esam_tune.study.results import export_settings, front_csv, summarise, write_results
from esam_tune.yaml_file import read_yaml

SCHEMA = json.loads(Path(__file__).with_name("study.schema.json").read_text())

# Few different values, so that ties and equal rows are common.
RATIOS = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
TRIALS = st.lists(
    st.tuples(
        RATIOS | st.none(),
        RATIOS | st.none(),
        st.sampled_from(["complete", "complete", "complete", "failed", "pruned", "running"]),
    ),
    max_size=8,
)


def study_in(folder, trials, /, **changes):
    """A study of (accuracy, cost, state) trials, numbered from 0000."""
    study = WrittenStudy(folder / "small" / "journal.jsonl", study_spec(**changes))
    for accuracy, cost, state in trials:
        if state == "running":
            trial_id = study.start()
            study.epoch(trial_id, 1, val_accuracy=accuracy, step_flops_ratio=cost)
        else:
            study.trial(accuracy, cost, state)
    study.writer.close()
    return study


def ids(trials):
    return [trial.trial_id for trial in trials]


def brute_force_front(trials, most_cost=float("inf"), least_accuracy=-float("inf")):
    allowed = [
        (index, accuracy, cost)
        for index, (accuracy, cost, state) in enumerate(trials)
        if state == "complete"
        and accuracy is not None
        and cost is not None
        and cost <= most_cost
        and accuracy >= least_accuracy
    ]
    front = [
        (cost, index)
        for index, accuracy, cost in allowed
        if not any(
            a >= accuracy and c <= cost and (a > accuracy or c < cost) for _, a, c in allowed
        )
    ]
    return [f"{index:04d}" for _, index in sorted(front)]


@given(trials=TRIALS, most_cost=RATIOS | st.none(), least_accuracy=RATIOS | st.none())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
def test_the_front_is_the_brute_force_front(tmp_path, trials, most_cost, least_accuracy):
    (tmp_path / "small" / "journal.jsonl").unlink(missing_ok=True)
    record = study_in(tmp_path, trials).record()
    maximum = {} if most_cost is None else {"step_flops_ratio": most_cost}
    minimum = {} if least_accuracy is None else {"val_accuracy": least_accuracy}
    bounds = {}
    if most_cost is not None:
        bounds["most_cost"] = most_cost
    if least_accuracy is not None:
        bounds["least_accuracy"] = least_accuracy
    expected = brute_force_front(trials, **bounds)
    assert ids(record.front(maximum, minimum)) == expected
    for rule in ("accuracy", "cost", "knee"):
        chosen = record.pick(rule, maximum, minimum)
        assert (chosen is None) == (not expected)
        assert chosen is None or chosen.trial_id in expected


SIX = [
    (0.70, 1.0, "complete"),
    (0.95, 1.4, "complete"),
    (0.97, 2.0, "complete"),
    (0.99, 1.1, "failed"),
    (0.98, 1.2, "pruned"),
    (0.60, 1.9, "complete"),
    (0.99, 1.0, "running"),
]


@pytest.mark.parametrize(
    ("rule", "maximum", "minimum", "chosen"),
    [
        ("accuracy", {}, {}, "0002"),
        ("cost", {}, {}, "0000"),
        ("knee", {}, {}, "0001"),
        ("accuracy", {"step_flops_ratio": 1.4}, {}, "0001"),
        ("cost", {}, {"val_accuracy": 0.96}, "0002"),
        ("knee", {"step_flops_ratio": 0.5}, {}, None),
        ("accuracy", {"epoch": 1}, {}, None),
        ("accuracy", {"step_time_ratio": 9}, {}, None),
    ],
)
def test_the_pick_keeps_the_constraints(tmp_path, rule, maximum, minimum, chosen):
    record = study_in(tmp_path, SIX).record()
    picked = record.pick(rule, maximum, minimum)
    assert (picked and picked.trial_id) == chosen


def test_an_excluded_trial_dominates_no_one(tmp_path):
    record = study_in(tmp_path, [(0.9, 1.0, "complete"), (0.8, 1.5, "complete")]).record()
    assert ids(record.front()) == ["0000"]
    assert ids(record.front({"val_accuracy": 0.85})) == ["0001"]


def test_a_record_counts_what_its_journal_holds(tmp_path):
    study = study_in(tmp_path, SIX, trials=9)
    record = study.record()
    assert ids(record.complete) == ["0000", "0001", "0002", "0005"]
    assert ids(record.finished) == ["0000", "0001", "0002", "0003", "0004", "0005"]
    assert record.remaining == 2
    assert record.trials["0003"].reason == "because"
    assert (record.trials["0000"].epochs, record.trials["0006"].epochs) == (2, 1)
    assert record.spec == study.spec


def test_baselines_count_in_no_budget_and_a_new_budget_counts_at_once(tmp_path):
    study = WrittenStudy(tmp_path / "journal.jsonl", study_spec(trials=3))
    study.trial(0.7, 1.0, params={"optimizer": "sgd"}, baseline=True)
    study.trial(0.7, 1.0, number=0)
    assert study.record().remaining == 2
    study.writer.append(journal.BUDGET, space=study_spec(trials=10).to_dict())
    assert study.record().remaining == 9


def test_checkpoints_are_kept_oldest_first(tmp_path):
    study = WrittenStudy(tmp_path / "journal.jsonl", study_spec())
    trial_id = study.start()
    for path in ("first", "second"):
        study.writer.append(journal.CHECKPOINT, trial_id=trial_id, path=path)
    assert study.record().runs[trial_id].checkpoints == ["first", "second"]


@pytest.mark.parametrize(
    ("events", "reason"), [([], "is empty"), ([journal.STUDY_RESUME], "does not begin with a")]
)
def test_a_journal_without_a_study_is_named(tmp_path, events, reason):
    writer = Journal(tmp_path / "journal.jsonl")
    for kind in events:
        writer.append(kind)
    with pytest.raises(JournalError, match=reason):
        StudyRecord.from_journal(writer.path)


@pytest.mark.parametrize(
    "trials", [SIX, [], [(None, None, "failed")]], ids=["six", "none", "failed"]
)
def test_the_document_keeps_the_contract(tmp_path, trials):
    study_in(tmp_path, trials)
    folder = study_folder(tmp_path, "small")
    document = summarise(folder, folder.record())
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(json.dumps(document)))
    assert (document["study"], document["storage"]) == ("small", str(tmp_path))
    assert document["objectives"] == {"val_accuracy": "max", "step_flops_ratio": "min"}
    assert document["front"] == brute_force_front(trials)
    assert len(document["trials"]) == sum(state != "running" for _, _, state in trials)
    assert all(trial["mlflow_run_id"] is None for trial in document["trials"])


def test_the_contract_in_the_test_can_be_broken(tmp_path):
    study_in(tmp_path, SIX)
    folder = study_folder(tmp_path, "small")
    document = summarise(folder, folder.record())
    document["trials"][0]["state"] = "running"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, SCHEMA)


def test_the_document_knows_the_runs_on_the_tracking_server(tmp_path):
    study_in(tmp_path, SIX[:2])
    folder = study_folder(tmp_path, "small")
    folder.cursor.write_text('{"offset": 9, "parent_run_id": "p", "run_ids": {"0001": "child"}}')
    document = summarise(folder, folder.record())
    assert document["parent_run_id"] == "p"
    assert [trial["mlflow_run_id"] for trial in document["trials"]] == [None, "child"]


def test_the_chosen_settings_train_that_trial(tmp_path):
    study = WrittenStudy(tmp_path / "small" / "journal.jsonl", study_spec(seed=5))
    params = {"optimizer": "esam", "beta": 0.5, "gamma": 0.4, "rho": 0.3}
    study.trial(0.9, 1.3, params=params)
    record = study.record()
    path = tmp_path / "chosen.yaml"
    export_settings(record, record.pick("knee"), path)
    settings = trial_settings(read_yaml(path, "SETTINGS"))
    assert settings.params.items() >= params.items()
    assert (settings.task, settings.training) == (study.spec.task, study.spec.training)
    assert settings.seed == 5
    assert settings.origin == {
        "study": "small",
        "trial_id": "0000",
        "workers": 1,
        "metrics": {"val_accuracy": 0.9, "step_flops_ratio": 1.3},
    }


def test_the_ninth_trials_settings_name_the_ninth_trial(tmp_path):
    study = study_in(tmp_path, [(0.1, 2.0, "complete")] * 8 + [(0.9, 1.0, "complete")])
    record = study.record()
    export_settings(record, record.pick("knee"), tmp_path / "chosen.yaml")
    document = read_yaml(tmp_path / "chosen.yaml", "SETTINGS")
    assert document["origin"]["trial_id"] == "0008"


def test_settings_that_cannot_be_written_raise_what_the_system_says(tmp_path):
    record = study_in(tmp_path, SIX).record()
    with pytest.raises(OSError, match="journal"):
        export_settings(record, record.pick("knee"), tmp_path / "small" / "journal.jsonl" / "x")


@pytest.mark.parametrize(
    ("maximum", "minimum", "field", "problem"),
    [
        ({"step_flop_ratio": 1}, {}, "--max", "unknown metric 'step_flop_ratio'"),
        ({}, {"val_acc": 1}, "--min", "unknown metric 'val_acc'"),
        ({}, {"test_accuracy": 0.5}, "--min", "unknown metric 'test_accuracy'"),
        ({"step_flops_ratio": 1.0}, {"step_flops_ratio": 2.0}, "--m", "step_flops_ratio"),
    ],
)
@pytest.mark.parametrize("trials", [SIX, []], ids=["six", "none"])
def test_wrong_constraints_are_refused(tmp_path, trials, maximum, minimum, field, problem):
    study_in(tmp_path, trials)
    folder = study_folder(tmp_path, "small")
    with pytest.raises(InputError) as caught:
        summarise(folder, folder.record(), maximum=maximum, minimum=minimum)
    assert caught.value.field.startswith(field)
    assert problem in caught.value.problem


@pytest.mark.parametrize("metric", ["epoch", "images_per_second", "step_time_ratio"])
def test_any_reported_metric_may_be_bounded_before_there_is_a_trial(tmp_path, metric):
    study_in(tmp_path, [])
    folder = study_folder(tmp_path, "small")
    assert summarise(folder, folder.record(), maximum={metric: 1.0})["front"] == []


def test_the_results_of_a_study_are_its_table_its_picture_and_its_pick(tmp_path):
    study_in(tmp_path, SIX)
    folder = study_folder(tmp_path, "small")
    record = folder.record()
    written = write_results(folder, record)
    assert [path.name for path in written] == ["front.csv", "front.png", "chosen.yaml"]
    assert written[1].read_bytes().startswith(b"\x89PNG")
    assert read_yaml(folder.chosen, "SETTINGS")["origin"]["trial_id"] == "0001"
    header, *rows = [line.split(",") for line in front_csv(record).splitlines()]
    marked = {row[0] for row in rows if row[header.index("on_front")] == "True"}
    assert (len(rows), marked) == (4, {"0000", "0001", "0002"})


def test_each_epoch_has_its_accuracy_though_one_was_lost_or_told_again(tmp_path):
    study = WrittenStudy(tmp_path / "small" / "journal.jsonl", study_spec())
    trial = study.start()
    for epoch, accuracy in ((1, 0.1), (3, 0.3), (4, 0.5), (4, 0.4)):
        study.epoch(trial, epoch, val_accuracy=accuracy)
    study.writer.close()
    assert study.record().runs[trial].accuracies == [0.1, 0.3, 0.3, 0.4]


def test_a_setting_that_more_seeds_have_taken_off_the_front_is_no_chosen_file(tmp_path):
    study = WrittenStudy(
        tmp_path / "small" / "journal.jsonl", study_spec(constraints={"val_accuracy": ">= 0.9"})
    )
    trial = study.trial(0.91, 1.5)
    folder = study_folder(tmp_path, "small")
    assert folder.chosen in write_results(folder, study.record(), all_plots=False)
    run = study.replicate(trial, 1)
    study.epoch(run, 2, val_accuracy=0.85, step_flops_ratio=1.5)
    study.end(run)
    study.writer.close()
    assert folder.chosen not in write_results(folder, study.record(), all_plots=False)
    assert not folder.chosen.exists()


def test_a_study_without_a_complete_trial_has_a_table_alone(tmp_path):
    study_in(tmp_path, [(None, None, "failed")])
    folder = study_folder(tmp_path, "small")
    assert [path.name for path in write_results(folder, folder.record())] == ["front.csv"]


def test_a_study_of_three_objectives_has_results_too(tmp_path):
    objectives = {"val_accuracy": "max", "step_flops_ratio": "min", "step_time_ratio": "min"}
    study = WrittenStudy(tmp_path / "small" / "journal.jsonl", study_spec(objectives=objectives))
    for accuracy, flops, seconds in [(0.7, 1.0, 1.0), (0.9, 1.4, 1.6), (0.9, 1.6, 1.5)]:
        trial_id = study.start()
        values = {"val_accuracy": accuracy, "step_flops_ratio": flops, "step_time_ratio": seconds}
        study.epoch(trial_id, 2, **values)
        study.end(trial_id)
    folder = study_folder(tmp_path, "small")
    record = folder.record()
    assert ids(record.front()) == ["0000", "0001", "0002"]
    document = summarise(folder, record)
    jsonschema.validate(document, SCHEMA)
    assert document["chosen"]["trial_id"] in document["front"]


def test_an_elastic_trial_is_exported_with_the_workers_that_trained_its_last_epoch(tmp_path):
    path = tmp_path / "small" / "journal.jsonl"
    study = WrittenStudy(path, study_spec(), workers_per_trial=4, min_workers=1)
    trial_id = study.start()
    exported = []
    for epoch, workers in ((1, 4), (2, 2), (None, 3)):
        study.writer.append(journal.WORKERS, trial_id=trial_id, setup={"workers": workers})
        if epoch:
            study.epoch(trial_id, epoch, val_accuracy=0.9, step_flops_ratio=1.0)
        record = StudyRecord.from_journal(path)
        settings_ = record.chosen_document(record.trials[trial_id])["settings"]
        exported.append(settings_["origin"]["workers"])
    study.writer.close()
    # The third group has not finished an epoch.
    assert exported == [4, 2, 2]


def test_a_trial_of_a_fixed_count_is_exported_with_it(tmp_path):
    path = tmp_path / "small" / "journal.jsonl"
    study = WrittenStudy(path, study_spec(), workers_per_trial=4)
    trial_id = study.trial(0.9, 1.0)
    study.writer.close()
    record = StudyRecord.from_journal(path)
    document = record.chosen_document(record.trials[trial_id])
    assert document["settings"]["origin"]["workers"] == 4
