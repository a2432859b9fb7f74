"""A sweep of several seeds with the real Ray, and its front refined, as a user runs them."""

import json

import pytest
from conftest import esam_tune, write_space

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.slow, pytest.mark.long]


def test_a_sweep_of_two_seeds_is_refined_to_three(tmp_path):
    space, storage = write_space(tmp_path, trials=2), tmp_path / "runs"
    swept = esam_tune("sweep", space, "--storage", storage, "--seeds", 2, "--json")
    assert swept.returncode == 0, swept.stderr
    document = json.loads(swept.stdout)
    for trial in document["trials"]:
        assert [(run["seed"], run["state"]) for run in trial["runs"]] == [
            (0, "complete"),
            (1, "complete"),
        ]
        accuracies = [run["metrics"]["val_accuracy"] for run in trial["runs"]]
        assert trial["metrics"]["val_accuracy"] == pytest.approx(sum(accuracies) / 2)
        # Seeds are runs of their own, not copies.
        assert len({run["metrics"]["train_loss"] for run in trial["runs"]}) == 2
        assert len({run["mlflow_run_id"] for run in trial["runs"]}) == 2
    refined = esam_tune("refine", "tiny", "--storage", storage, "--seeds", 3, "--json")
    assert refined.returncode == 0, refined.stderr
    document = json.loads(refined.stdout)
    counts = {trial["trial_id"]: len(trial["runs"]) for trial in document["trials"]}
    for trial in document["trials"]:
        expected = 3 if trial["baseline"] or trial["trial_id"] in document["front"] else 2
        # One that was on the front for a while may have more than two.
        assert expected <= counts[trial["trial_id"]] <= 3
    again = esam_tune("refine", "tiny", "--storage", storage, "--seeds", 3, "--json")
    assert {t["trial_id"]: len(t["runs"]) for t in json.loads(again.stdout)["trials"]} == counts
