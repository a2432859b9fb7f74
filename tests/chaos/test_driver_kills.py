"""SIGKILLs of a study's driver at random moments: what was asked for happens exactly once.

``make chaos`` runs fifty, over four studies; ``make test`` has one, in the tests of whole studies.
After each the study is resumed by the same command. In the end it has no trial or metric too few or
twice, and is bit for bit the one that nothing disturbed, but for times.
"""

import json
import os
import random
import signal
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import write_space
from isolated_sweep import IsolatedSweep
from kill_moments import END, Moment, moments, wait_for
from study_verdict import Verdict, run_ids, verdict, without_times

from esam_tune.run_state import manifest_file
from esam_tune.study.space import load_space

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.slow]

SEED = int(os.environ.get("ESAM_TUNE_CHAOS_SEED", "0"))
EPOCHS = int(os.environ.get("ESAM_TUNE_CHAOS_EPOCHS", "24"))
TRAINING = {"epochs": EPOCHS, "batch_size": 64, "lr": 0.05}
# Two at a time, what a learning sampler knows depends on who ends first. A sampler that does not
# learn makes a study that can be compared all the same.
STUDIES = {
    "one at a time": {"max_concurrent": 1, "training": TRAINING, "trials": 4},
    "two at a time": {
        "max_concurrent": 2,
        "training": TRAINING,
        "trials": 8,
        "sampler": "random",
    },
    "early stopping": {
        "max_concurrent": 1,
        "training": TRAINING,
        "trials": 6,
        "early_stopping": {"kind": "pareto", "grace_epochs": EPOCHS // 4, "eta": 2},
    },
    "two seeds": {
        "max_concurrent": 2,
        "training": TRAINING,
        "trials": 3,
        "sampler": "random",
        "seeds": 2,
    },
}
KILLS = {"one at a time": 13, "two at a time": 13, "early stopping": 12, "two seeds": 12}
ENDS = 2
# Two of Ray's agents that had not found their node when its driver was killed look for it for a
# minute or two before they end.
GONE_SECONDS = 240.0
# Starts that a study may take beyond its kills, where it ended before the moment came.
MISSES = 6


def study_of(folder, **changes):
    """A sweep of a space, in a folder of its own, and what it asks for."""
    folder.mkdir()
    space = write_space(folder, **changes)
    storage = folder / "storage"
    arguments = [space, "--storage", storage, "--json"]
    return IsolatedSweep(folder, arguments, storage / "tiny" / "journal.jsonl"), load_space(space)


def finished(sweep, *more):
    """Run a study to its end; its document."""
    sweep.start(*more)
    assert sweep.end() == 0, sweep.errors.read_text()[-2000:]
    return json.loads(sweep.output.read_text())


def undisturbed(folder, **changes):
    sweep, _ = study_of(folder, **changes)
    with sweep:
        return finished(sweep)


def gone_back(sweep):
    """How often a run wrote a checkpoint that is not behind its last one, of those still there.

    Epochs that are trained again are in no journal, as they are known. That a run went on from
    its checkpoint shows in the next one alone: from the beginning it would be an earlier one.
    """
    epochs = defaultdict(list)
    for event in sweep.events("checkpoint"):
        manifest = Path(event["path"], manifest_file(0))
        if manifest.exists():
            written = json.loads(manifest.read_text())["content"]
            epochs[event["trial_id"]].append(written["epoch"])
    return sum(later <= before for run in epochs.values() for before, later in pairwise(run))


@dataclass
class Kills:
    """What came of the kills of a study.

    Args:
        done: the moments that came.
        left: after each.
        misses: starts of a study that ended before the moment.
        gone_back: checkpoints, after each kill, that were not behind the one before them.
    """

    done: list = field(default_factory=list)
    left: list = field(default_factory=list)
    misses: int = 0
    gone_back: int = 0


def killed(sweep, spec, plan):
    """Start and kill a study, moment by moment."""
    found, plan = Kills(), list(plan)

    def over():
        return len(sweep.events("trial_end")) >= len(run_ids(spec, sweep.events()))

    while plan:
        sweep.start()
        moment = plan[0]
        if wait_for(moment, sweep, over):
            sweep.kill(everything=moment.everything)
            found.left.append(sweep.left_behind(GONE_SECONDS))
            found.done.append(plan.pop(0))
            found.gone_back += gone_back(sweep)
        else:
            # It had ended: an earlier moment than the end comes no more.
            assert sweep.end() == 0, sweep.errors.read_text()[-2000:]
            found.misses += 1
            assert found.misses <= MISSES, "the study is too short for its kills"
            plan[0] = replace(moment, kind="start")
        said = {"moment": str(moment), "at": len(sweep.events()), "misses": found.misses}
        if found.left:
            said |= {"left": sorted(found.left[-1].processes.values())}
        print(json.dumps(said))  # noqa: T201
    return found


def figures_of(name, kills, sweep, seconds):
    return {
        "study": name,
        "seed": SEED,
        "kills": len(kills.done),
        "moments": dict(Counter(moment.kind for moment in kills.done)),
        "with all its processes": sum(moment.everything for moment in kills.done),
        "ended before the moment": kills.misses,
        "starts": len(sweep.events("study", "study_resume")),
        "runs": len(sweep.events("trial_end")),
        "epochs": len(sweep.events("epoch")),
        "checkpoints": len(sweep.events("checkpoint")),
        "runs that did not go on from their checkpoint": kills.gone_back,
        "processes left": sum(len(left.processes) for left in kills.left),
        "longest until Ray had ended, seconds": round(max(it.seconds for it in kills.left), 1),
        "seconds": round(seconds),
    }


@pytest.mark.long
@pytest.mark.parametrize("name", STUDIES)
def test_a_killed_driver_loses_and_repeats_nothing(tmp_path, name, record_property):
    changes, began = STUDIES[name], time.monotonic()
    plan = moments(KILLS[name], ENDS, random.Random(f"{SEED} {name}"))
    sweep, spec = study_of(tmp_path / "disturbed", **changes)
    with sweep:
        kills = killed(sweep, spec, plan)
        document = finished(sweep)
        seconds = time.monotonic() - began
        found = verdict(
            spec, sweep.events(), document["tracking_uri"], sweep.journal.parent / "optuna.db"
        )
        figures = figures_of(name, kills, sweep, seconds) | found.figures()
        print(json.dumps(figures))  # noqa: T201 - shown by pytest -s
    expected = without_times(undisturbed(tmp_path / "undisturbed", **changes))
    figures["result equal"] = without_times(document) == expected
    record_property("figures", figures)
    print(json.dumps(figures))  # noqa: T201
    assert found == Verdict()
    assert without_times(document) == expected
    assert not kills.gone_back
    assert not any(left.processes for left in kills.left)
    assert not (sweep.journal.parent / "tune").exists()


@pytest.mark.long
def test_a_stopped_and_a_killed_study_become_what_they_would_have_been(tmp_path):
    changes = {"max_concurrent": 1}
    sweep, spec = study_of(tmp_path / "disturbed", **changes)
    with sweep:
        sweep.start()
        assert sweep.until(lambda: len(sweep.events("trial_end")) == 2)
        assert sweep.note_ports()
        sweep.process.send_signal(signal.SIGTERM)
        assert sweep.end() == 143
        assert sweep.events()[-1]["event"] == "study_end"
        left = sweep.left_behind()
        assert left.nothing, left
        kills = killed(sweep, spec, [Moment("between", 0.1, everything=False)])
        assert [moment.kind for moment in kills.done] == ["between"]
        assert not kills.left[0].processes
        assert len(sweep.events("trial_end")) < 5
        document = finished(sweep)
        found = verdict(
            spec, sweep.events(), document["tracking_uri"], sweep.journal.parent / "optuna.db"
        )
    assert found == Verdict()
    expected = without_times(undisturbed(tmp_path / "undisturbed", **changes))
    assert without_times(document) == expected
    assert [t["state"] for t in document["trials"]] == ["complete"] * 5


def test_moments_are_drawn_from_all_kinds_and_end_at_the_end():
    drawn = moments(2000, 100, random.Random(0))
    shares = Counter(moment.kind for moment in drawn[:-100])
    assert set(shares) == {"start", "running", "checkpoint", "between"}
    assert abs(shares["start"] / 1900 - 0.25) < 0.04
    assert [moment.kind for moment in drawn[-100:]] == [END] * 100
    assert 0.25 < sum(moment.everything for moment in drawn) / 2000 < 0.35
    assert drawn == moments(2000, 100, random.Random(0))
