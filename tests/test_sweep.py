"""Parts of a sweep that need no cluster."""

import importlib.metadata

import esam_tune
from esam_tune.study import sweep


def test_a_study_notes_versions_where_the_package_itself_is_not_installed(monkeypatch):
    real = importlib.metadata.version

    def version(name):
        if name == "esam-tune":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = sweep._versions()
    assert found["esam-tune"] == esam_tune.__version__
    assert found["ray"] == real("ray")
