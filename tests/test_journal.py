"""The journal: whole events come back, torn ones are cut off, damage is named."""

import json

import pytest

from esam_tune import journal
from esam_tune.journal import Journal, JournalError


def kinds(path, offset=0):
    return [event["event"] for event, _ in journal.read(path, offset)]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "journal.jsonl"
    writer = Journal(path)
    for number in range(3):
        writer.append(journal.EPOCH, trial_id=str(number), metrics={"epoch": 1, "val_loss": None})
    writer.close()
    return path


def test_what_is_appended_reads_back_with_its_time_and_content(tmp_path):
    writer = Journal(tmp_path / "journal.jsonl")
    written = [
        writer.append(journal.STUDY, durable=True, space={"name": "ä\n"}),
        writer.append(journal.STUDY_END, front=[]),
    ]
    # Every event is on its way to the disk when append returns: a reader sees it at once.
    assert [event for event, _ in journal.read(writer.path)] == written
    assert written[0]["space"] == {"name": "ä\n"}
    assert written[0]["time"] <= written[1]["time"]
    writer.close()


def test_an_offset_reads_on_from_where_it_was_taken(path):
    events = list(journal.read(path))
    assert [event["trial_id"] for event, _ in events] == ["0", "1", "2"]
    assert events[-1][1] == path.stat().st_size
    for index, (_, offset) in enumerate(events):
        assert list(journal.read(path, offset)) == events[index + 1 :]


@pytest.mark.parametrize("kept", [1, 10, -1])
def test_a_torn_last_line_is_passed_over_and_cut_off_by_the_next_writer(path, kept):
    whole = path.read_bytes()
    last = whole.splitlines(keepends=True)[0]
    path.write_bytes(whole + last[:kept])
    assert len(kinds(path)) == 3
    assert path.read_bytes() != whole
    writer = Journal(path)
    assert path.read_bytes() == whole
    writer.append(journal.STUDY_RESUME)
    writer.close()
    assert kinds(path) == [journal.EPOCH] * 3 + [journal.STUDY_RESUME]


def test_a_journal_that_is_nothing_but_a_torn_line_begins_anew(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text('{"event": "stu')
    assert kinds(path) == []
    Journal(path).close()
    assert path.stat().st_size == 0


@pytest.mark.parametrize(
    "line", ["not json", "[1]", "3", "null", '{"event": "epoch"}', '{"time": 0}', ""]
)
def test_a_damaged_line_is_named_with_its_place_and_not_passed_over(path, line):
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + line + "\n" + lines[1])
    events = journal.read(path)
    assert next(events)[0]["trial_id"] == "0"
    with pytest.raises(JournalError, match="damaged before byte") as caught:
        next(events)
    assert str(path) in str(caught.value)
    assert f"byte {len(lines[0]) + len(line) + 1}" in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_no_json_is_refused_and_nothing_is_written(path, value):
    before = path.read_bytes()
    writer = Journal(path)
    with pytest.raises(ValueError):
        writer.append(journal.EPOCH, metrics={"val_loss": value})
    writer.close()
    assert path.read_bytes() == before


def test_each_event_is_one_line_of_json(path):
    lines = path.read_text().splitlines()
    assert [json.loads(line)["metrics"]["val_loss"] for line in lines] == [None] * 3
