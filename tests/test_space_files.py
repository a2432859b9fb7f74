"""The files in search_spaces/, their JSON schema, and the verb that lists and checks them."""

import json

import jsonschema
import pytest
import yaml
from conftest import REPOSITORY, esam_tune
from hypothesis import given
from hypothesis import strategies as st
from study_events import space_document

from esam_tune.errors import InputError
from esam_tune.study.space import load_space, parse_space
from esam_tune.study.space_schema import space_schema

SPACES = sorted((REPOSITORY / "search_spaces").glob("*.yaml"))
PUBLISHED = REPOSITORY / "search_spaces" / "space.schema.json"
VALIDATOR = jsonschema.Draft202012Validator(space_schema())


def test_the_published_schema_is_the_one_of_this_version():
    assert json.loads(PUBLISHED.read_text()) == space_schema()
    jsonschema.Draft202012Validator.check_schema(space_schema())


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_parser_and_schema_accept_every_shipped_space(path):
    spec = load_space(path)
    assert spec.name == path.stem
    assert spec.description
    # An editor that follows the line at the top finds the schema beside the file.
    assert path.read_text().startswith("# yaml-language-server: $schema=space.schema.json\n")
    VALIDATOR.validate(yaml.safe_load(json.dumps(spec.to_dict())))


@pytest.mark.parametrize(
    "changes",
    [
        {"trials": 0},
        {"trials": "many"},
        {"trails": 3},
        {"search": {"beta": {"low": 0.3, "high": 1.0}}},
        {"search": {"optimizer": "esam", "beta": {"low": 0.0, "high": 1.0}}},
        {"search": {"optimizer": "esam", "beta": {"low": 0.1}}},
        {"search": {"optimizer": {"choices": ["adamw"]}}},
        {"search": {"optimizer": {"low": 1, "high": 2}}},
        {"objectives": {"val_accuracy": "min", "step_flops_ratio": "min"}},
        {"constraints": {"step_flops_ratio": 1.4}},
        {"baselines": [{"rho": 0.1}]},
        {"task": {"dataset": "digits"}},
        {"sampler": "best"},
        {"early_stopping": {"kind": "asha", "eta": 1.0}},
    ],
    ids=str,
)
def test_parser_and_schema_refuse_the_same_mistakes(changes):
    document = space_document(**changes)
    assert not VALIDATOR.is_valid(document)
    with pytest.raises(InputError):
        parse_space(document, default_name="x")


@given(
    st.dictionaries(
        st.sampled_from(["beta", "gamma", "rho", "every", "selection", "lr", "alpha"]),
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(-2, 9),
            st.floats(-1, 2, allow_nan=False),
            st.fixed_dictionaries({"choices": st.lists(st.floats(0.1, 2), max_size=3)}),
            st.fixed_dictionaries({"low": st.floats(-1, 1), "high": st.floats(-1, 2)}),
        ),
        max_size=3,
    )
)
def test_the_schema_accepts_whatever_the_parser_accepts(searched):
    document = space_document(search={"optimizer": "esam", **searched})
    try:
        parse_space(document, default_name="x")
    except InputError:
        return
    assert VALIDATOR.is_valid(document)


def test_a_field_is_set_over_the_file_s(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump(space_document()))
    spec = load_space(
        path,
        [
            "task.label_noise=0.2",
            "search.every={choices: [1, 2]}",
            "constraints.step_flops_ratio=<= 1.5",
            "baselines=",
            "training.lr=5e-2",
        ],
    )
    assert spec.task.label_noise == 0.2
    assert spec.dimensions["every"].choices == (1, 2)
    assert [str(c) for c in spec.constraints] == ["<= 1.5"]
    assert spec.baselines == ()
    assert spec.training.lr == 0.05


@pytest.mark.parametrize(
    ("assignment", "field"),
    [
        ("task.label_noise", "--set"),
        ("=3", "--set"),
        ("task..x=3", "--set"),
        ("trials.deeper=3", "--set"),
        ("task.label_noise={", "--set"),
        ("task.label_noise=2", "task.label_noise"),
        ("task.lable_noise=0.2", "task.lable_noise"),
    ],
)
def test_what_cannot_be_set_is_named(tmp_path, assignment, field):
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump(space_document()))
    with pytest.raises(InputError) as caught:
        load_space(path, [assignment])
    assert caught.value.field == field


@pytest.mark.e2e
def test_the_verb_lists_right_files_and_names_wrong_ones(tmp_path):
    (tmp_path / "right.yaml").write_text(yaml.safe_dump(space_document(name="right")))
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(space_document(trials=0)))
    answer = esam_tune("spaces", tmp_path)
    assert answer.returncode == 2
    assert "right.yaml" in answer.stdout
    assert "wrong.yaml" not in answer.stdout
    (line,) = answer.stderr.splitlines()
    assert "wrong.yaml: trials: must be an integer in [1, 1000000], got 0" in line
    shown = esam_tune("spaces", tmp_path / "right.yaml", "--json")
    assert shown.returncode == 0
    (row,) = json.loads(shown.stdout)
    assert row["searched"] == ["beta", "gamma", "rho"]


@pytest.mark.e2e
def test_the_verb_prints_the_schema_and_refuses_an_empty_folder(tmp_path):
    assert json.loads(esam_tune("spaces", "--schema").stdout) == space_schema()
    refused = esam_tune("spaces", tmp_path)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "PATH: no *.yaml file" in refused.stderr
