"""Nothing that a user points at is read in a way that may run code."""

import ast
from pathlib import Path

import pytest
from conftest import REPOSITORY

FOLDERS = ("esam_tune", "jobs", "benchmarks", "docs")
# Call -> the keyword that makes it safe, with its value; None where nothing does.
UNSAFE = {
    "pickle.load": None,
    "pickle.loads": None,
    "pickle.Unpickler": None,
    "cloudpickle.load": None,
    "cloudpickle.loads": None,
    "dill.load": None,
    "dill.loads": None,
    "joblib.load": None,
    "marshal.load": None,
    "marshal.loads": None,
    "shelve.open": None,
    "pandas.read_pickle": None,
    "torch.jit.load": None,
    "torch.hub.load": None,
    "torch.load": ("weights_only", "True"),
    "numpy.load": ("allow_pickle", "False"),
    "yaml.load": ("Loader", "_Loader"),
    "yaml.load_all": ("Loader", "_Loader"),
    "yaml.unsafe_load": None,
    "yaml.full_load": None,
    "mlflow.pytorch.load_model": None,
    "mlflow.pyfunc.load_model": None,
    "os.system": None,
    "os.popen": None,
    "eval": None,
    "exec": None,
}
# Calls of programs, which must not go through a shell.
PROCESSES = ("subprocess.run", "subprocess.Popen", "subprocess.call", "subprocess.check_output")


def unsafe_calls(source):
    """Lines of a source that call something of the list, by whatever name it was imported."""
    tree = ast.parse(source)
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = full_name(node.func, names)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if called in PROCESSES and given.get("shell", "False") != "False":
                yield f"line {node.lineno}: {called} with a shell"
            if called in UNSAFE:
                safe = UNSAFE[called]
                if safe is None or given.get(safe[0]) != safe[1]:
                    yield f"line {node.lineno}: {called}"


def full_name(node, names):
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join([names.get(node.id, node.id), *reversed(parts)])


SOURCES = sorted(path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*.py"))


def test_no_source_loads_what_may_run_code():
    assert len(SOURCES) > 100
    found = {
        str(path.relative_to(REPOSITORY)): list(unsafe_calls(path.read_text())) for path in SOURCES
    }
    assert {path: calls for path, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.load(file)",
        "import pickle as p\ndef f():\n    return p.loads(b'')",
        "from pickle import loads\nloads(b'')",
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "import numpy as np\nnp.load(path, mmap_mode='c')",
        "import yaml\nyaml.load(text, Loader=yaml.UnsafeLoader)",
        "import mlflow\nmlflow.pytorch.load_model(uri)",
        "import subprocess\nsubprocess.run(line, shell=True)",
        "import cloudpickle\ncloudpickle.loads(b'')",
        "eval(text)",
    ],
)
def test_the_check_sees_an_unsafe_call(source):
    assert len(list(unsafe_calls(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(path, map_location='cpu', weights_only=True)",
        "import numpy as np\nnp.load(path, allow_pickle=False)",
        "import pickle\ntry:\n    pass\nexcept pickle.UnpicklingError:\n    pass",
        "model.eval()",
        "import json\njson.load(file)",
        "import yaml\nyaml.load(text, Loader=_Loader)",
    ],
)
def test_the_check_lets_the_safe_pass(source):
    assert list(unsafe_calls(source)) == []


class Bomb:
    """A pickle that makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_checkpoint_with_code_in_it_is_refused_and_not_run(tmp_path):
    import torch

    from esam_tune.run_state import load_state, state_file

    folder = tmp_path / "checkpoint"
    folder.mkdir()
    torch.save({"epoch": 1, "workers": 1, "model": Bomb(tmp_path / "ran")}, folder / state_file(0))
    with pytest.raises(Exception):  # noqa: B017 - what matters is that it does not run
        load_state(folder, 0)
    assert not (tmp_path / "ran").exists()
    torch.load(folder / state_file(0), weights_only=False)
    assert (tmp_path / "ran").exists(), "the bomb is none"
