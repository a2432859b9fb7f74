"""The written reference is the code's."""

import argparse
import re
import runpy

import pytest
from conftest import REPOSITORY

from esam_tune.cli import build_parser
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


def sections(text):
    """Each verb's part of the document, with the verb's parser."""
    (verbs,) = [a.choices for a in build_parser()._actions if isinstance(a.choices, dict)]
    parts = text.split("### `esam-tune ")[1:]
    assert [part.split()[0].rstrip("`") for part in parts] == list(verbs)
    return [(part, verb) for part, verb in zip(parts, verbs.values(), strict=True)]


def test_it_has_every_verb_with_every_option(text):
    for section, verb in sections(text):
        options = {o for action in verb._actions for o in action.option_strings}
        shown = re.findall(r"^\| (?:\*\*)?`(--[a-z-]+)", section, re.MULTILINE)
        assert set(shown) == options - {"-h", "--help"}


def test_what_must_be_given_is_bold(text):
    bold = {
        (verb.prog, option)
        for section, verb in sections(text)
        for option in re.findall(r"^\| \*\*`(--[a-z-]+)", section, re.MULTILINE)
    }
    assert bold == {("esam-tune refine", "--seeds"), ("esam-tune scale", "--workers")}


def test_what_may_be_given_several_times_says_so(text):
    for section, verb in sections(text):
        for action in verb._actions:
            if isinstance(action, argparse._AppendAction):
                assert "repeatable" in action.help
                (row,) = re.findall(rf"^\| `{action.option_strings[0]} .*", section, re.MULTILINE)
                assert "repeatable" in row


@pytest.mark.parametrize(
    ("nargs", "written"), [("+", "X [X ...]"), ("*", "[X ...]"), (None, "X")], ids=str
)
def test_how_often_an_argument_is_given_shows(generator, nargs, written):
    action = argparse.ArgumentParser().add_argument("x", metavar="X", nargs=nargs)
    assert generator["_placeholder"](action) == written


def test_a_training_alone_has_all_cores_by_default_and_no_other_worker(text):
    rows = {
        verb.prog: re.findall(r"^\| `--cpus-per-worker.*", section, re.MULTILINE)
        for section, verb in sections(text)
    }
    said = {verb: found[0] for verb, found in rows.items() if found}
    assert len(said) == 4
    assert [verb for verb, row in said.items() if "all of them" in row] == ["esam-tune train"]
    assert all("(default: 1" in row for row in said.values())


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
