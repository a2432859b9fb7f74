"""Parts of a sweep that need no cluster."""

import importlib.metadata

import pytest
from rich.console import Console
from study_events import WrittenStudy, study_spec

import esam_tune
from esam_tune.errors import InputError
from esam_tune.study import execution, preflight, sweep
from esam_tune.study.preflight import SweepOptions
from esam_tune.study.space import Overrides


def test_a_study_notes_versions_where_the_package_itself_is_not_installed(monkeypatch):
    real = importlib.metadata.version

    def version(name):
        if name == "esam-tune":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = execution._versions()
    assert found["esam-tune"] == esam_tune.__version__
    assert found["ray"] == real("ray")


class ClusterReachedError(Exception):
    """The checks are over."""


@pytest.fixture
def checked(monkeypatch):
    """Plans that were checked in full, on the way to the cluster."""
    plans = []
    check = preflight.check_plan

    def note(plan, options):
        plans.append(plan)
        check(plan, options)

    def connected(address, *, distributed):
        raise ClusterReachedError

    monkeypatch.setattr(preflight, "check_plan", note)
    monkeypatch.setattr(sweep, "check_plan", note)
    monkeypatch.setattr("esam_tune.study.cluster.connected", connected)
    return plans


def run(storage, **options):
    sweep.sweep(study_spec(), Overrides(), SweepOptions(storage=storage, **options), Console())


def meanwhile(monkeypatch, act):
    """Another process does something between the checks and the lock."""
    real = sweep.preflight

    def preflight_and_act(*arguments):
        plan = real(*arguments)
        act()
        return plan

    monkeypatch.setattr(sweep, "preflight", preflight_and_act)


def test_what_cannot_have_changed_is_checked_once(checked, tmp_path):
    with pytest.raises(ClusterReachedError):
        run(tmp_path)
    assert len(checked) == 1


def test_a_study_that_appears_meanwhile_is_not_overwritten(checked, tmp_path, monkeypatch):
    journal = tmp_path / "small" / "journal.jsonl"
    meanwhile(monkeypatch, lambda: WrittenStudy(journal, study_spec()).writer.close())
    with pytest.raises(InputError, match=r"--name: study 'small' exists"):
        run(tmp_path)


def test_a_budget_that_grows_meanwhile_is_checked(checked, tmp_path, monkeypatch):
    journal = tmp_path / "small" / "journal.jsonl"
    study = WrittenStudy(journal, study_spec(), tracking_uri=None)

    def grow():
        study.writer.append("budget", space=study_spec(trials=7).to_dict())
        study.writer.close()

    meanwhile(monkeypatch, grow)
    with pytest.raises(ClusterReachedError):
        run(tmp_path, resume=True)
    assert [plan.spec.trials for plan in checked] == [3, 7]
