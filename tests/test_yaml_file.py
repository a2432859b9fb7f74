"""YAML files: what they may hold, and where a message points."""

import math
import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esam_tune.errors import UNWANTED, InputError
from esam_tune.yaml_file import MAX_BYTES, MAX_DEPTH, MAX_VALUES, read_yaml, write_yaml

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**18), 10**18),
    st.floats(),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])).filter(
        lambda text: not UNWANTED.search(text)
    ),
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner),
    max_leaves=8,
)
MARKS = st.sampled_from("a0-?:,[]{}'\"|>#%~\n\t\x00\x1b")
WORDS = st.sampled_from(["a: ", "  ", "- ", "&x ", "*x", "<<: ", "---\n", "1e5", ".nan"])
TAGS = st.sampled_from(
    ["int", "float", "bool", "null", "timestamp", "set", "omap", "binary", "map"]
)
FRAGMENTS = MARKS | WORDS | TAGS.map("!!{} ".format) | st.text(max_size=3)


def written(folder, content):
    path = folder / "file.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(path):
    with pytest.raises(InputError) as caught:
        read_yaml(path, "SPACE")
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.field == "SPACE"
    assert caught.value.remedy
    return caught.value


def mapping_or_error(path):
    try:
        return read_yaml(path, "SPACE")
    except InputError as error:
        return error


def same(left, right):
    if isinstance(left, float) and isinstance(right, float) and math.isnan(left):
        return math.isnan(right)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    return type(left) is type(right) and left == right


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-4", 5e-4),
        ("1E3", 1000.0),
        ("-.5", -0.5),
        ("1.", 1.0),
        ("12", 12),
        ("-3", -3),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("yes", "yes"),
        ("off", "off"),
        ("2026-01-02", "2026-01-02"),
        ("1:30", "1:30"),
        ("0x1F", "0x1F"),
        ("1_000", "1_000"),
        ("'12'", "12"),
        ("e5", "e5"),
    ],
)
def test_a_scalar_means_what_its_writer_means(tmp_path, text, value):
    read = read_yaml(written(tmp_path, f"key: {text}\n"), "SPACE")
    assert same(read, {"key": value})


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("a: 1\na: 2\n", "line 2, column 1 is not readable as YAML: key 'a' occurs twice"),
        ("a: &x 1\nb: *x\n", "line 2, column 4 is not readable as YAML: aliases are not read"),
        ("1: a\n", "line 1, column 1 is not readable as YAML: keys must be words, found 1"),
        ("a: [1\n", "is not readable as YAML"),
        ("a: 'x\n", "is not readable as YAML"),
        ("a: 1\n b: 2\n", "line 2"),
        ("a: 1\n---\nb: 1\n", "is not readable as YAML"),
        ("a: " + "[" * MAX_DEPTH + "]" * MAX_DEPTH, f"nested deeper than {MAX_DEPTH} levels"),
        ("a: !!python/object/apply:os.getcwd []\n", "tags are not read"),
        ("a: !!int x\n", "is not readable as YAML"),
        ("a: !!int ''\n", "is not readable as YAML"),
        ("a: !!float ''\n", "is not readable as YAML"),
        ("a: !!bool maybe\n", "is not readable as YAML"),
        ("a: !!timestamp soon\n", "is not readable as YAML"),
        ("a: " + "9" * 5000, "is not readable as YAML"),
        ("a: \x1b\n", "is not readable as YAML"),
        ('a: "\\e[31m"\n', "the character U+001B is not read"),
        ('"\\e]0;t\\a": 1\n', "the character U+001B is not read"),
        ('a: ["\\u202Egnp"]\n', "the character U+202E is not read"),
        ('a: "\\uD800"\n', "the character U+D800 is not read"),
        ('a: "\\0"\n', "the character U+0000 is not read"),
        ("a: [" + "1," * MAX_VALUES + "1]", f"holds more than {MAX_VALUES} values"),
        (b"\xff\xfea", "is not UTF-8 text"),
        ("", "must hold a mapping, found NoneType"),
        ("- a\n", "must hold a mapping, found list"),
        ("text", "must hold a mapping, found str"),
        ("a: " + "x" * MAX_BYTES, f"is larger than {MAX_BYTES} bytes"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_is_not_a_mapping_in_yaml_is_refused(tmp_path, content, problem):
    path = written(tmp_path, content)
    error = refusal(path)
    assert problem in error.problem
    assert repr(str(path)) in error.problem


def test_a_depth_within_the_limit_is_read(tmp_path):
    depth = MAX_DEPTH - 2
    path = written(tmp_path, "a: " + "[" * depth + "]" * depth)
    assert list(read_yaml(path, "SPACE")) == ["a"]


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path):
    missing = refusal(tmp_path / "no.yaml")
    assert missing.problem == f"no such file {str(tmp_path / 'no.yaml')!r}"
    assert missing.remedy == "check the path"
    assert refusal(tmp_path).problem == f"cannot read {str(tmp_path)!r} (Is a directory)"


