"""The report as Chromium shows it: phone and desk, light and dark, on paper, with no network."""

import base64
from dataclasses import replace
from pathlib import Path

import pytest
from browser import CHROMIUM, browser_page
from report_studies import full_study

from esam_tune.report.interactive import interactive_page
from esam_tune.study.folder import study_folder
from esam_tune.study.optuna_view import figures, importances
from esam_tune.study_report import write_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, as Debian packages it"),
]

SIZES = {"phone": (375, 812), "desk": (1280, 900)}


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("storage")
    full_study(folder, trials=12, seeds=2)
    return folder


@pytest.fixture(scope="module")
def report(storage):
    return write_report(study_folder(storage, "small"))


@pytest.fixture(scope="module")
def page(report):
    with browser_page() as tab:
        yield tab


def asked_for(page):
    """Addresses that the page asked for, beside itself and what it holds."""
    names = page.value("performance.getEntriesByType('resource').map(e => e.name)")
    return [name for name in names if not name.startswith("data:")]


def open_report(page, report, size, scheme):
    page.size(*SIZES[size])
    page.call(
        "Emulation.setEmulatedMedia",
        media="screen",
        features=[{"name": "prefers-color-scheme", "value": scheme}],
    )
    page.open(report.as_uri())
    page.wait_for("document.readyState === 'complete' && !!document.querySelector('footer')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_it_reads_well_and_asks_for_nothing(page, report, tmp_path, size, scheme):
    open_report(page, report, size, scheme)
    assert page.errors == []
    assert asked_for(page) == []
    # The page itself never scrolls sideways: wide tables do, within themselves.
    assert page.value("document.documentElement.scrollWidth") == SIZES[size][0]
    background = page.value("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"}[scheme]
    shown = page.value(
        "[...document.querySelectorAll('#front .drawing')].map(e => e.clientWidth > 0)"
    )
    assert shown == [size == "desk", size == "phone"]
    # Letters in pictures are large enough to read, and take the page's colour.
    sizes = page.value(
        "[...document.querySelectorAll('svg text')].map(e => e.getBoundingClientRect().height)"
        ".filter(h => h > 0)"
    )
    assert min(sizes) > 8
    page.screenshot(tmp_path / f"{size}-{scheme}.png")
    assert (tmp_path / f"{size}-{scheme}.png").stat().st_size > 20_000


def test_no_label_of_the_front_lies_on_another_whatever_the_font(page, report):
    for size in SIZES:
        open_report(page, report, size, "light")
        overlaps = page.value(
            """(() => {
              const shown = e => e.getBoundingClientRect();
              const texts = [...document.querySelectorAll('#front svg text')]
                .filter(e => shown(e).width > 0 && e.textContent.trim());
              const found = [];
              texts.forEach((a, i) => texts.slice(i + 1).forEach(b => {
                const p = shown(a), q = shown(b);
                const x = Math.min(p.right, q.right) - Math.max(p.left, q.left);
                const y = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
                if (x > 2 && y > 4) found.push([a.textContent, b.textContent]);
              }));
              return found;
            })()"""
        )
        assert overlaps == []


def test_a_wide_table_is_scrolled_by_itself_on_a_phone(page, report):
    open_report(page, report, "phone", "light")
    wide = page.value(
        "[...document.querySelectorAll('.scroll')].map(e => e.scrollWidth > e.clientWidth)"
    )
    assert any(wide)
    assert page.value(
        "[...document.querySelectorAll('.scroll')].every(e => "
        "getComputedStyle(e).overflowX === 'auto' && e.tabIndex === 0)"
    )


def test_on_paper_it_is_light_complete_and_of_few_pages(page, report, tmp_path):
    open_report(page, report, "desk", "dark")
    page.call("Emulation.setEmulatedMedia", media="print", features=[])
    assert page.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.value("getComputedStyle(document.querySelector('nav')).display") == "none"
    pdf = base64.b64decode(page.call("Page.printToPDF", preferCSSPageSize=True)["data"])
    (tmp_path / "report.pdf").write_bytes(pdf)
    assert pdf.startswith(b"%PDF")
    assert 2 <= pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page/") <= 12


def test_the_interactive_plots_are_drawn_without_a_network(page, storage, tmp_path):
    folder = study_folder(storage, "small")
    from esam_tune.study.report_data import study_data

    record = folder.record()
    data = replace(study_data(folder, record, "knee"), importances=importances(record))
    path = Path(tmp_path, "interactive.html")
    path.write_text(interactive_page(data, figures(record)), encoding="utf-8")
    page.size(*SIZES["desk"])
    page.errors.clear()
    page.open(path.as_uri())
    plots = "document.querySelectorAll('.js-plotly-plot .main-svg').length"
    page.wait_for(f"document.readyState === 'complete' && {plots} >= 7")
    assert page.errors == []
    assert asked_for(page) == []
    # Nor is there a button that would send the study's data away.
    buttons = page.value(
        "[...document.querySelectorAll('.modebar-btn')].map(e => e.dataset.title || e.ariaLabel)"
    )
    assert "Reset axes" in buttons
    assert not [title for title in buttons if "Share" in title or "loud" in title]
    legend = page.value("document.querySelector('#plot-0 .legend').textContent")
    assert "SAM rho=0.5" in legend
    page.screenshot(tmp_path / "interactive.png")
