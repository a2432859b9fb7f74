"""The report: what it answers, how sure it says it is, and that what users typed stays text."""

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from page_reader import PageReader
from report_studies import ReportStudy, full_study, three_objectives

from esam_tune.errors import escaped
from esam_tune.report.answer import answer, baselines_cost, uncertainty
from esam_tune.report.blocks import (
    Code,
    Facts,
    Gallery,
    Page,
    Paragraph,
    Picture,
    Row,
    Section,
    Table,
)
from esam_tune.report.page import render
from esam_tune.report.study_page import study_page
from esam_tune.study.optuna_view import importances

SECTIONS = ["answer", "front", "baselines", "parameters", "cost", "course", "failures", "reproduce"]


def read(study):
    return PageReader(render(study_page(study, made="made now")))


def weighed(study):
    return replace(study.data(), importances=importances(study.record()))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished study as data, and its page."""
    data = weighed(full_study(tmp_path_factory.mktemp("storage"), seeds=2))
    return data, render(study_page(data, made="made now"))


# --- the whole page ---------------------------------------------------------------------------


def test_a_finished_study_has_every_section_and_nothing_that_could_act(finished):
    page = PageReader(finished[1])
    assert [key for key in page.ids if key in SECTIONS] == SECTIONS
    assert page.harmless, set(page.elements)
    assert len(page.ids) == len(set(page.ids))
    for words in ("SAM rho=0.5", "fANOVA", "study id", "esam-tune sweep small.yaml", "made now"):
        assert words in page.text


def test_the_table_of_the_front_has_intervals_ties_and_baselines(finished):
    data, page = finished
    rows = re.findall(r"<tr[^>]*>(?:<td[^>]*>.*?</td>)+</tr>", page)
    (chosen,) = [row for row in rows[: len(data.front)] if "chosen" in row.split(">")[0]]
    assert f">{data.chosen}<" in chosen
    assert "±" in chosen
    assert "chosen, front" in chosen
    tied = [t.trial_id for t in data.front if t.difference is not None and t.difference.tied]
    assert tied
    for trial_id in tied:
        (row,) = [r for r in rows[: len(data.front)] if f">{trial_id}<" in r]
        assert "tied" in row
        assert re.search(r">.[\d.]+ \(.[\d.]+ to .[\d.]+\)<", row)


def test_the_policy_forbids_scripts_and_the_network(finished):
    page = finished[1]
    assert (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'" in page
    )
    assert "<script" not in page


@pytest.mark.parametrize("state", ["running", "interrupted", "failed", "empty"])
def test_a_study_without_a_complete_trial_has_a_page(tmp_path, state):
    study = ReportStudy(tmp_path)
    if state != "empty":
        study.epoch(study.start(number=0), 1, val_accuracy=0.5, step_flops_ratio=1.3)
    if state == "failed":
        study.end("0000", "failed", "the loss is not finite")
        study.finish("failed")
    if state == "interrupted":
        study.finish("interrupted")
    page = read(study.data())
    assert page.harmless
    expected = {
        "running": "No answer yet: 1 trials are under way",
        "interrupted": "The study was interrupted; 1 of 3 search trials have begun.",
        "failed": "the loss is not finite",
        "empty": "No answer: no trial has reached its end.",
    }
    assert expected[state] in page.text


def test_failed_and_stopped_trials_are_listed_with_the_reason(tmp_path):
    study = full_study(tmp_path, trials=1)
    study.end(study.start(number=9), "failed", "out of memory")
    stopped = study.start(number=10)
    study.epoch(stopped, 1, val_accuracy=0.3, step_flops_ratio=1.2)
    study.end(stopped, "pruned", "behind at epoch 1")
    failed = study.start(baseline=True, label="SAM that breaks")
    study.end(failed, "failed", "not finite")
    text = read(study.data()).text
    for words in ("out of memory", "stopped early behind at epoch 1", "SAM that breaks failed"):
        assert words in text


def test_one_constraint_is_named_where_it_decides(tmp_path):
    study = full_study(tmp_path, trials=1, constraints={"step_flops_ratio": "<= 1.6"})
    text = read(study.data()).text
    assert "Only trials with step_flops_ratio <= 1.6 may be on it." in text
    assert "subject to step_flops_ratio <= 1.6" in text


def test_the_caption_of_the_front_says_what_the_line_joins(finished, tmp_path):
    of_two = PageReader(finished[1]).text
    assert (
        "Up is better, left is cheaper. The line joins the settings that no other beats in both; "
        "the ring is the setting chosen by knee. Bars are 95 % intervals" in of_two
    )
    of_three = read(three_objectives(tmp_path).data("cost")).text
    assert (
        "The line joins the settings that no other beats in both objectives shown; members of the "
        "front beside it owe their place to sharpness, which the picture does not show; the ring"
    ) in of_three


def test_the_picture_of_the_front_is_described_by_its_metrics(tmp_path):
    study = ReportStudy(tmp_path, objectives={"images_per_second": "max", "sharpness": "min"})
    study.measured({"images_per_second": 900.0, "sharpness": 0.5}, number=0)
    page = read(study.data())
    assert "Up is better, and so is left." in page.text
    described = "1 trials by images per second and sharpness, with the Pareto front"
    assert described in page.labels


@pytest.mark.long
def test_many_trials_make_a_page_of_bounded_tables(tmp_path):
    study = ReportStudy(tmp_path, trials=70)
    for number in range(70):
        study.setting(0.5 + number / 1000, 1.0 + number / 100, number=number)
    text = read(study.data()).text
    assert "10 more rows are in front.csv." in text


# --- answer and uncertainty -------------------------------------------------------------------


def test_the_answer_compares_with_the_most_accurate_baseline_by_interval(tmp_path):
    study = ReportStudy(tmp_path, seeds=3)
    study.rival("SGD", 0.74, 1.0, seeds=3)
    study.rival("SAM rho=0.5", 0.962, 2.0, seeds=3, noise=0.02)
    study.search(0.5, 0.5, 0.2, seeds=3, noise=0.02)
    data = study.data()
    said = answer(data)
    assert said.startswith("ESAM beta=0.50 gamma=0.50 rho=0.20 reaches a validation accuracy of ")
    assert " at 1.45 times the base optimizer's step in counted FLOPs; " in said
    assert "the most accurate baseline, SAM rho=0.5, reaches " in said
    assert re.search(r"95 % interval .* over 3 seeds, which cannot be told apart\)\.$", said)
    assert "interval of a mean over 3 seeds" in uncertainty(data)
    assert baselines_cost(data).endswith("pays 1.00 and the chosen setting 0.45 steps: 45% of it.")


def test_a_clear_difference_is_called_one(tmp_path):
    study = ReportStudy(tmp_path, seeds=3)
    study.rival("SAM rho=0.5", 0.80, 2.0, seeds=3, noise=0.001)
    study.search(0.5, 0.5, 0.2, seeds=3, noise=0.001)
    assert "which is more than noise" in answer(study.data())


def test_another_metric_is_called_by_its_name(tmp_path):
    pair = {"images_per_second": "max", "step_flops_ratio": "min"}
    study = ReportStudy(tmp_path, seeds=2, objectives=pair)
    rows = ((8_000.0, 1.0, True), (9_000.0, 1.5, False))
    for number, (speed, cost, baseline) in enumerate(rows):
        values = {"images_per_second": speed, "step_flops_ratio": cost}
        study.measured(values, seeds=2, noise=0.001, baseline=baseline, number=number)
    data = study.data("accuracy")
    assert "; the baseline that is best in images per second, " in answer(data)
    assert "It can be told apart in images per second from" in uncertainty(data)


def test_one_seed_is_said_plainly(tmp_path):
    study = full_study(tmp_path, trials=3)
    said = uncertainty(study.data())
    assert said.startswith("It ran under one seed, so there is no interval")
    assert "esam-tune refine small --seeds 3" in said
    assert "95 % interval" not in answer(study.data())


@pytest.mark.parametrize(
    ("rows", "constraints", "words"),
    [
        ([(0.9, 1.9, False)], {"step_flops_ratio": "<= 1.5"}, "no complete trial keeps step_flops"),
        ([(0.9, 1.0, True)], None, "a baseline is the knee of the front, not a search trial"),
        ([(0.9, 1.4, False)], None, "no baseline has a result to compare it with"),
    ],
)
def test_other_answers(tmp_path, rows, constraints, words):
    study = ReportStudy(tmp_path, constraints=constraints)
    for number, (accuracy, cost, baseline) in enumerate(rows):
        study.setting(accuracy, cost, baseline=baseline, number=number)
    assert words in answer(study.data())
    assert words in read(study.data()).text


def test_objectives_other_than_accuracy_and_flops_are_said_by_name(tmp_path):
    study = ReportStudy(tmp_path, objectives={"images_per_second": "max", "val_loss": "min"})
    for number, (speed, loss) in enumerate([(900.0, 0.5), (1200.0, 0.7), (700.0, 0.4)]):
        trial = study.start(number=number)
        study.epoch(trial, 2, images_per_second=speed, val_loss=loss)
        study.end(trial)
    said = answer(study.data())
    assert "images per second 900.00 at val loss 0.500" in said
    assert read(study.data()).harmless


# --- what users typed -------------------------------------------------------------------------

HOSTILE = [
    "<script>alert(1)</script>",
    "</style><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "' autofocus onfocus='alert(1)",
    "</title><svg onload=alert(1)>",
    "<!-- --><iframe src=http://elsewhere/>",
    "]]><a href='javascript:alert(1)'>x</a>",
    "&lt;b&gt; &amp; &#x3c;i>",
    "$\\frac{1}{2}$ {0} %s #ff0000 'DejaVu Sans'",
    'url(#front) id="x" #1f2328;',
]


def test_hostile_text_stays_text_wherever_a_study_holds_it(tmp_path):
    texts = iter(HOSTILE * 2)
    study = ReportStudy(tmp_path, description=" ".join(HOSTILE), seeds=2)
    study.setting(0.7, 1.0, 2, params={"optimizer": "sgd"}, baseline=True, label=next(texts))
    for number in range(len(HOSTILE)):
        params = {"optimizer": "esam", "beta": 0.5, "gamma": 0.5, "rho": 0.1 + number / 20}
        values = 0.8 + number / 100, 1.3 + number / 20
        study.setting(*values, 2, params=params, label=next(texts), number=number)
    for text in HOSTILE:
        study.end(study.start(number=99, label=next(texts, "x")), "failed", text)
    page = read(weighed(study))
    assert page.harmless, (set(page.elements), page.addresses, page.handlers)
    assert len(page.ids) == len(set(page.ids))
    for text in HOSTILE:
        # The question, the table of the front and the failures, letter by letter.
        assert page.text.count(text) >= 3, text


anything = st.text(max_size=60) | st.lists(st.sampled_from(HOSTILE), min_size=2).map("".join)


@settings(max_examples=60)
@given(text=anything)
def test_any_text_of_a_block_stays_text(text):
    typed = escaped(text)
    blocks = [
        Paragraph(text=typed),
        Table(head=[typed], rows=[Row(cells=[typed])], caption=typed),
        Picture(svg="", caption=typed),
        Gallery(pictures=[Picture(svg="")], caption=typed),
        Code(text=typed, title=typed, folded=True),
        Facts(pairs=[(typed, typed)]),
    ]
    section = Section(key="only", title=typed, blocks=blocks)
    page = PageReader(render(Page(title=typed, subtitle=typed, sections=[section], footer=typed)))
    assert page.harmless, (set(page.elements), page.addresses, page.handlers)
    assert page.ids == ["only", "only-title"]
    shown = " ".join(typed.split())
    if shown:
        assert page.text.count(shown) >= 14
        assert shown in [" ".join(label.split()) for label in page.labels]
