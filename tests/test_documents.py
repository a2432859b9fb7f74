"""The documents hang together: links lead somewhere, verbs and options in them exist."""

import re
import shlex

import pytest
from conftest import REPOSITORY

from esam_tune.cli import build_parser

DOCUMENTS = [
    path
    for folder in (".", "docs", "benchmarks/results")
    for path in sorted((REPOSITORY / folder).glob("*.md"))
]
NAMES = [str(path.relative_to(REPOSITORY)) for path in DOCUMENTS]
(VERBS,) = [a.choices for a in build_parser()._actions if isinstance(a.choices, dict)]


def commands(text):
    """Each esam-tune command of a document's code blocks, put on one line."""
    for block in re.findall(r"(?:^(?:    |\t).*\n)+", text, re.MULTILINE):
        joined = re.sub(r"\\\n\s*", " ", block)
        yield from re.findall(r"^\s+(?:\$ )?(?:\S*/)?esam-tune (\S.*)$", joined, re.MULTILINE)


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_a_documents_links_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    local = [link for link in links if "://" not in link and not link.startswith("get-artifact")]
    assert [link for link in local if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_a_documents_commands_have_verbs_and_options_that_exist(path):
    wrong = []
    for command in commands(path.read_text(encoding="utf-8")):
        # What stands beside a command, some spaces away, is prose.
        verb, *arguments = shlex.split(re.split(r" {2,}", command)[0], comments=True)
        if verb not in VERBS and not verb.startswith("-"):
            wrong.append(command)
            continue
        known = {o for a in VERBS[verb]._actions for o in a.option_strings} if verb in VERBS else {}
        options = [a.partition("=")[0] for a in arguments if re.match(r"--?[a-z]", a)]
        wrong += [command for option in options if known and option not in known]
    assert wrong == []


@pytest.mark.parametrize("name", ["SECURITY.md", "docs/reliability.md"])
def test_the_files_that_a_document_points_to_are_there(name):
    # A test stands there as in the tests' folder, or with it.
    named = re.findall(r"[\w/]+\.py\b", (REPOSITORY / name).read_text(encoding="utf-8"))
    assert named
    folders = [REPOSITORY, REPOSITORY / "tests"]
    assert [n for n in named if not any((folder / n).is_file() for folder in folders)] == []
