"""The written reference is the code's."""

import runpy

import pytest
from conftest import REPOSITORY

from esam_tune.config import OPTIMIZERS, PARAMETERS, TASK, TRAINING
from esam_tune.metrics import METRICS
from esam_tune.study.space_schema import space_schema

DOCUMENT = REPOSITORY / "docs" / "reference.md"


@pytest.fixture(scope="module")
def generator():
    return runpy.run_path(str(REPOSITORY / "docs" / "reference.py"))


@pytest.fixture(scope="module")
def text(generator):
    return generator["reference"]()


def test_the_committed_reference_is_the_one_of_this_version(text):
    hint = "run `python docs/reference.py > docs/reference.md`"
    assert DOCUMENT.read_text(encoding="utf-8") == text, hint


def test_it_has_every_key_that_a_file_may_hold(text):
    keys = {*space_schema()["properties"], *TASK, *TRAINING, *PARAMETERS, *OPTIMIZERS, *METRICS}
    assert [key for key in keys if f"`{key}`" not in text] == []


def test_it_has_every_verb_with_every_option(text):
    from esam_tune.cli import build_parser

    sections = text.split("### `esam-tune ")[1:]
    (verbs,) = [a.choices for a in build_parser()._actions if isinstance(a.choices, dict)]
    assert [section.split()[0].rstrip("`") for section in sections] == list(verbs)
    for section, verb in zip(sections, verbs.values(), strict=True):
        options = {o for action in verb._actions for o in action.option_strings}
        missing = [o for o in options - {"-h", "--help"} if f"| `{o}" not in section]
        assert missing == []


def test_a_table_stays_one_whatever_its_cells_hold(generator):
    rows = generator["_table"](("a", "b"), [("x|y", "z")]).splitlines()
    assert rows == ["| a | b |", "| --- | --- |", r"| x\|y | z |"]


def test_a_docstrings_arguments_are_read_whole(generator):
    class Documented:
        """One thing.

        Args:
            first: a text
                of two lines.
            second: ``x`` or None.

        Raises:
            ValueError: never.
        """

    found = generator["_arguments"](Documented)
    assert found == {"first": "a text of two lines", "second": "`x` or null"}
