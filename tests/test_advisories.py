"""No pinned dependency has a known advisory, where the package index tells of any."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY

CONSTRAINTS = REPOSITORY / "constraints.txt"
# Advisories that do not concern us, each with why.
ACCEPTED: dict[str, str] = {}


def audit(requirements: Path) -> dict[str, Any] | None:
    """What `pip-audit` says of pinned requirements; None where it reaches no index."""
    run = subprocess.run(
        [
            *(sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip"),
            *("--progress-spinner", "off", "--format", "json", "--timeout", "10"),
            *("--requirement", str(requirements)),
        ],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    try:
        return dict(json.loads(run.stdout))
    except ValueError:
        return None


def unknown(document: Mapping[str, Any]) -> list[str]:
    """Names that the index has no advisories for, not even that there are none."""
    return [found["name"] for found in document["dependencies"] if "skip_reason" in found]


def advisories(document: Mapping[str, Any]) -> list[str]:
    """Each advisory that is not accepted, with whom it concerns and the release that mends it."""
    return [
        f"{found['name']} {found['version']}: {known['id']}, mended in {known['fix_versions']}"
        for found in document["dependencies"]
        for known in found.get("vulns", ())
        if not {known["id"], *known.get("aliases", ())} & ACCEPTED.keys()
    ]


def test_what_the_index_says_is_read() -> None:
    document = {
        "dependencies": [
            {"name": "ours", "version": "1.0", "vulns": []},
            {"name": "theirs", "skip_reason": "Dependency not found"},
            {
                "name": "old",
                "version": "0.9",
                "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["0.9.1"]}],
            },
        ]
    }
    assert unknown(document) == ["theirs"]
    assert advisories(document) == ["old 0.9: PYSEC-1, mended in ['0.9.1']"]


@pytest.mark.slow
def test_no_dependency_has_a_known_advisory(tmp_path: Path) -> None:
    assert importlib.util.find_spec("pip_audit"), "make test installs it"
    # One request tells whether the index serves advisories; each of 190 would wait for its answer.
    probe = tmp_path / "probe.txt"
    probe.write_text(CONSTRAINTS.read_text(encoding="utf-8").splitlines()[0] + "\n")
    asked = audit(probe)
    if asked is None or unknown(asked):
        pytest.skip("the package index serves no advisories")
    document = audit(CONSTRAINTS)
    assert document is not None
    assert advisories(document) == []
    assert unknown(document) == []
