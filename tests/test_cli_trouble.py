"""What the command line says when the system, not the user, is in the way; and how it says it."""

import io
import os
import subprocess
import sys

import pytest
from conftest import command_line, environment
from study_events import WrittenStudy, study_spec

from esam_tune import cli
from esam_tune.cli import main
from esam_tune.errors import InputError, RunFailedError, escaped, one_line
from esam_tune.study.cluster import check_address
from esam_tune.study.folder import StudyFolder


@pytest.fixture
def storage(tmp_path):
    study = WrittenStudy(tmp_path / "small" / "journal.jsonl", study_spec(name="small"))
    study.trial(0.9, 1.5)
    return tmp_path


def failing(monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(StudyFolder, "record", fail)


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device", "/runs/small"),
        OSError(5, "Input/output error"),
        BrokenPipeError(32, "Broken pipe"),
        ConnectionResetError(104, "Connection reset by peer"),
    ],
    ids=lambda error: error.strerror,
)
def test_what_the_system_refuses_is_one_line_and_a_failure(storage, capsys, monkeypatch, error):
    """Also a pipe that breaks somewhere else than at stdout, which would be the reader's leave."""
    failing(monkeypatch, error)
    # Where nobody reads, that is asked of a file descriptor.
    monkeypatch.setattr(cli.sys, "stdout", open(os.devnull, "w"))  # noqa: SIM115, PTH123
    assert main(["pareto", "small", "--storage", str(storage)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("esam-tune: stopped by the system: ")
    assert error.strerror in line


def test_a_mistake_of_ours_is_not_hidden(storage, monkeypatch):
    failing(monkeypatch, KeyError("ours"))
    with pytest.raises(KeyError):
        main(["pareto", "small", "--storage", str(storage)])


@pytest.mark.e2e
@pytest.mark.parametrize("arguments", [["spaces", "--schema"], ["spaces"], ["--help"]])
def test_a_reader_that_leaves_is_no_failure(arguments):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        command_line(*arguments),
        stdout=writing,
        stderr=subprocess.PIPE,
        env=environment(),
        timeout=60,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.e2e
@pytest.mark.parametrize("arguments", [["spaces", "--schema"], ["spaces"]])
def test_a_full_disk_behind_stdout_is_one_line_and_a_failure(arguments):
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        done = subprocess.run(
            command_line(*arguments),
            stdout=full,
            stderr=subprocess.PIPE,
            # As most have it: what is printed waits for the process' end.
            env=environment(PYTHONUNBUFFERED=""),
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "No space left on device" in line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain \u00e9 \U0001f4a5", "plain \u00e9 \U0001f4a5"),
        ("\x1b]0;title\x07\x9b2J", r"\x1b]0;title\x07\x9b2J"),
        ("\u202egnp.exe\ud800", r"\u202egnp.exe\ud800"),
        ("a\rb\x00\x7f", r"a\rb\x00\x7f"),
    ],
)
def test_what_a_terminal_would_act_on_is_spelled_out(text, shown):
    assert escaped(text) == shown


def test_messages_are_one_line_of_a_length_to_read():
    assert one_line("a\n  b\tc") == "a b c"
    long = one_line("begin " + "x" * 100_000 + " end", 100)
    assert long.startswith("begin ")
    assert long.endswith(" end")
    assert len(long) < 110
    error = InputError("f" * 5_000, f"got {'x' * 100_000!r}", "\x1b[31mred")
    assert len(str(error)) < 3_000
    assert r"\x1b[31mred" in str(error)


def test_a_failed_run_is_told_in_one_line(storage, capsys, monkeypatch):
    failing(monkeypatch, RunFailedError("first\n\x1b[31msecond"))
    assert main(["pareto", "small", "--storage", str(storage)]) == 1
    assert capsys.readouterr().err == "esam-tune: first \\x1b[31msecond\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["swe\x1b[31mep"],
        ["pareto", "small", "--pick", "\x1b[31m"],
        ["pareto", "small", "--ma\x1b[31mx"],
        ["pareto", "\x1b[31m"],
        ["pareto", "x" * 50_000],
        ["sweep", "\x1b[31m.yaml"],
        ["sweep", "none.yaml", "--set", "\x1b[31m"],
    ],
)
def test_arguments_are_shown_without_what_a_terminal_acts_on(capsys, arguments):
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "\x1b" not in line
    assert len(line) < 3_500


def test_a_studys_labels_from_elsewhere_do_nothing_to_a_terminal(storage, capsys):
    path = storage / "small" / "journal.jsonl"
    path.write_text(path.read_text().replace("ESAM", "\\u001b]0;owned\\u0007"))
    assert main(["pareto", "small", "--storage", str(storage)]) == 0
    said = capsys.readouterr()
    assert "owned" in said.out
    assert "\x1b" not in said.out + said.err


@pytest.mark.parametrize(
    "content",
    [
        '{"event": "study", "time": 1}\n',
        '{"event": "study", "time": 1, "space": []}\n',
        '{"event": "study", "time": 1, "space": ' + "[" * 50_000 + "\n",
        '[{"event": "study"}]\n',
    ],
)
def test_a_journal_of_something_else_is_refused_in_words(storage, capsys, content):
    (storage / "small" / "journal.jsonl").write_text(content)
    assert main(["pareto", "small", "--storage", str(storage)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("esam-tune: error: ")


@pytest.mark.parametrize("event", [{"trial_id": [1]}, {"trial_id": "none"}, {}])
def test_an_event_that_no_study_writes_is_named(storage, capsys, event):
    study = WrittenStudy(storage / "small" / "journal.jsonl", study_spec(name="small"))
    study.writer.append("trial_end", **event)
    assert main(["pareto", "small", "--storage", str(storage)]) == 2
    assert "holds something that no study writes, before byte" in capsys.readouterr().err


@pytest.mark.parametrize("path", ["out.txt", "runs/small/journal.jsonl", ".bashrc", "out", ""])
def test_an_export_goes_over_nothing_but_yaml_files(storage, capsys, monkeypatch, path):
    monkeypatch.chdir(storage)
    before = (storage / "small" / "journal.jsonl").read_bytes()
    arguments = ["pareto", "small", "--storage", str(storage), "--export", path]
    assert main(arguments) == 2
    assert "--export: must end in .yaml or .yml" in capsys.readouterr().err
    assert (storage / "small" / "journal.jsonl").read_bytes() == before


@pytest.mark.parametrize("address", ["a..b:1", "h:\u00b2", "h:" + "9" * 5_000, "h:0", ":1", "x:-1"])
def test_an_address_that_can_be_none_is_refused(address):
    with pytest.raises(InputError, match="--address"):
        check_address(address)


def test_standard_output_of_another_encoding_takes_what_there_is(storage, monkeypatch):
    path = storage / "caf\u00e9.yaml"
    path.write_text("a: 1")
    said = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", said)
    WrittenStudy(storage / "other" / "journal.jsonl", study_spec(name="other")).trial(
        0.9, 1.5, label="caf\u00e9"
    )
    assert main(["pareto", "other", "--storage", str(storage)]) == 0
    said.flush()
    assert b"caf\\xe9" in said.buffer.getvalue()