@pytest.mark.parametrize("kind", ["pipe", "device", "link to a device"])
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path, kind):
    path = Path("/dev/zero") if kind == "device" else tmp_path / "space.yaml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to a device":
        path.symlink_to("/dev/zero")
    assert "is no file but a pipe or a device" in refusal(path).problem


def test_links_in_a_circle_and_names_that_are_none_are_refused(tmp_path):
    path = tmp_path / "loop.yaml"
    path.symlink_to("loop.yaml")
    assert "cannot read" in refusal(path).problem
    assert "cannot read" in refusal(tmp_path / ("n" * 300)).problem
    assert "is no path" in refusal(tmp_path / "a\0b").problem


@given(fragments=st.lists(FRAGMENTS, max_size=12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_a_mapping_or_an_input_error(tmp_path, fragments):
    path = written(tmp_path, "".join(fragments).encode("utf-8", "surrogatepass"))
    read = mapping_or_error(path)
    if isinstance(read, InputError):
        assert len(str(read).splitlines()) == 1
    else:
        assert isinstance(read, dict)
        assert all(isinstance(key, str) for key in read)


@given(document=st.dictionaries(st.text("abcyn01.e-~", min_size=1), TREES, max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_reads_back_the_same(tmp_path, document):
    path = tmp_path / "deeper" / "file.yaml"
    write_yaml(path, document, "what it is")
    assert path.read_text().startswith("# what it is\n")
    assert same(read_yaml(path, "SPACE"), document)


@pytest.mark.parametrize("text", ["0003", "0008", "1e5", "0x1F", "1_000", "yes", "2026-01-02", "~"])
def test_text_that_looks_like_another_type_stays_text(tmp_path, text):
    path = tmp_path / "file.yaml"
    write_yaml(path, {"trial_id": text, text: 1}, "comment")
    assert read_yaml(path, "SETTINGS") == {"trial_id": text, text: 1}


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_who_may_read_what_is_written_is_the_umasks_say(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_yaml(tmp_path / "file.yaml", {"a": 1}, "comment")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file.yaml").stat().st_mode) == mode


def test_a_comment_stays_one(tmp_path):
    """A label of several lines would otherwise write fields of its own."""
    path = tmp_path / "file.yaml"
    write_yaml(path, {"seed": 1}, "label\nseed: 5\n")
    assert read_yaml(path, "SETTINGS") == {"seed": 1}


def test_a_link_is_replaced_and_what_it_leads_to_left_alone(tmp_path):
    other, path = tmp_path / "other", tmp_path / "file.yaml"
    other.write_text("kept")
    path.symlink_to(other)
    write_yaml(path, {"a": 1}, "comment")
    assert (other.read_text(), path.is_symlink()) == ("kept", False)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "file.yaml"
    write_yaml(path, {"a": 1}, "first")
    before = path.read_text()
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        write_yaml(tmp_path / "folder", {"a": 2}, "onto a folder")
    with pytest.raises(OSError):
        write_yaml(path / "below", {"a": 2}, "below a file")
    assert path.read_text() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file.yaml", "folder"]
