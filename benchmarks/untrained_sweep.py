"""`esam-tune sweep` with a formula in the place of each trial's training.

    python benchmarks/untrained_sweep.py CHECKPOINTS SPACE [options of esam-tune sweep]

All else is the sweep's own: the formula is called in the trial's actor and reports to Tune, as many
times as the trial has epochs, with a checkpoint of 1 kB each if CHECKPOINTS is not 0.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esam_tune.cli import main
from esam_tune.study import runner


def formula(params: Mapping[str, Any], epoch: int) -> dict[str, float]:
    """Metrics of a setting that was not trained: dearer settings are more accurate, up to a rho."""
    beta, gamma, rho = (float(params.get(key, 0.0)) for key in ("beta", "gamma", "rho"))
    cost = 1.0 + beta * gamma
    accuracy = 0.7 + 0.25 * (cost - 1.0) ** 0.5 - (rho - 0.2) ** 2 * 0.3 + 0.001 * epoch
    return {
        "epoch": epoch,
        "train_loss": 2.0 - accuracy,
        "val_loss": 1.5 - accuracy,
        "val_accuracy": accuracy,
        "step_flops_ratio": cost,
        "step_time_ratio": cost,
        "epoch_seconds": 0.01,
        "images_per_second": 1e5,
    }


def run_untrained(request: Mapping[str, Any]) -> None:
    """Tune trainable: report the formula's metrics at once."""
    from ray import tune

    for epoch in range(1, request["settings"]["training"]["epochs"] + 1):
        metrics = formula(request["settings"]["params"], epoch)
        if not CHECKPOINTS:
            tune.report(metrics)
            continue
        with tempfile.TemporaryDirectory(prefix="esam-tune-") as kept:
            Path(kept, "state").write_bytes(bytes(1024))
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(kept))


if __name__ == "__main__":
    CHECKPOINTS = int(sys.argv[1])
    # Not by name: the module imports it, and says nothing of exporting it.
    vars(runner)["run_in_process"] = run_untrained
    sys.exit(main(["sweep", *sys.argv[2:]]))
