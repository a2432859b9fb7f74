"""A study as plain data: values, intervals, curves, the front's growth, and what reproduces it."""

import pytest
from report_studies import ReportStudy, full_study

from esam_tune import journal
from esam_tune.intervals import difference_interval, mean_interval
from esam_tune.study.space import parse_space
from esam_tune.yaml_file import read_value


def test_trials_have_their_means_intervals_and_curves(tmp_path):
    study = ReportStudy(tmp_path, seeds=2)
    trial = study.start(number=0)
    second = study.replicate(trial, 1)
    for run, accuracy in ((trial, 0.90), (second, 0.94)):
        study.epoch(run, 1, val_accuracy=accuracy - 0.1, step_flops_ratio=1.4)
        study.epoch(run, 2, val_accuracy=accuracy, step_flops_ratio=1.4)
        study.end(run)
    (found,) = study.data().trials
    assert found.values["val_accuracy"] == pytest.approx(0.92)
    assert found.intervals["val_accuracy"] == pytest.approx(mean_interval([0.90, 0.94]))
    assert found.cells["val_accuracy"].startswith("92.0% ± ")
    assert (found.seeds, found.state, found.on_front) == (2, "complete", True)
    assert [(c.seed, c.epochs) for c in found.curves] == [(0, (1, 2)), (1, (1, 2))]
    assert found.curves[1].values == pytest.approx((0.84, 0.94))


def test_differences_are_taken_seed_by_seed_from_the_chosen_setting(tmp_path):
    study = ReportStudy(tmp_path, seeds=3)
    chosen = study.search(0.5, 0.5, 0.2, seeds=3, noise=0.01)
    other = study.search(0.9, 0.9, 0.05, seeds=3, noise=0.01)
    data = study.data()
    assert data.chosen == chosen
    by_id = {trial.trial_id: trial for trial in data.trials}
    record = study.record()
    ours, theirs = (record.trials[key].by_seed("val_accuracy") for key in (other, chosen))
    difference = by_id[other].difference
    assert difference.interval == pytest.approx(difference_interval(ours, theirs))
    assert difference.mean == pytest.approx(sum(difference.interval) / 2)
    assert difference.seeds == 3
    assert by_id[chosen].difference is None


def test_one_seed_gives_a_difference_without_an_interval(tmp_path):
    study = ReportStudy(tmp_path)
    study.search(0.5, 0.5, 0.2)
    study.search(0.9, 0.9, 0.05)
    other = next(t for t in study.data().trials if t.trial_id != study.data().chosen)
    assert (other.difference.interval, other.difference.seeds) == (None, 1)
    assert not other.difference.tied


def test_hypervolume_is_the_share_of_the_objectives_box(tmp_path):
    """Corners (0.5, 1) and (1, 2); the point (0.9, 1.2) dominates 0.4 * 0.8 of a box of 0.5."""
    study = ReportStudy(tmp_path)
    for accuracy, cost in ((0.5, 1.0), (1.0, 2.0), (0.9, 1.2)):
        study.setting(accuracy, cost)
    failed = study.start(number=3)
    study.end(failed, "failed", "it broke")
    moments = study.data().history
    assert [moment.share for moment in moments] == pytest.approx([0.0, 0.0, 0.64, 0.64])
    assert [moment.ended for moment in moments] == [1, 2, 3, 4]


def test_hypervolume_counts_no_trial_that_breaks_a_constraint(tmp_path):
    study = ReportStudy(tmp_path, constraints={"step_flops_ratio": "<= 1.5"})
    for accuracy, cost in ((0.5, 1.0), (0.8, 1.4), (0.7, 1.1), (0.99, 1.9)):
        study.setting(accuracy, cost)
    shares = [moment.share for moment in study.data().history]
    assert shares == pytest.approx([0.0, 0.0, 0.5, 0.5])


def test_there_is_no_hypervolume_without_a_box(tmp_path):
    study = ReportStudy(tmp_path)
    assert study.data().history == ()
    study.setting(0.9, 1.4)
    study.setting(0.8, 1.4)
    assert study.data().history == ()


def test_time_passes_only_while_the_study_runs(tmp_path, monkeypatch):
    study = ReportStudy(tmp_path)
    times = iter([0.0, 10.0, 12.0, 15.0, 1000.0, 1001.0, 1004.0])
    written = []

    def append(kind, **content):
        content.pop("durable", None)
        written.append({"event": kind, "time": next(times), **content})

    monkeypatch.setattr(study.writer, "append", append)
    monkeypatch.setattr(journal, "read", lambda _: ((event, 0) for event in written))
    started = {"study_id": "a", "space": study.spec.to_dict(), "workers_per_trial": 1}
    append(journal.STUDY, **started, tracking_uri=None, versions={})
    study.start(number=0)
    study.end("0000", "failed", "why")
    study.finish("interrupted")
    append(journal.STUDY_RESUME)
    study.start(number=1)
    study.end("0001", "failed", "why")
    assert study.data().seconds == pytest.approx(15 + 4)
    assert study.data().state == "unfinished"


@pytest.mark.parametrize("state", ["done", "interrupted", "failed"])
def test_a_study_says_how_it_ended(tmp_path, state):
    study = ReportStudy(tmp_path)
    assert study.data().state == "unfinished"
    study.finish(state)
    assert study.data().state == state
    study.writer.append(journal.STUDY_RESUME)
    assert study.data().state == "unfinished"


def test_the_space_file_it_shows_is_the_study_s(tmp_path):
    study = full_study(tmp_path)
    document = read_value(study.data().space, "space")
    assert parse_space(document, default_name="other") == study.spec


def test_commands_follow_what_was_done(tmp_path):
    study = full_study(tmp_path, trials=3)
    typed = [command for _, command in study.data().commands]
    assert typed[0] == "esam-tune sweep small.yaml --storage DIR"
    assert not any(" refine " in command for command in typed)
    run = study.replicate("0000", 1)
    study.end(run, "failed", "lost")
    typed = [command for _, command in study.data().commands]
    assert typed[1] == "esam-tune refine small --seeds 2 --storage DIR"
    assert typed[2].startswith("esam-tune pareto small --pick knee --export settings.yaml")


def test_origin_names_commit_device_data_seeds_and_versions(tmp_path):
    origin = dict(full_study(tmp_path, trials=3, seeds=2).data().origin)
    expected = {
        "study id": "a1b2",
        "commit of the space file": "1a2b3c4",
        "device": "CPU",
        "data": "digits, digest 0123abcd",
        "seeds": "0, 1",
        "torch": "2.14.1",
    }
    assert expected.items() <= origin.items()


def test_characters_that_no_text_holds_are_spelled_out(tmp_path):
    study = ReportStudy(tmp_path)
    study.setting(0.9, 1.4, label="a\x1b[31m\u202eb", number=0)
    (trial,) = study.data().trials
    assert trial.label == "a\\x1b[31m\\u202eb"
