"""SIGINT and SIGTERM: the study is saved, the exit code says so, and nothing is left behind.

Counted are processes, ports, temporary files, and on a cluster that was there before, actors and
placement groups. ``make chaos`` sends each signal at each kind of moment.
"""

import json
import os
import signal
import time
from collections import Counter
from contextlib import contextmanager

import pytest
import ray
from conftest import write_space
from isolated_sweep import IsolatedSweep
from ray.util.placement_group import placement_group_table
from ray.util.state import list_actors
from study_verdict import Verdict, verdict
from two_nodes import two_nodes

from esam_tune.study.space import load_space

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.slow, pytest.mark.long]

BOTH = pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
TRAINING = {"epochs": 40, "batch_size": 64, "lr": 0.05}


def sweep_of(folder, *more, **changes):
    space = write_space(folder, training=TRAINING, trials=1, **changes)
    storage = folder / "storage"
    arguments = [space, "--storage", storage, "--json", *more]
    return IsolatedSweep(folder, arguments, storage / "tiny" / "journal.jsonl"), load_space(space)


def send(sweep, number):
    """A signal as it comes: a terminal's Ctrl-C to the whole process group, others to the one."""
    if number == signal.SIGINT:
        os.killpg(sweep.process.pid, number)
    else:
        sweep.process.send_signal(number)


def before_ray(sweep):
    """While the command is being read: the study's folder is not there yet."""
    return time.monotonic() - sweep.began > 1.0


def ray_starts(sweep):
    return any(sweep.scratch.glob("ray/session_*/sockets"))


def in_training(sweep):
    return len(sweep.new_events("epoch")) >= 2


def in_a_checkpoint(sweep):
    return bool(sweep.checkpoints_in_writing())


@BOTH
@pytest.mark.parametrize("moment", [before_ray, ray_starts, in_training, in_a_checkpoint])
def test_a_signal_saves_exits_and_leaves_nothing(tmp_path, number, code, moment, record_property):
    sweep, spec = sweep_of(tmp_path, max_concurrent=2)
    with sweep:
        sweep.start()
        assert sweep.until(lambda: moment(sweep))
        ports = sweep.note_ports()
        began = time.monotonic()
        send(sweep, number)
        # With nothing to save yet the signal itself may end it, which a shell tells by that code.
        allowed = {code, -number} if moment is before_ray else {code}
        assert sweep.end(120) in allowed, sweep.errors.read_text()[-2000:]
        seconds = time.monotonic() - began
        left = sweep.left_behind()
        figures = {
            "signal": number.name,
            "moment": moment.__name__,
            "seconds to exit": round(seconds, 1),
            "ports before": len(ports),
            "processes left": len(left.processes),
            "ports left": len(left.ports),
            "files left": left.files,
        }
        record_property("figures", figures)
        print(json.dumps(figures))  # noqa: T201 - shown by pytest -s
        assert left.nothing, left
        assert "Traceback" not in sweep.errors.read_text()
        if moment in (in_training, in_a_checkpoint):
            assert sweep.events()[-1]["event"] == "study_end"
            assert sweep.events()[-1]["state"] == "interrupted"
        sweep.start()
        assert sweep.end() == 0, sweep.errors.read_text()[-2000:]
        document = json.loads(sweep.output.read_text())
        file = sweep.journal.parent / "optuna.db"
        assert verdict(spec, sweep.events(), document["tracking_uri"], file) == Verdict()


@BOTH
def test_a_second_signal_ends_it_at_once(tmp_path, number, code, record_property):
    sweep, _ = sweep_of(tmp_path)
    with sweep:
        sweep.start()
        assert sweep.until(lambda: in_training(sweep))
        sweep.note_ports()
        sweep.process.send_signal(number)
        # The kernel keeps one signal of a kind at a time: the first must have been taken.
        time.sleep(0.3)
        began = time.monotonic()
        sweep.process.send_signal(number)
        assert sweep.end(120) == code
        seconds = time.monotonic() - began
        left = sweep.left_behind()
        figures = {
            "second signal": number.name,
            "seconds": round(seconds, 2),
            "processes left": len(left.processes),
            "ports left": len(left.ports),
            "files left": left.files,
        }
        record_property("figures", figures)
        print(json.dumps(figures))  # noqa: T201
        assert left.nothing, left


@BOTH
def test_a_cluster_gets_all_back(tmp_path, number, code, record_property):
    sweep, _ = sweep_of(tmp_path, "--workers-per-trial", 2)
    with sweep, two_nodes(sweep.mark) as nodes:
        with ray_of(nodes):
            whole = ray.available_resources()
        sweep.start("--address", nodes.address)
        assert sweep.until(lambda: in_training(sweep))
        began = time.monotonic()
        send(sweep, number)
        assert sweep.end(120) == code, sweep.errors.read_text()[-2000:]
        seconds = time.monotonic() - began
        with ray_of(nodes):
            # Ray ends the actors of a job that is over in its own time.
            deadline = time.monotonic() + 30
            while (left := held(whole)) and time.monotonic() < deadline:
                time.sleep(0.2)
        figures = {
            "signal": number.name,
            "seconds to exit": round(seconds, 1),
            "left on the cluster": left,
            "seconds until it had all back": round(time.monotonic() - began, 1),
        }
        record_property("figures", figures)
        print(json.dumps(figures))  # noqa: T201
        assert not left


@contextmanager
def ray_of(nodes):
    """This process as a job of the cluster for the time of the block."""
    ray.init(address=nodes.address, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


def held(whole):
    """What of a cluster is not free, by kind."""
    groups = [g for g in placement_group_table().values() if g["state"] != "REMOVED"]
    actors = Counter(a.class_name for a in list_actors() if a.state != "DEAD")
    # Ray Train's own, one a cluster, for all who use it: it stays, and takes nothing.
    actors.pop("_AutoscalingCoordinatorActor", None)
    free = ray.available_resources()
    taken = {
        name: amount - free.get(name, 0)
        for name, amount in whole.items()
        if name in ("CPU", "GPU") and free.get(name, 0) < amount
    }
    found = {"placement groups": len(groups), "actors": dict(actors), "resources": taken}
    return {kind: what for kind, what in found.items() if what}
