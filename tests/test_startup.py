"""What a verb loads before it answers: nothing that it may not need."""

import subprocess
import sys

# Modules that take a second or more to load.
HEAVY = ("torch", "ray", "optuna", "mlflow", "matplotlib", "scipy.stats", "sklearn", "pandas")


def test_a_sweep_s_checks_load_nothing_heavy() -> None:
    code = "import sys, esam_tune.study.sweep; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert "esam_tune.study.sweep" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_reading_a_study_back_loads_nothing_heavy() -> None:
    code = "import sys, esam_tune.study.folder, esam_tune.study.results; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(run.stdout.split()).isdisjoint(HEAVY)
