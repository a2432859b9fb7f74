"""Draws the README's pictures: the terminal, MLflow and the report of a study that it really runs.

    python docs/pictures.py

It takes a few minutes and needs Chromium (Debian's package `chromium`). The study is that of
docs/tutorial.md. What its terminal showed on the way is recorded, and drawn by rich. With --storage
the study is kept there, and one that was recorded there before is drawn again.
"""

from __future__ import annotations

import argparse
import codecs
import json
import shlex
import sys
import tempfile
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from browser import CHROMIUM, Page, browser_page  # noqa: E402
from conftest import command_line, environment  # noqa: E402
from mlflow_server import user_interface  # noqa: E402
from terminal import run_in_terminal, screen_after  # noqa: E402

from esam_tune.tracking.store import EXPERIMENT, connect, local_uri  # noqa: E402

STUDY = "tutorial"
RANGE = "search.rho={low: 0.1, high: 0.5, log: true}"
SPACE = "search_spaces/digits_noisy.yaml"
SWEEP = ["sweep", SPACE, "--name", STUDY, "--trials", "4", "--set", RANGE]
COLUMNS, LINES = 88, 30
# Of the study's time, when the terminal is looked at.
MOMENT = 0.9
COLOURS = 128
WIDTH = 1200  # pixels of a picture


def main() -> None:
    """Run the study and draw all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures")
    parser.add_argument("--storage", type=Path, metavar="DIR")
    options = parser.parse_args()
    out: Path = options.out
    if CHROMIUM is None:
        sys.exit("chromium is missing: on Debian, apt install chromium")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        storage = (options.storage or Path(scratch, "runs")).absolute()
        recording = storage / "recording.json"
        if not recording.exists():
            pieces = run_study(storage)
            recording.write_text(json.dumps(pieces), encoding="utf-8")
        pieces = json.loads(recording.read_text(encoding="utf-8"))
        with browser_page(WIDTH, 800) as page:
            draw_terminal(page, pieces, Path(scratch), out / "terminal.png")
            draw_report(page, storage, out / "report.png")
            draw_mlflow(page, storage, out / "mlflow.png")


def run_study(storage: Path) -> list[tuple[float, str]]:
    """Run the study in a terminal; what it wrote, and when, in seconds."""
    command = command_line(*SWEEP, "--storage", storage)
    code, pieces = run_in_terminal(
        command,
        columns=COLUMNS,
        lines=LINES,
        cwd=ROOT,
        env=environment(TERM="xterm-256color", COLORTERM="truecolor"),
    )
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    pieces = [(seconds, decoder.decode(piece)) for seconds, piece in pieces]
    if code:
        sys.exit(f"the study ended with {code}:\n{''.join(text for _, text in pieces)}")
    return pieces


def draw_terminal(page: Page, pieces: list[tuple[float, str]], scratch: Path, path: Path) -> None:
    """What the terminal showed at one moment, the command above it."""
    moment = MOMENT * pieces[-1][0]
    shown = "".join(text for seconds, text in pieces if seconds <= moment)
    console = Console(record=True, width=COLUMNS, file=(scratch / "terminal.txt").open("w"))
    console.print(Text(f"$ esam-tune {shlex.join(SWEEP)}"))
    for line in screen_after(shown):
        console.print(Text.from_ansi(line), no_wrap=True, crop=True)
    drawing = scratch / "terminal.svg"
    console.save_svg(str(drawing), title="esam-tune")
    page.open(drawing.as_uri())
    page.wait_for("document.documentElement.viewBox?.baseVal.width > 0")
    box = page.value(
        "[document.documentElement.viewBox.baseVal.width,"
        " document.documentElement.viewBox.baseVal.height]"
    )
    page.size(WIDTH, round(WIDTH * box[1] / box[0]))
    save(page, path)


def draw_report(page: Page, storage: Path, path: Path) -> None:
    """The top of the report."""
    from esam_tune.study.folder import study_folder
    from esam_tune.study_report import write_report

    report = write_report(study_folder(storage, STUDY))
    page.size(WIDTH, 1100)
    page.open(report.as_uri())
    page.wait_for("document.readyState == 'complete'")
    save(page, path)


def draw_mlflow(page: Page, storage: Path, path: Path) -> None:
    """The study's own run in MLflow."""
    client = connect(local_uri(storage))
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    (run,) = client.search_runs([experiment], "tags.`esam_tune.kind` = 'study'")
    with user_interface(storage) as address:
        page.size(WIDTH, 1100)
        page.open(f"{address}/#/experiments/{experiment}/runs/{run.info.run_id}")
        page.wait_for_text("Question.")
        page.wait_for("[...document.images].every(image => image.complete)")
        page.click("document.querySelector('[aria-label=Close]')")
        page.click("[...document.querySelectorAll('button')].find(b => b.innerText == 'Show more')")
        save(page, path)


def save(page: Page, path: Path) -> None:
    """Write the window's picture, in few colours: a README should load at once."""
    page.screenshot(path)
    with Image.open(path) as picture:
        few = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    sys.stdout.write(f"{path}: {path.stat().st_size / 1024:.0f} KiB\n")


if __name__ == "__main__":
    main()
