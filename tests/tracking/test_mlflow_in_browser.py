"""MLflow's own interface on a study, as a browser shows it."""

import pytest
from browser import CHROMIUM, browser_page, screenshots
from mlflow_server import user_interface
from stored_study import BASELINES, SEARCHED, store_study

from esam_tune.study.spec import describe_params
from esam_tune.tracking.store import EXPERIMENT, connect, local_uri

pytestmark = [
    pytest.mark.long,
    pytest.mark.e2e,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"),
]

SECONDS = 180
SETTINGS = [
    describe_params({"optimizer": "esam", "beta": beta, "gamma": gamma, "rho": rho})
    for beta, gamma, rho, _, _ in SEARCHED
]
EXPANDER = "document.querySelector('.ag-cell[col-id*=\"Run Name\"] button')"
NAMES = "[...document.querySelectorAll('.ag-cell[col-id*=\"Run Name\"] a')].map(a => a.innerText)"


def own_errors(page):
    """What the page complained about, save what every page of MLflow without accounts does."""
    return [error for error in page.errors if "/mlflow/users/current" not in error]


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A page on the address of an experiment with one study, and the study's own run."""
    storage = tmp_path_factory.mktemp("browsed")
    store_study(storage)
    client = connect(local_uri(storage))
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    (study,) = client.search_runs([experiment], "tags.`esam_tune.kind` = 'study'")
    with user_interface(storage) as address, browser_page() as page:
        yield page, f"{address}/#/experiments/{experiment}/runs", study.info.run_id


def test_trials_are_found_below_their_study(studied):
    page, address, _ = studied
    page.open(address)
    page.wait_for(EXPANDER, SECONDS)
    assert page.value(NAMES) == ["browsed"]
    page.click(EXPANDER)
    page.wait_for(f"{NAMES}.length > 1", SECONDS)
    page.screenshot(screenshots() / "mlflow_runs.png")
    labels = [label for label, *_ in BASELINES]
    assert sorted(page.value(NAMES)) == sorted(["browsed", *labels, *SETTINGS])
    assert own_errors(page) == []


def test_the_studys_page_has_the_answer_the_front_and_its_picture(studied):
    page, address, study = studied
    page.open(f"{address}/{study}")
    page.wait_for_text("Show more", SECONDS)
    for text in (
        "which setting keeps SAM's accuracy at the least cost?",
        "Chosen by knee: trial 0002, ESAM beta=0.31 gamma=0.36 rho=0.18",
        "5 of 5 search trials and 2 baselines begun: 6 complete, 1 pruned.",
        "esam-tune train settings.yaml",
        *SETTINGS,
    ):
        page.wait_for_text(text, SECONDS)
    picture = "[...document.images].find(image => image.src.includes('description/front.png'))"
    page.wait_for(f"{picture}?.naturalWidth > 0", SECONDS)
    page.click("[...document.querySelectorAll('button')].find(b => b.innerText == 'Show more')")
    page.wait_for(f"{picture}.getBoundingClientRect().width > 300", SECONDS)
    page.value(f"{picture}.scrollIntoView({{block: 'end'}})")
    page.screenshot(screenshots() / "mlflow_study.png")
    rows = "[...document.querySelectorAll('tbody tr')].map(row => row.innerText)"
    chosen = [row for row in page.value(rows) if "chosen" in row]
    assert len(chosen) == 1
    assert chosen[0].split()[0] == "0002"
    assert own_errors(page) == []


def test_its_artifacts_open(studied):
    page, address, study = studied
    page.open(f"{address}/{study}/artifacts")
    page.wait_for_text("front.csv", SECONDS)
    for name in ("chosen.yaml", "front.png", "space.yaml"):
        assert name in page.text
    page.click(
        "[...document.querySelectorAll('li, span, div')]"
        ".filter(e => e.innerText == 'front.png').at(-1)"
    )
    page.wait_for(
        "[...document.images].some(image => image.src.startsWith('blob:')"
        " && image.naturalWidth > 700)",
        SECONDS,
    )
    page.screenshot(screenshots() / "mlflow_front.png")
    assert own_errors(page) == []
