"""What a soak is to complain of, without one."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import many_trials
from process_samples import Sample
from soak import Point, Soak

HELD = Sample(
    cpu_seconds=1.0,
    memory=900.0,
    open_files=40,
    threads=30,
    processes=10,
    all_memory=2_700.0,
    all_open_files=380,
)


def point(trials: int, memory: float) -> Point:
    return Point(
        trials=trials,
        program=replace(HELD, memory=memory, cpu_seconds=float(trials)),
        journal=0.1,
        storage=1.0,
        storage_files=19,
        elsewhere=1.0,
        elsewhere_files=50,
    )


def watched(*memory: float) -> Soak:
    """A soak whose driver held so many MB, ten trials apart."""
    points = tuple(point(1 + 10 * row, each) for row, each in enumerate(memory))
    trials = points[-1].trials
    return Soak(
        sampler="random",
        points=points,
        ends=tuple(float(end) for end in range(trials)),
        states={"complete": trials},
        left_processes=0,
        left_files=0,
        unsent=False,
    )


CLEAN = watched(400.0, 900.0, 930.0, 1_000.0, 1_100.0)


@pytest.mark.parametrize(
    ("study", "said"),
    [
        (CLEAN, None),
        (replace(CLEAN, left_processes=2), "2 processes are left"),
        (replace(CLEAN, left_files=3), "3 temporary files are left"),
        (replace(CLEAN, unsent=True), "MLflow lacks records"),
        (replace(CLEAN, states={"complete": 38, "failed": 3}), "3 trials are not complete"),
        # From the third point on, the last against the first.
        (watched(400.0, 900.0, 900.0, 1_100.0), "the driver's memory has grown 1.22 times"),
        (
            replace(CLEAN, unsent=True, left_processes=1),
            "1 processes are left; MLflow lacks records",
        ),
    ],
)
def test_a_soak_that_leaves_something_fails_and_says_what(monkeypatch, capsys, study, said):
    monkeypatch.setattr(many_trials, "soak", lambda *_, **__: study)
    monkeypatch.setattr(sys, "argv", ["many_trials.py", "--samplers", "random"])
    assert many_trials.main() == (said is not None)
    printed = capsys.readouterr()
    assert "| trials |" in printed.out
    assert printed.err == (f"many_trials: sampler random: {said}\n" if said else "")


def test_one_sampler_of_several_is_enough(monkeypatch, capsys):
    found = iter([replace(CLEAN, sampler="tpe", unsent=True), CLEAN])
    monkeypatch.setattr(many_trials, "soak", lambda *_, **__: next(found))
    monkeypatch.setattr(sys, "argv", ["many_trials.py", "--samplers", "tpe", "random"])
    assert many_trials.main() == 1
    assert capsys.readouterr().err == "many_trials: sampler tpe: MLflow lacks records\n"
