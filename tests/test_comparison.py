"""Several studies on one front: what is of one scale, which bounds hold, what is told of each."""

from __future__ import annotations

import itertools
import json

import jsonschema
import pytest
import yaml
from conftest import TEST_DATA
from hypothesis import given
from hypothesis import strategies as st
from study_events import WrittenStudy, space_document, study_spec

from esam_tune.cli import main
from esam_tune.errors import InputError
from esam_tune.pareto_front import RULES
from esam_tune.study.comparison import Comparison
from esam_tune.study.folder import StudyFolder

TASK, TRAINING = space_document()["task"], space_document()["training"]


def write(storage, name, *trials, **changes):
    """A study of trials of an accuracy (or one a seed) and a cost."""
    folder = StudyFolder(storage=storage, name=name)
    study = WrittenStudy(folder.journal, study_spec(name=name, trials=99, **changes))
    for accuracies, cost in trials:
        first, *others = accuracies if isinstance(accuracies, tuple) else (accuracies,)
        trial_id = study.trial(first, cost)
        for seed, accuracy in enumerate(others, start=1):
            run = study.replicate(trial_id, seed)
            study.epoch(run, 2, val_accuracy=accuracy, step_flops_ratio=cost)
            study.end(run)
    study.writer.close()
    return folder


def named(rows):
    return [(row["study"], row["trial_id"]) for row in rows]


def test_one_front_holds_what_none_of_any_study_beats(tmp_path):
    first = write(tmp_path, "first", (0.7, 1.0), (0.8, 1.5), (0.95, 2.0))
    second = write(tmp_path, "second", (0.9, 1.5), (0.6, 1.2))
    comparison = Comparison([first, second], rule="accuracy")
    assert named(comparison.front) == [("first", "0000"), ("second", "0000"), ("first", "0002")]
    assert named(comparison.trials) == [
        *(("first", f"{i:04d}") for i in range(3)),
        *(("second", f"{i:04d}") for i in range(2)),
    ]
    assert [row["on_front"] for row in comparison.trials] == [True, False, True, True, False]
    assert (comparison.chosen.study, comparison.chosen.trial_id) == ("first", "0002")
    assert comparison.chosen.settings["origin"]["study"] == "first"


@st.composite
def studies(draw):
    """Two or three studies of a few coarse trials, so that ties and copies are common."""
    value = st.integers(0, 4)
    trials = st.lists(st.tuples(value, value), max_size=5)
    return draw(st.lists(trials, min_size=2, max_size=3))


@given(studies(), st.sampled_from(RULES))
def test_the_common_front_is_that_of_one_study_with_all_the_trials(tmp_path_factory, each, rule):
    storage = tmp_path_factory.mktemp("runs")
    points = [[(0.5 + a / 10, 1 + c / 10) for a, c in trials] for trials in each]
    names = "abc"[: len(points)]
    folders = [write(storage, name, *trials) for name, trials in zip(names, points, strict=True)]
    whole = Comparison([write(storage, "all", *itertools.chain(*points))], rule=rule)
    comparison = Comparison(folders, rule=rule)
    assert [row["on_front"] for row in comparison.trials] == [
        row["on_front"] for row in whole.trials
    ]
    if whole.chosen is None:
        assert comparison.chosen is None
    else:
        ids = [row["trial_id"] for row in whole.trials]
        assert named(comparison.trials)[ids.index(whole.chosen.trial_id)] == (
            comparison.chosen.study,
            comparison.chosen.trial_id,
        )


def test_the_tightest_of_the_studies_constraints_holds_for_all(tmp_path):
    bounds = ({"step_flops_ratio": "<= 1.8"}, {"step_flops_ratio": "<= 1.6"}, None)
    folders = [
        write(tmp_path, name, (0.7, 1.0), (0.8, 1.5), (0.9, 1.7), constraints=bound)
        for name, bound in zip("abc", bounds, strict=True)
    ]
    comparison = Comparison(folders)
    assert {row["step_flops_ratio"] for row in comparison.front} == {1.0, 1.5}
    assert comparison.document()["constraints"] == {"max": {"step_flops_ratio": 1.6}, "min": {}}
    asked = Comparison(folders, maximum={"step_flops_ratio": 1.7})
    assert {row["step_flops_ratio"] for row in asked.front} == {1.0, 1.5, 1.7}


