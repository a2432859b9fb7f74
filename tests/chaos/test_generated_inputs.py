"""Whatever a user writes, the answer is success or one message with exit code 2.

``make chaos`` asks two thousand times, ``make test`` a hundred; each answer is that of the whole
command line, in a world of right and wrong files and studies, where nothing can be started.
"""

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import pytest
from answered_command import Answer, answered, defect, forbid_starts
from conftest import environment
from generated_inputs import Input, furnish, generated

from esam_tune.study.cluster import local_cores

SEED = int(os.environ.get("ESAM_TUNE_CHAOS_SEED", "0"))
FEW, MANY = 100, 2_000


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A folder with all that inputs refer to, as the working directory."""
    folder = tmp_path / "world"
    folder.mkdir()
    furnish(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ESAM_TUNE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    forbid_starts(monkeypatch)
    return folder


def ask(world, case: Input) -> Answer:
    for name, content in case.files.items():
        (world / name).write_bytes(content)
    answer = answered(case.arguments, world)
    for name in case.files:
        (world / name).unlink()
    return answer


def figures(world, count):
    """Ask so many times; what came of it, and what was wrong, by index."""
    codes, defects, times = Counter(), {}, {}
    # The first answer of a process loads what all need.
    answered(("sweep", "right.yaml", "--dry-run"), world)
    begun = time.time()
    for index in range(count):
        case = generated(SEED, index)
        answer = ask(world, case)
        codes[str(answer.code)] += 1
        wrong = defect(answer, case.arguments)
        if wrong is not None:
            shown = [argument[:80] for argument in case.arguments]
            defects[index] = f"{shown}\n{wrong}"
        times.setdefault(answer.code, []).append((answer.seconds, answer.cpu_seconds, index))
    packages = ("torch", "optuna", "ray", "mlflow", "pyyaml")
    return defects, {
        "inputs": count,
        "seed": SEED,
        "exit 0": codes["0"],
        "would have started": codes["started"],
        "exit 2": codes["2"],
        "other": count - codes["0"] - codes["started"] - codes["2"],
        "defects": len(defects),
        "seconds of an answer": {
            f"{code}": {
                "median": round(statistics.median(seconds for seconds, _, _ in told), 3),
                "slowest": "{:.2f}, {:.2f} of the CPU (index {})".format(*max(told)),
            }
            for code, told in times.items()
        },
        "seconds in all": round(time.time() - begun, 1),
        "machine": f"{platform.machine()}, {local_cores()} cores",
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
        },
    }


@pytest.mark.parametrize(
    "count",
    [FEW, pytest.param(MANY, marks=pytest.mark.long)],
)
def test_every_answer_is_success_or_one_message(world, count):
    defects, told = figures(world, count)
    print(json.dumps(told))  # noqa: T201 - shown by pytest -s
    assert not defects, "\n\n".join(f"{i}: {text}" for i, text in list(defects.items())[:20])
    # The inputs are of all kinds.
    assert min(told["exit 0"], told["would have started"], told["exit 2"]) > count / 50


def test_an_input_is_the_same_each_time():
    assert [generated(1, index) for index in range(50)] == [generated(1, i) for i in range(50)]
    assert generated(1, 0) != generated(2, 0)


@pytest.mark.parametrize(
    "arguments",
    [
        ["spaces", "pipe.yaml"],
        ["spaces", "zero.yaml"],
        ["spaces", "loop.yaml", "n" * 300],
        ["spaces", b"caf\xe9\x1b.yaml"],
    ],
    ids=["pipe", "device", "loop", "bytes"],
)
def test_files_that_are_none_are_refused_by_a_process_too(world, arguments):
    """Where nothing is taken away: the process neither waits nor ends with a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "esam_tune.cli", *arguments],
        cwd=world,
        env=environment(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == len(arguments) - 1
    assert all(line.startswith(b"esam-tune: error: ") for line in lines)
    assert b"\x1b" not in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("answer", "arguments", "word"),
    [
        ({"code": 1}, (), "exit code 1"),
        ({"code": None, "escaped": "Traceback"}, (), "Traceback"),
        ({"err": "esam-tune: error: a\nesam-tune: error: b\n"}, (), "not one message"),
        ({"err": ""}, (), "not one message"),
        ({"err": "esam-tune: error: \x1b[2J\n"}, (), "control characters"),
        ({"err": f"esam-tune: error: {'x' * 9_000}\n"}, (), "a message of"),
        ({"out": "{}"}, ("sweep",), "output beside"),
        ({"left": frozenset({"runs/small"})}, (), "left behind"),
    ],
)
def test_a_wrong_answer_is_seen(answer, arguments, word):
    right = Answer(
        code=2,
        out="",
        err="esam-tune: error: a\n",
        seconds=0.0,
        cpu_seconds=0.0,
        escaped="",
        left=frozenset(),
    )
    assert word in defect(replace(right, **answer), arguments)
    assert defect(right, arguments) is None
