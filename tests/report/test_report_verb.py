"""``esam-tune report``: where it writes, and what it refuses before it writes anything."""

import json
import re

import pytest
from conftest import REPOSITORY
from page_reader import PageReader
from report_studies import ReportStudy, full_study

from esam_tune import cli
from esam_tune.scaling.section import scaling_sections
from esam_tune.study.folder import study_folder
from esam_tune.study_report import write_report


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("storage")
    full_study(folder)
    return folder


def test_it_writes_the_page_into_the_study_s_folder_and_says_where(storage, capsys):
    assert cli.main(["report", "small", "--storage", str(storage)]) == 0
    path = storage / "small" / "report.html"
    assert capsys.readouterr().out == f"{path}\n"
    page = PageReader(path.read_text())
    assert page.harmless
    assert re.search(r"Made by esam-tune [\d.]+ on \d{4}-\d\d-\d\d", page.text)
    assert not list(path.parent.glob("*.tmp"))


def test_it_predicts_costs_and_weighs_parameters(storage):
    text = PageReader(write_report(study_folder(storage, "small")).read_text()).text
    # SGD's step is the unit, SAM's takes two of its passes.
    assert re.search(r"0000 SGD 1\.00 1\.00", text)
    assert re.search(r"0001 SAM rho=0\.5 2\.00 2\.00", text)
    assert "Of 11 trials: the share of each objective's variation" in text


def test_another_folder_is_made(storage, tmp_path):
    out = tmp_path / "new" / "place"
    assert cli.main(["report", "small", "--storage", str(storage), "--out", str(out)]) == 0
    assert (out / "report.html").stat().st_size > 10_000


def test_a_running_study_is_reported_as_such(tmp_path, capsys):
    study = ReportStudy(tmp_path)
    study.epoch(study.start(number=0), 1, val_accuracy=0.5, step_flops_ratio=1.3)
    assert cli.main(["report", "small", "--storage", str(tmp_path)]) == 0
    text = PageReader((tmp_path / "small" / "report.html").read_text()).text
    assert "No answer yet" in text
    assert "The study has no recorded end" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["smal"], "STUDY: no study 'smal' in .*; did you mean 'small'"),
        (["../small"], "STUDY: .*must start with a letter"),
        (["small", "--out", "{file}"], "--out: cannot write .*; choose a folder"),
    ],
)
def test_mistakes_are_refused_and_nothing_is_written(storage, tmp_path, capsys, arguments, words):
    file = tmp_path / "file"
    file.write_text("kept")
    given = [argument.format(file=file) for argument in arguments]
    before = sorted(storage.rglob("*"))
    assert cli.main(["report", *given, "--storage", str(storage)]) == 2
    assert re.search(words, capsys.readouterr().err)
    assert file.read_text() == "kept"
    assert sorted(storage.rglob("*")) == before


# --- scaling studies beside it ----------------------------------------------------------------


@pytest.fixture
def scaled(tmp_path):
    """A storage with a study and a scaling study, a real one, of what it chose."""
    full_study(tmp_path, trials=1)
    document = json.loads((REPOSITORY / "docs/scaling/digits/result.json").read_text())
    document["settings"]["origin"] = {"study": "small", "trial_id": "0002"}
    folder = tmp_path / "scaling" / "strong"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(document))
    return tmp_path


def test_a_scaling_study_of_its_setting_is_in_the_report(scaled):
    page = PageReader(write_report(study_folder(scaled, "small")).read_text())
    assert page.harmless
    assert "Weak scaling over workers" in page.text
    assert len(page.ids) == len(set(page.ids))
    assert "Speed-up, efficiency and throughput over workers, measured" in page.labels


def test_scaling_of_another_study_s_setting_is_not(scaled):
    full_study(scaled, trials=1, name="other")
    assert scaling_sections(scaled, "other") == []
    assert len(scaling_sections(scaled, "small")) == 1


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"settings": {"origin": {"study": "small"}}}']
)
def test_a_damaged_scaling_study_is_left_out_with_a_warning(scaled, caplog, content):
    (scaled / "scaling" / "strong" / "result.json").write_text(content)
    assert scaling_sections(scaled, "small") == []
    assert "scaling study strong: left out" in caplog.text or content == "{}"