def test_constraints_that_exclude_each_other_are_refused(tmp_path):
    low = write(tmp_path, "low", (0.7, 1.0), constraints={"val_accuracy": ">= 0.8"})
    high = write(tmp_path, "high", (0.7, 1.0), constraints={"val_accuracy": "<= 0.6"})
    with pytest.raises(InputError, match=r"at least 0\.8 and at most 0\.6"):
        Comparison([low, high])
    # A bound that is asked for takes the place of all theirs.
    assert len(Comparison([low, high], maximum={"val_accuracy": 1.0}).front) == 2
    bounds = {"minimum": {"val_accuracy": 0.1}, "maximum": {"val_accuracy": 1.0}}
    assert len(Comparison([low, high], **bounds).front) == 2


def test_ties_are_told_across_studies_by_the_seeds_both_ran(tmp_path):
    first = write(tmp_path, "first", ((0.90, 0.92, 0.91), 1.5), ((0.70, 0.71, 0.70), 1.0))
    second = write(tmp_path, "second", ((0.91, 0.90, 0.915), 1.6), (0.91, 1.7))
    comparison = Comparison([first, second], rule="accuracy")
    assert comparison.chosen.trial_id == "0000"
    assert comparison.chosen.tied == ["second/0000"]
    assert comparison.verdict().endswith(
        "tied with it in accuracy, by the seeds both ran: second/0000"
    )
    assert comparison.document()["tied_with_chosen"] == [{"study": "second", "trial_id": "0000"}]
    # Three seeds of one study alone say the same as before.
    assert Comparison([first], rule="accuracy").chosen.tied == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": TASK | {"label_noise": 0.2}}, "task.label_noise was 0.4, is 0.2"),
        ({"task": TASK | {"model": "resnet50"}}, "task.model was 'small_cnn', is 'resnet50'"),
        ({"training": TRAINING | {"epochs": 9}}, "training.epochs was 2, is 9"),
        (
            {"objectives": {"val_accuracy": "max", "step_time_ratio": "min"}},
            "objectives were 'val_accuracy: max, step_flops_ratio: min', are 'val_accuracy: max, "
            "step_time_ratio: min'",
        ),
        # By the first of each direction picks are made.
        (
            {"objectives": {"step_flops_ratio": "min", "val_accuracy": "max"}},
            "are 'step_flops_ratio: min, val_accuracy: max'",
        ),
    ],
)
def test_studies_of_another_scale_are_refused(tmp_path, changes, words):
    folders = [write(tmp_path, "one", (0.7, 1.0)), write(tmp_path, "other", (0.7, 1.0), **changes)]
    with pytest.raises(InputError) as error:
        Comparison(folders)
    assert error.value.problem.startswith("'other' cannot be compared with 'one': ")
    assert words in error.value.problem


def test_what_a_study_searches_and_its_learning_rate_may_differ(tmp_path):
    search = {"optimizer": "sam", "rho": {"low": 0.1, "high": 1.0}}
    other = write(
        tmp_path, "other", (0.9, 1.0), search=search, training=TRAINING | {"lr": 0.1}, sampler="gp"
    )
    assert len(Comparison([write(tmp_path, "one", (0.7, 1.2)), other]).front) == 1


def test_a_study_is_named_once_and_must_be_there(tmp_path):
    one = write(tmp_path, "one", (0.7, 1.0))
    with pytest.raises(InputError, match="'one' is named twice"):
        Comparison([one, one])
    with pytest.raises(InputError, match="no study 'two'"):
        Comparison([one, StudyFolder(storage=tmp_path, name="two")])
    with pytest.raises(InputError, match="did you mean 'cost'"):
        Comparison([one], rule="costs")


