"""Workers and nodes killed under trials of two workers: each goes on, and no other notices.

``make chaos`` kills twenty, and one in a short form. All trials but the last have one setting and
one seed, and the first of them is left alone: whatever the others went through, they are to end
with the very numbers of that one.
"""

import json
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from conftest import write_space
from host_processes import processes_of_the_host
from isolated_sweep import IsolatedSweep
from study_verdict import Verdict, verdict, without_times
from two_nodes import two_nodes

from esam_tune.study.space import load_space

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.slow, pytest.mark.long]

SEED = int(os.environ.get("ESAM_TUNE_CHAOS_SEED", "0"))
# Every so many kills take a node and all that runs on it.
NODE_EVERY = 5
_WORKER = "ray::RayTrainWorker"
_PATIENCE_SECONDS = 300.0
# What is left to train after the last kill may be half of the study.
_REST_SECONDS = 3600.0
_LEFT_ALONE = "0000"


def workers_of(mark, run_ids):
    """Process ids of each run's workers, told by the folder that Ray gives a group."""
    found = {run_id: set() for run_id in run_ids}
    for pid, line in processes_of_the_host(mark).items():
        if line.startswith(_WORKER):
            for run_id in found.keys() & set(folder_of(pid).parts):
                found[run_id].add(pid)
    return {run_id: pids for run_id, pids in found.items() if pids}


def folder_of(pid):
    try:
        return Path(f"/proc/{pid}/cwd").readlink()
    except OSError:
        return Path()


def parent_of(pid):
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


class Killer:
    """Kills a worker, or the second node, and waits until what it hit is trained again."""

    def __init__(self, sweep, nodes, dice) -> None:
        self.sweep, self.nodes, self.dice = sweep, nodes, dice
        self.kills = Counter()
        self.disturbed = 0
        self.restarts: list[float] = []

    def running(self) -> list[str]:
        ended = {event["trial_id"] for event in self.sweep.events("trial_end")}
        begun = [event["trial_id"] for event in self.sweep.events("trial_start")]
        return [run_id for run_id in begun if run_id not in ended]

    def epochs(self, run_id) -> int:
        return sum(event["trial_id"] == run_id for event in self.sweep.events("epoch"))

    def groups(self) -> dict[str, set[int]]:
        """Workers of each whole group."""
        found = workers_of(self.sweep.mark, self.running())
        return {run_id: pids for run_id, pids in found.items() if len(pids) == 2}

    def kill(self, node: bool) -> None:
        """One kill; the study's end before there is anything to kill is a failure."""
        victims: dict[str, set[int]] = {}

        def chosen():
            victims.clear()
            groups = self.groups()
            if node:
                lost = {
                    run_id: pids
                    for run_id, pids in groups.items()
                    if any(parent_of(pid) == self.nodes.second for pid in pids)
                }
                if _LEFT_ALONE not in lost:
                    victims.update(lost)
            elif sorted(groups.keys() - {_LEFT_ALONE}):
                run_id = self.dice.choice(sorted(groups.keys() - {_LEFT_ALONE}))
                victims[run_id] = groups[run_id]
            return victims

        assert self.wait(chosen), "the study ended before its kills were done"
        time.sleep(self.dice.uniform(0, 3))
        before = self.groups()
        victims = {r: pids for r, pids in victims.items() if before.get(r) == pids}
        if not victims:
            # It has ended meanwhile.
            return self.kill(node)
        reached = {run_id: self.epochs(run_id) for run_id in victims}
        began = time.monotonic()
        if node:
            self.nodes.lose_one()
            self.nodes.replace_it()
        else:
            (pids,) = victims.values()
            os.kill(self.dice.choice(sorted(pids)), signal.SIGKILL)
        self.kills["node" if node else "worker"] += 1
        others = {run_id: pids for run_id, pids in before.items() if run_id not in victims}

        def trained_again():
            self.note_disturbed(others)
            going = set(self.running())
            return all(
                self.epochs(run_id) > reached[run_id] or run_id not in going for run_id in victims
            )

        assert self.wait(trained_again), "the study ended before its kills were done"
        self.restarts.append(time.monotonic() - began)
        return None

    def note_disturbed(self, others) -> None:
        """Count runs that were not hit, go on, and have other workers than before."""
        found = workers_of(self.sweep.mark, others.keys() & set(self.running()))
        for run_id, pids in found.items():
            # One that ends by itself loses them one by one.
            if pids - others[run_id]:
                self.disturbed += 1
                others[run_id] = pids

    def wait(self, condition) -> bool:
        """As :meth:`IsolatedSweep.until`, but seldom: each look goes through all processes."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not condition():
            if not self.sweep.runs:
                return False
            assert time.monotonic() < deadline, "it did not come"
            time.sleep(0.2)
        return True


@pytest.mark.parametrize(
    ("count", "trials", "epochs"),
    [
        pytest.param(1, 2, 40, id="short"),
        pytest.param(20, 9, 120, id="full"),
    ],
)
def test_killed_workers_and_nodes_cost_no_trial(tmp_path, count, trials, epochs, record_property):
    began = time.monotonic()
    space = write_space(
        tmp_path,
        training={"epochs": epochs, "batch_size": 64, "lr": 0.05},
        baselines=[{"label": f"SGD {index}", "optimizer": "sgd"} for index in range(trials)],
        trials=1,
    )
    storage = tmp_path / "storage"
    journal_path = storage / "tiny" / "journal.jsonl"
    how = ["--workers-per-trial", 2, "--max-failures", count + 1, "--json"]
    arguments = [space, "--storage", storage, *how]
    with IsolatedSweep(tmp_path, arguments, journal_path) as sweep, two_nodes(sweep.mark) as nodes:
        sweep.start("--address", nodes.address)
        killer = Killer(sweep, nodes, random.Random(SEED))
        for number in range(1, count + 1):
            killer.kill(node=number % NODE_EVERY == 0)
            print(json.dumps({"kills": dict(killer.kills), "runs": killer.running()}))  # noqa: T201
        assert sweep.end(_REST_SECONDS) == 0, sweep.errors.read_text()[-2000:]
        document = json.loads(sweep.output.read_text())
        spec, events = load_space(space), sweep.events()
    found = verdict(spec, events, document["tracking_uri"], journal_path.parent / "optuna.db")
    ends = [without_times(trial["metrics"]) for trial in document["trials"][:trials]]
    figures = {
        "seed": SEED,
        "kills": dict(killer.kills),
        "trials": len(document["trials"]),
        "epochs": len([event for event in events if event["event"] == "epoch"]),
        "other runs disturbed": killer.disturbed,
        "runs with other numbers than the one left alone": sum(end != ends[0] for end in ends),
        "longest until trained again, seconds": round(max(killer.restarts), 1),
        "seconds": round(time.monotonic() - began),
    }
    figures |= found.figures()
    record_property("figures", figures)
    print(json.dumps(figures))  # noqa: T201 - shown by pytest -s
    assert [trial["state"] for trial in document["trials"]] == ["complete"] * (trials + 1)
    assert found == Verdict()
    assert ends == [ends[0]] * trials
    assert killer.disturbed == 0
