"""docs/errors.md: each command is run, and answers as the page says."""

import ast
import re
import shlex
import socket
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY
from study_events import WrittenStudy

import esam_tune
from esam_tune.cli import main
from esam_tune.study.folder import study_folder
from esam_tune.study.space import load_space

PAGE = (REPOSITORY / "docs" / "errors.md").read_text(encoding="utf-8")
SPACE = Path("search_spaces") / "digits_noisy.yaml"
DIVERGING = {
    "task": {"dataset": "digits", "model": "small_cnn"},
    "training": {"epochs": 1, "batch_size": 256, "lr": 1e20},
    "params": {"optimizer": "sgd"},
}


def transcripts():
    """What each command of the page is given, itself, and the answer below it."""
    for block in re.finditer(
        r"(?:<!-- given: (?P<given>[^>]+) -->\n\n)?(?P<lines>(?:    .*\n)+)", PAGE
    ):
        lines = [line[4:] for line in block["lines"].splitlines()]
        assert lines[0].startswith("$ esam-tune "), lines
        yield pytest.param(
            block["given"], lines[0][2:], "\n".join(lines[1:]), id=lines[0][12:60].strip()
        )


class World:
    """The folder that the page's commands are run in, with what each is given."""

    def __init__(self, stack, monkeypatch):
        self._stack = stack
        self._monkeypatch = monkeypatch

    def prepare(self, given):
        prepared = {
            "no network": self.no_network,
            "a study": self.a_study,
            "a running study": self.a_running_study,
            "a damaged study": self.a_damaged_study,
            "a file named file": lambda: Path("file").write_text("in the way"),
            "settings that diverge": self.settings_that_diverge,
            "a port that is taken": self.a_port_that_is_taken,
        }
        prepared[given]()

    def no_network(self):
        def refuse(*_, **__):
            raise OSError("Network is unreachable")

        self._monkeypatch.setattr(socket, "getaddrinfo", refuse)

    def a_study(self):
        spec = load_space(SPACE)
        study = WrittenStudy(Path("runs", spec.name, "journal.jsonl").absolute(), spec)
        study.trial(0.9, 1.5)
        study.writer.close()
        return study

    def a_running_study(self):
        self.a_study()
        self._stack.enter_context(study_folder(Path("runs"), "digits_noisy").lock())

    def a_damaged_study(self):
        path = self.a_study().path
        first, *others = path.read_text().splitlines(keepends=True)
        path.write_text(first + "damage\n" + "".join(others))

    def settings_that_diverge(self):
        Path("settings.yaml").write_text(yaml.safe_dump(DIVERGING))

    def a_port_that_is_taken(self):
        Path("runs").mkdir()
        Path("runs", "mlflow.db").touch()
        server = self._stack.enter_context(socket.socket())
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 5000))
        server.listen()


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("ESAM_TUNE_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    Path("search_spaces").symlink_to(REPOSITORY / "search_spaces")
    with ExitStack() as stack:
        yield World(stack, monkeypatch)


@pytest.mark.parametrize(("given", "command", "answer"), list(transcripts()))
def test_a_documented_command_answers_as_the_page_says(world, capsys, given, command, answer):
    if given is not None:
        world.prepare(given)
    _, *arguments = shlex.split(command)
    code = main(arguments)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert pattern(answer).fullmatch(printed.err.rstrip("\n")), printed.err
    assert code == (2 if ": error: " in answer else 1)


def pattern(written):
    """What matches a text of the page, whose ``...`` stands for anything on its line."""
    return re.compile(".*".join(map(re.escape, written.split("..."))))


@cache
def messages_of_the_code():
    """Patterns of all texts in the package, whatever is put into them being anything."""
    found = set()
    for path in Path(esam_tune.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(re.sub(r"%(\.\d)?[sdf]", "\0", node.value))
            elif isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else "\0" for p in node.values]
                found.add("".join(parts))
    return found


def code_span(cell):
    """What a cell of a table shows as code, as Markdown reads it; None unless it is one span."""
    found = re.fullmatch(r"(`+)(?!`)(.+)(?<!`)\1", cell)
    if found is None or found[1] in re.findall("`+", found[2]):
        return None
    # Spaces keep a fence apart from backticks inside.
    text = found[2]
    return text[1:-1] if text.startswith(" ") and text.endswith(" ") else text


ROWS = re.findall(r"^\| (`.+`) \| ", PAGE, re.MULTILINE)


@pytest.mark.parametrize("cell", ROWS)
def test_a_message_of_a_table_is_one_span_of_code(cell):
    assert code_span(cell) is not None


def test_a_fence_ends_at_backticks_of_its_length():
    assert code_span("`a b`") == "a b"
    assert code_span("`` a `b` ``") == "a `b`"
    assert code_span("`a `b``") is None
    assert code_span("`a` or `b`") is None


@pytest.mark.parametrize("message", [code_span(cell) or cell for cell in ROWS])
def test_a_documented_message_is_one_of_the_codes(message):
    assert message.replace("...", "\0") in messages_of_the_code()


@pytest.mark.parametrize("message", re.findall(r"^\*\*`(.+)`\*\*:", PAGE, re.MULTILINE))
def test_a_message_of_the_installation_is_the_makefiles(message):
    assert f'"{message}"' in (REPOSITORY / "Makefile").read_text()