# --- the command line ------------------------------------------------------------------------


@pytest.fixture
def storage(tmp_path):
    write(tmp_path, "first", (0.7, 1.0), ((0.90, 0.91, 0.92), 1.5))
    write(tmp_path, "second", ((0.91, 0.90, 0.91), 1.4), (0.95, 2.0))
    write(tmp_path, "third", (0.7, 1.0), task=TASK | {"label_noise": 0.2})
    return tmp_path


def pareto(storage, *arguments):
    return main(["pareto", *arguments, "--storage", str(storage)])


def test_the_table_says_which_study_each_trial_is_of(storage, capsys):
    assert pareto(storage, "first", "second") == 0
    shown = capsys.readouterr().out
    rows = [line.split() for line in shown.splitlines()]
    assert [row[row[0] == "*"] for row in rows[1:5]] == [
        "first/0000",
        "second/0000",
        "first/0001",
        "second/0001",
    ]
    assert "* pick by knee: trial second/0000, ESAM" in shown
    assert "tied with it in accuracy, by the seeds both ran: first/0001" in shown


def test_one_study_prints_what_keeps_the_contract(storage, capsys):
    schema = json.loads((TEST_DATA / "study.schema.json").read_text(encoding="utf-8"))
    assert pareto(storage, "second", "--json") == 0
    jsonschema.validate(json.loads(capsys.readouterr().out), schema)


def test_several_studies_print_each_one_s_document_and_what_is_common(storage, capsys):
    schema = json.loads((TEST_DATA / "study.schema.json").read_text(encoding="utf-8"))
    assert pareto(storage, "first", "second", "--pick", "accuracy", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    for each in document["studies"]:
        jsonschema.validate(each, schema)
    assert [each["study"] for each in document["studies"]] == ["first", "second"]
    assert [each["chosen"]["trial_id"] for each in document["studies"]] == ["0001", "0001"]
    assert document["front"][0] == {"study": "first", "trial_id": "0000"}
    assert len(document["front"]) == 4
    chosen = document["chosen"]
    assert (chosen["study"], chosen["trial_id"]) == ("second", "0001")
    assert chosen["settings"]["origin"] == {
        "study": "second",
        "trial_id": "0001",
        "workers": 1,
        "metrics": {"val_accuracy": 0.95, "step_flops_ratio": 2.0},
    }


def test_the_pick_of_several_is_exported_with_its_origin(storage, capsys):
    path = storage / "settings.yaml"
    assert pareto(storage, "first", "second", "--max", "step_flops_ratio=1.45",
                  "--export", str(path)) == 0  # fmt: skip
    assert f"settings: {path}" in capsys.readouterr().out
    assert yaml.safe_load(path.read_text())["origin"]["study"] == "second"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["first", "third"], "'third' cannot be compared with 'first': task.label_noise was 0.4"),
        (["first", "first"], "'first' is named twice"),
        (["first", "fourth"], "no study 'fourth'"),
        (["first", "second", "--max", "step_flops_ratio=0.5", "--export", "x.yaml"], "no trial"),
        ([], "the following arguments are required: STUDY"),
    ],
)
def test_wrong_input_is_one_line(storage, capsys, arguments, words):
    before = sorted(storage.rglob("*"))
    assert pareto(storage, *arguments) == 2
    answer = capsys.readouterr()
    assert words in answer.err
    assert answer.err.count("\n") == 1
    assert answer.out == ""
    assert sorted(storage.rglob("*")) == before


def test_nothing_on_the_front_is_said(storage, capsys):
    assert pareto(storage, "first", "second", "--max", "step_flops_ratio=0.5") == 0
    assert capsys.readouterr().out == "no complete trial keeps the constraints\n"
    assert pareto(storage, "first", "second", "--max", "step_flops_ratio=0.5", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["front"], document["chosen"], document["tied_with_chosen"]) == ([], None, None)
