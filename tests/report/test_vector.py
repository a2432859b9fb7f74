"""Pictures inside a page: the page's colours and letters, names of their own, text that stays."""

import re

import pytest
from matplotlib.figure import Figure
from page_reader import PageReader

from esam_tune.report.style import BLUE, INK
from esam_tune.report.vector import inline_svg


def picture(text="label", colour=BLUE, name="one"):
    figure = Figure(figsize=(3, 2))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=colour, clip_on=True)
    figure.text(0.5, 0.5, text, color=INK, parse_math=False)
    return inline_svg(figure, name=name, description='what "it" shows')


def test_colours_become_the_page_s_variables():
    svg = picture()
    assert "stroke: var(--blue)" in svg
    assert "var(--ink)" in svg
    assert not re.search(r"#(0072b2|1f2328|000000)\b", svg)
    assert "stroke: #123456" in picture(colour="#123456")


def test_text_is_kept_letter_by_letter_even_where_it_looks_like_a_colour():
    odd = f"{BLUE.lower()}; id=\"x\" url(#x) <b> & 10px 'DejaVu Sans'"
    page = PageReader(picture(odd))
    assert page.text.count(odd) == 1
    assert page.harmless


def test_letters_are_the_page_s():
    svg = picture()
    assert "DejaVu" not in svg
    assert "var(--sans)" in svg


def test_two_pictures_share_no_names_and_refer_to_their_own():
    first, second = PageReader(picture(name="one")), PageReader(picture(name="two"))
    assert first.ids
    assert not set(first.ids) & set(second.ids)
    assert all(key.startswith("one-") for key in first.ids)
    svg = picture(name="one")
    referred = set(re.findall(r"url\(#([^)]+)\)", svg)) | {a[1:] for a in first.addresses}
    assert referred
    assert referred <= set(first.ids)


def test_it_scales_to_the_page_and_is_described():
    svg = picture()
    assert svg.startswith('<svg viewBox="0 0 216 144" role="img"')
    assert svg.rstrip().endswith("</svg>")
    assert PageReader(svg).labels == ['what "it" shows']
    assert "<?xml" not in svg
    assert "<metadata" not in svg


@pytest.mark.parametrize("part", ["<!DOCTYPE", "http://purl.org"])
def test_nothing_is_left_of_the_file_around_it(part):
    assert part not in picture()
