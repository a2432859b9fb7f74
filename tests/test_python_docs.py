"""docs/python.md, block by block, as a notebook may run it: in a thread with an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import threading

import optuna
import pytest
import yaml
from conftest import REPOSITORY, journal_events, tiny_space
from rich.console import Console

import esam_tune as et
from esam_tune.cli import main

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.e2e]

PAGE = REPOSITORY / "docs" / "python.md"
_BLOCK = re.compile(r"^```python( long)?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
WATCHED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def blocks():
    """Source, and whether it takes minutes, of each block."""
    return [(found[2], bool(found[1])) for found in _BLOCK.finditer(PAGE.read_text("utf-8"))]


def surroundings():
    """What a call must leave as it was."""
    ours = {k: v for k, v in os.environ.items() if k.startswith(("RAY_", "TUNE_"))}
    return [signal.getsignal(number) for number in WATCHED], ours


class Notebook:
    """Runs blocks one after another in one namespace, and keeps what they leave."""

    def __init__(self, folder):
        self.folder = folder
        self.names = {}
        self.before, self.after = surroundings(), None

    def run(self, sources, *, thread):
        raised = []

        def work():
            try:
                with contextlib.chdir(self.folder):
                    asyncio.run(self._cells(sources))
            except BaseException as error:  # noqa: BLE001 - raised below, in the test's thread
                raised.append(error)

        if thread:
            cell = threading.Thread(target=work)
            cell.start()
            cell.join()
        else:
            work()
        self.after = surroundings()
        if raised:
            raise raised[0]

    async def _cells(self, sources):
        for source in sources:
            exec(compile(source, str(PAGE), "exec"), self.names)


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """The blocks of the page that take seconds, run in a thread."""
    folder = tmp_path_factory.mktemp("notebook")
    (folder / "search_spaces").symlink_to(REPOSITORY / "search_spaces")
    book = Notebook(folder)
    environment = pytest.MonkeyPatch()
    environment.delenv("MLFLOW_TRACKING_URI", raising=False)
    book.run([source for source, long in blocks() if not long], thread=True)
    yield book
    environment.undo()


@pytest.fixture(scope="module")
def whole(notebook):
    """All blocks, the others run in the main thread."""
    notebook.run([source for source, long in blocks() if long], thread=False)
    return notebook


def test_the_page_s_blocks_come_to_what_they_say(notebook):
    study, best = notebook.names["study"], notebook.names["best"]
    assert len(study.trials) == 3 + 5
    assert {row["state"] for row in study.trials} == {"complete"}
    assert best.metrics["step_flops_ratio"] <= 1.7
    exported = yaml.safe_load((notebook.folder / "settings.yaml").read_text())
    assert exported == best.settings
    assert list(notebook.names["frame"]["trial_id"]) == [f"{i:04d}" for i in range(8)]


def test_a_call_in_a_thread_leaves_handlers_and_environment_as_they_were(notebook):
    assert notebook.after == notebook.before


def test_the_command_line_finds_what_python_made(notebook, capsys, monkeypatch):
    monkeypatch.chdir(notebook.folder)
    assert main(["pareto", "notebook", "--json"]) == 0
    document = et.load_study("notebook").document()
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(document))


def test_a_process_that_is_connected_to_ray_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    with pytest.raises(et.InputError, match="connected to Ray already"):
        et.sweep(tiny_space(), storage=tmp_path / "runs", console=Console(quiet=True))
    assert not (tmp_path / "runs").exists()


@pytest.mark.long
def test_a_call_in_the_main_thread_leaves_them_too(whole):
    assert whole.after == whole.before


@pytest.mark.long
def test_the_final_training_is_of_the_setting_that_was_picked(whole):
    best, result = whole.names["best"], whole.names["result"]
    # The same setting, seed and data: the test split is all that is new.
    assert result["metrics"]["val_accuracy"] == best.metrics["val_accuracy"]
    assert 0.0 <= result["metrics"]["test_accuracy"] <= 1.0
    assert "<html" in (whole.names["study"].path / "report.html").read_text()


@pytest.mark.long
def test_a_study_started_from_an_earlier_one_knows_its_trials_and_runs_its_own(whole):
    storage = whole.folder / "runs"
    earlier, narrow = (et.load_study(name, storage=storage) for name in ("notebook", "narrow"))
    (start,) = journal_events(storage, "narrow")[0]["warm_start"]
    assert (start["study"], start["differs"]) == ("notebook", [])
    # SGD and ASAM are no points of the space, the published ESAM and SAM are.
    assert {"0001", "0004"} <= {trial["trial_id"] for trial in start["trials"]}
    assert {"0000", "0003"}.isdisjoint(trial["trial_id"] for trial in start["trials"])
    told = optuna.load_study(
        study_name="narrow", storage=f"sqlite:///{narrow.path / 'optuna.db'}"
    ).get_trials()
    sources = [trial.user_attrs.get("esam_tune.warm_start") for trial in told]
    assert sum(source is not None for source in sources) == len(start["trials"])
    # They are known before the first proposal, and are no trials of the study.
    assert None not in sources[: len(start["trials"])]
    assert [row["state"] for row in narrow.trials] == ["complete"] * 2
    assert not {row["beta"] for row in narrow.trials} & {row.get("beta") for row in earlier.trials}


@pytest.mark.long
def test_several_studies_make_one_front(whole):
    both = whole.names["both"]
    assert len(both.trials) == 10
    points = [(row["val_accuracy"], row["step_flops_ratio"]) for row in both.trials]
    for row, (accuracy, cost) in zip(both.trials, points, strict=True):
        beaten = any(a >= accuracy and c <= cost and (a, c) != (accuracy, cost) for a, c in points)
        assert row["on_front"] is not beaten


@pytest.mark.long
def test_more_seeds_and_more_workers_are_a_call_each(whole):
    study, document = whole.names["study"], whole.names["document"]
    assert all(row["seeds"] == 2 for row in study.trials if row["baseline"] or row["on_front"])
    assert document["workers"] == [1, 2]
