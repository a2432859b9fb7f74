"""Why a run failed, in one line, and which failures another attempt would repeat."""

import pickle
from pathlib import Path

import pytest
import torch
from ray.exceptions import RayTaskError
from ray.train import ControllerError, WorkerGroupError

from esam_tune.errors import InputError
from esam_tune.failures import RunFailure, describe, described, failure_of, would_repeat
from esam_tune.run_state import CheckpointError
from esam_tune.training import DivergedError


def test_a_failure_is_described_by_its_cause_in_one_line():
    wrapper = RuntimeError("the wrapper")
    wrapper.__cause__ = ValueError("a traceback\nthe reason")
    assert describe(wrapper) == "ValueError: the reason"
    assert describe(KeyError()) == "KeyError: no message"
    assert "\n" not in describe(OSError(28, "No space left", str(Path("x"))))


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda error: RayTaskError("train", "a\ntraceback", error),
        lambda error: RayTaskError("train", "a\ntraceback", error).as_instanceof_cause(),
        ControllerError,
    ],
    ids=["task", "dual", "controller"],
)
def test_what_ray_wraps_is_unwrapped(wrapped):
    failure = failure_of(OSError(28, "No space left on device"), "worker 1")
    said = describe(wrapped(failure))
    assert said.startswith("OSError: [Errno 28] No space left on device (worker 1 on node ")


def test_a_groups_error_is_described_by_its_workers():
    error = WorkerGroupError(
        "[Rank 1 Error]:\n  File x\nesam_tune.failures.RunFailure: OSError: gone (worker 1)",
        {1: failure_of(OSError("gone"), "worker 1")},
    )
    assert describe(error) == "OSError: gone (worker 1)"


def test_a_traceback_that_is_text_alone_is_described_alike():
    text = "Failure # 1\n  File x\nesam_tune.failures.RunFailure: OSError: gone (node a)\n"
    assert described(text) == "OSError: gone (node a)"
    assert (
        described("a\n  ray.exceptions.NodeDiedError: x\n\n") == "ray.exceptions.NodeDiedError: x"
    )
    assert described("0123456789", longest=4) == "0123"
    assert described("one line") == "one line"
    assert described(" \n") == ""


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
    ids=["gpu", "cpu", "python"],
)
def test_a_lack_of_memory_is_named_with_its_remedy_once(error):
    said = describe(error)
    assert said.count("use a smaller batch_size") == 1
    again = describe(RuntimeError(f"{said} (worker 0 on node a)"))
    assert again.count("use a smaller batch_size") == 1
    assert "memory" not in describe(RuntimeError("something else"))


# As Ray ends the error of a process that its guard of a node's memory has killed.
KILLED = (
    "2 worker(s) were killed due to the node running low on memory. Memory on the node was 7.61GB "
    "used / 8.00GB limit (0.95)\nRefer to the documentation on how to address it."
)
REMEDY = "out of memory: use a smaller batch_size, precision bf16, or more workers a trial"


@pytest.mark.parametrize(
    "text",
    [
        KILLED,
        f"The actor died unexpectedly before finishing this task.\n\tpid: 12\n  {KILLED}\n",
    ],
    ids=["message", "actor"],
)
def test_a_process_killed_for_its_memory_is_told_from_one_that_is_lost(text):
    killed = "2 worker(s) were killed due to the node running low on memory"
    assert described(text) == f"{killed}; {REMEDY}"
    assert described(text, longest=8) == f"2 worker; {REMEDY}"
    # Beside a worker whose connection to it is gone.
    other = "[Rank 1 Error Snippet]:\nRuntimeError: Connection closed by peer"
    error = WorkerGroupError(f"[Rank 0 Error Snippet]:\n{text}\n{other}", {})
    assert describe(error) == f"{killed}; {REMEDY}"


def test_a_process_that_the_kernel_may_have_killed_for_memory_is_told_what_would_help():
    lost = (
        "The actor died unexpectedly before finishing this task.\n\tpid: 12\nWorker exit detail: "
        "Worker unexpectedly exits with a connection error code 2. End of file. Some common causes "
        "include: (1) the process was killed by the OOM killer due to high memory usage, (2) ray "
        "stop --force was called, or (3) the worker crashed."
    )
    remedy = "if memory ran out: use a smaller batch_size, precision bf16, or more workers a trial"
    assert described(lost).endswith(f"or (3) the worker crashed.; {remedy}")
    assert describe(RuntimeError(lost)).count(remedy) == 1
    # A guess does not keep the run from being tried again.
    assert not would_repeat(RuntimeError(lost))


@pytest.mark.parametrize("name", ["ray.exceptions.OutOfMemoryError", "torch.OutOfMemoryError"])
def test_a_text_that_names_a_lack_of_memory_has_the_remedy_once(name):
    assert described(f"  File x\n{name}: CUDA") == f"{name}: CUDA; {REMEDY}"
    text = f"esam_tune.failures.RunFailure: OutOfMemoryError: CUDA; {REMEDY} (node a)"
    assert described(text) == f"OutOfMemoryError: CUDA; {REMEDY} (node a)"


@pytest.mark.parametrize(
    ("error", "repeats"),
    [
        (DivergedError("training loss is nan in epoch 1"), True),
        (InputError("training.batch_size", "too large", "lower it"), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (KeyError("selection"), True),
        (ZeroDivisionError(), True),
        (OSError(28, "No space left on device"), False),
        (ConnectionResetError(), False),
        (TimeoutError(), False),
        (CheckpointError("here", "it is torn"), False),
        # As gloo tells of a worker that is gone.
        (RuntimeError("Connection closed by peer [127.0.0.1]:1234"), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_would_be_the_same_again_is_not_tried_again(error, repeats):
    assert would_repeat(error) == repeats
    failure = pickle.loads(pickle.dumps(failure_of(error)))
    assert (type(failure), failure.final) == (RunFailure, repeats)
    assert str(failure).startswith(describe(error))
