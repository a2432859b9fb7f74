"""Several seeds a setting: one logical trial, its mean and interval, ties, and `refine`."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from study_events import WrittenStudy, study_spec

from esam_tune.errors import InputError
from esam_tune.failures import failure_of
from esam_tune.intervals import difference_interval, mean_interval, standard_error
from esam_tune.journal import Journal
from esam_tune.study.agenda import RefineAgenda, SearchAgenda
from esam_tune.study.folder import StudyFolder, study_folder
from esam_tune.study.preflight import SweepOptions
from esam_tune.study.record import StudyRecord
from esam_tune.study.results import front_csv, summarise
from esam_tune.study.search_checks import check_search
from esam_tune.study.study_run import StudyRun
from esam_tune.study.sweep import refine
from esam_tune.training import DivergedError
from esam_tune.trial import FAILURE, RunRequest

FLOATS = st.floats(-1e3, 1e3)
REACHED = {"val_accuracy": 0.5, "step_flops_ratio": 1.0}


class ListedProposals:
    """Proposes rho = 0.1, 0.2, ... and keeps what it is told."""

    def __init__(self):
        self.told = []

    def ask(self, index, trial_id):
        return index, {"optimizer": "esam", "beta": 0.5, "gamma": 0.5, "rho": (index + 1) / 10}

    def tell(self, trial):
        self.told.append((trial.trial_id, trial.state, trial.values(["val_accuracy"])))


class Search:
    """A study driven by hand."""

    def __init__(self, folder, agenda_for=None, **changes):
        self.path = folder / "small" / "journal.jsonl"
        self.folder = folder
        if not self.path.exists():
            WrittenStudy(self.path, study_spec(**changes)).writer.close()
        self.proposals = ListedProposals()
        self.record = StudyRecord.from_journal(self.path)
        agenda = (agenda_for or (lambda r: SearchAgenda(r, self.proposals)))(self.record)
        request = RunRequest(settings={}, run_id="", storage=str(folder))
        self.run = StudyRun(self.record, Journal(self.path), agenda, request)

    def next(self):
        return self.run.next_request()

    def finish(self, request, accuracy=0.5, cost=1.0):
        for epoch in (1, 2):
            result = {"epoch": epoch, "val_accuracy": accuracy, "step_flops_ratio": cost}
            self.run.report(request.run_id, result)
        self.run.end(request.run_id)

    def fail(self, request, **reported):
        """Lose a run with its process, after an epoch if any is given."""
        if reported:
            self.run.report(request.run_id, {"epoch": 1, **reported})
        self.run.end(request.run_id, error="because")

    def diverge(self, request, **reported):
        """Let a run diverge as training does: in an epoch that it does not report."""
        if reported:
            self.run.report(request.run_id, {"epoch": 1, **reported})
        failure = failure_of(DivergedError(f"training loss is nan in epoch {1 + bool(reported)}"))
        self.run.report(request.run_id, {FAILURE: str(failure)})
        self.run.end(request.run_id)


def test_each_setting_runs_under_the_same_seeds_before_the_next_is_proposed(tmp_path):
    search = Search(tmp_path, seeds=3, seed=7, trials=2)
    handed = []
    while (request := search.next()) is not None:
        handed.append((request.run_id, request.settings["seed"]))
        search.finish(request)
    ids = ["0000", "0001", "0002"]
    assert handed == [(f"{i}{s}", 7 + n) for i in ids for n, s in enumerate(("", "-s1", "-s2"))]
    assert not search.run.waits
    assert [trial_id for trial_id, *_ in search.proposals.told] == ids
    assert len(search.record.trials) == 3


def test_the_sampler_is_told_the_mean_once_all_seeds_are_in(tmp_path):
    search = Search(tmp_path, seeds=2, trials=1, baselines=None)
    first = search.next()
    search.finish(first, 0.6)
    assert search.proposals.told == []
    assert search.record.trials["0000"].state == "running"
    search.finish(search.next(), 0.8)
    assert search.proposals.told == [("0000", "complete", [pytest.approx(0.7)])]


def test_what_is_stopped_early_or_fails_gets_no_further_seed(tmp_path):
    search = Search(tmp_path, seeds=3, trials=2, baselines=None)
    stopped = search.next()
    result = {"epoch": 1, "val_accuracy": 0.1, "step_flops_ratio": 1.0}
    search.run.report(stopped.run_id, result)
    search.run.stop(stopped.run_id)
    search.run.end(stopped.run_id)
    failed = search.next()
    search.fail(failed)
    assert (failed.run_id, search.next()) == ("0001", None)
    assert [state for _, state, _ in search.proposals.told] == ["pruned", "failed"]


def test_one_seed_that_fails_fails_the_setting_and_ends_its_seeds(tmp_path):
    search = Search(tmp_path, seeds=3, trials=1, baselines=None)
    search.finish(search.next())
    search.fail(search.next())
    assert search.next() is None
    trial = search.record.trials["0000"]
    assert (trial.state, trial.reason) == ("failed", "seed 1: because")
    assert search.record.front() == []


def test_nothing_now_is_not_the_end_while_a_first_run_is_under_way(tmp_path):
    search = Search(tmp_path, seeds=2, trials=1, baselines=None)
    first = search.next()
    assert search.next() is None
    assert search.run.waits
    search.finish(first)
    assert search.next().run_id == "0000-s1"
    assert search.next() is None
    assert not search.run.waits


def test_the_most_that_is_left_is_never_less_than_what_comes(tmp_path):
    search = Search(tmp_path, seeds=3, trials=3)
    left = [search.run.remaining]
    while (request := search.next()) is not None:
        left.append(search.run.remaining)
        search.finish(request)
    assert left == sorted(left, reverse=True)
    assert (left[0], search.run.remaining) == (12, 0)
    assert len(search.record.runs) == 12


def test_a_study_that_died_goes_on_with_the_seeds_that_it_lacks(tmp_path):
    search = Search(tmp_path, seeds=3, trials=1, baselines=None)
    search.finish(search.next(), 0.5)
    search.next()
    again = Search(tmp_path)
    handed = []
    while (request := again.next()) is not None:
        handed.append((request.run_id, request.settings["seed"]))
        again.finish(request, 0.5)
    assert handed == [("0000-s1", 1), ("0000-s2", 2)]
    assert [t.state for t in again.record.trials.values()] == ["complete"]


def with_seeds(folder, *settings, seeds=1, **changes):
    """A study whose settings have an accuracy a seed and a cost."""
    study = WrittenStudy(
        folder / "small" / "journal.jsonl", study_spec(seeds=seeds, trials=9, **changes)
    )
    for accuracies, cost in settings:
        trial_id = study.trial(accuracies[0], cost)
        for seed, accuracy in enumerate(accuracies[1:], start=1):
            run = study.replicate(trial_id, seed)
            study.epoch(run, 2, val_accuracy=accuracy, step_flops_ratio=cost)
            study.end(run)
    study.writer.close()
    return StudyFolder(storage=folder, name="small")


def test_a_document_of_several_seeds_tells_mean_error_interval_and_ties(tmp_path):
    folder = with_seeds(
        tmp_path,
        ([0.90, 0.92, 0.94], 1.5),
        ([0.91, 0.91, 0.93], 2.0),
        ([0.70, 0.71, 0.72], 1.0),
        seeds=3,
    )
    document = json.loads(json.dumps(summarise(folder, folder.record(), rule="accuracy")))
    first, _, third = document["trials"]
    assert first["metrics"]["val_accuracy"] == pytest.approx(0.92)
    assert first["stderr"]["val_accuracy"] == pytest.approx(0.02 / math.sqrt(3))
    low, high = first["interval"]["val_accuracy"]
    assert ((low + high) / 2, high - low) == (
        pytest.approx(0.92),
        pytest.approx(2 * 4.302653 * 0.02 / math.sqrt(3)),
    )
    assert [run["seed"] for run in first["runs"]] == [0, 1, 2]
    assert document["chosen"]["trial_id"] == "0000"
    assert document["tied_with_chosen"] == ["0001"]
    assert third["stderr"]["step_flops_ratio"] == 0.0


def test_one_seed_claims_neither_interval_nor_tie(tmp_path):
    folder = with_seeds(tmp_path, ([0.9], 1.5), ([0.9], 2.0))
    document = summarise(folder, folder.record())
    assert [t["interval"] for t in document["trials"]] == [None, None]
    assert document["tied_with_chosen"] == []
    first, second = folder.record().complete
    assert first.tied_with(second, "val_accuracy") is None


def test_the_table_of_a_study_holds_seeds_and_standard_errors(tmp_path):
    folder = with_seeds(tmp_path, ([0.9, 0.94], 1.5), ([0.5], 1.0))
    head, first, second = (line.split(",") for line in front_csv(folder.record()).splitlines())
    rows = [dict(zip(head, line, strict=True)) for line in (first, second)]
    assert [row["seeds"] for row in rows] == ["2", "1"]
    assert float(rows[0]["val_accuracy_stderr"]) == pytest.approx(0.02)
    assert rows[1]["val_accuracy_stderr"] == ""


def refined(folder, seeds, accuracy):
    """Refine a study to its end; what was run. ``accuracy`` tells a run's from its request."""
    search = Search(folder, lambda record: RefineAgenda(record, seeds))
    handed = []
    while (request := search.next()) is not None:
        handed.append(request.run_id)
        cost = search.record.trials[request.run_id[:4]].values(["step_flops_ratio"])[0]
        search.finish(request, accuracy[request.run_id[:4]], cost)
    assert search.run.remaining >= 0
    return handed, search.record


def test_refining_brings_the_lucky_down_and_gives_its_seeds_to_who_takes_its_place(tmp_path):
    # The first was lucky: its other seeds are worse than the second, which it kept off the front.
    with_seeds(tmp_path, ([0.95], 1.5), ([0.90], 1.5), ([0.70], 1.0))
    handed, record = refined(tmp_path, 3, {"0000": 0.80, "0001": 0.90, "0002": 0.70})
    # One more seed is enough to tell.
    assert sorted(handed) == ["0000-s1", "0001-s1", "0001-s2", "0002-s1", "0002-s2"]
    front = record.front()
    assert [trial.trial_id for trial in front] == ["0002", "0001"]
    assert all(len(trial.complete_runs) == 3 for trial in front)
    assert record.trials["0000"].values(["val_accuracy"]) == [pytest.approx(0.875)]


def test_refining_leaves_alone_what_is_neither_on_the_front_nor_a_baseline(tmp_path):
    with_seeds(tmp_path, ([0.95], 1.0), ([0.50], 1.5))
    handed, _ = refined(tmp_path, 2, {"0000": 0.95})
    assert handed == ["0000-s1"]


def test_refining_again_does_nothing_and_further_adds_what_lacks(tmp_path):
    with_seeds(tmp_path, ([0.95], 1.0))
    assert refined(tmp_path, 2, {"0000": 0.95})[0] == ["0000-s1"]
    assert refined(tmp_path, 2, {"0000": 0.95})[0] == []
    assert refined(tmp_path, 4, {"0000": 0.95})[0] == ["0000-s2", "0000-s3"]


@pytest.mark.parametrize("reported", [{}, {**REACHED, "val_loss": math.inf}])
def test_a_seed_lost_with_its_process_is_not_tried_for_ever_and_takes_nothing_away(
    tmp_path, reported
):
    with_seeds(tmp_path, ([0.95], 1.0))
    search = Search(tmp_path, lambda record: RefineAgenda(record, 3))
    search.fail(search.next(), **reported)
    search.finish(search.next(), 0.95)
    assert search.next() is None
    assert [t.trial_id for t in search.record.front()] == ["0000"]
    # Another call makes up for it under a new seed.
    assert refined(tmp_path, 3, {"0000": 0.95})[0] == ["0000-s3"]


@pytest.mark.parametrize("reported", [{}, REACHED], ids=["at once", "after an epoch"])
def test_a_seed_that_diverges_takes_its_setting_off_the_front(tmp_path, reported):
    with_seeds(tmp_path, ([0.95], 1.0), ([0.90], 1.5))
    search = Search(tmp_path, lambda record: RefineAgenda(record, 2))
    search.diverge(search.next(), **reported)
    trial = search.record.trials["0000"]
    assert trial.state == "failed"
    assert trial.reason.startswith("seed 1: DivergedError: training loss is nan in epoch ")
    assert [t.trial_id for t in search.record.front()] == ["0001"]
    assert search.next().run_id == "0001-s1"
    # Who reads it back finds the same.
    assert StudyRecord.from_journal(search.path).trials["0000"].state == "failed"


def test_refining_waits_for_what_may_change_the_front_and_leaves_a_sweeps_rest(tmp_path):
    folder = with_seeds(tmp_path, ([0.95], 1.0))
    study = WrittenStudy(folder.journal, folder.record().spec)
    study._count = 1
    study.start()  # of a sweep that was interrupted
    study.writer.close()
    search = Search(tmp_path, lambda record: RefineAgenda(record, 2))
    request = search.next()
    assert (request.run_id, search.next(), search.run.waits) == ("0000-s1", None, True)
    search.finish(request, 0.95)
    assert (search.next(), search.run.waits) == (None, False)
    assert search.record.trials["0001"].state == "running"


def test_a_sweeps_last_seed_may_bring_a_setting_that_needs_all_the_others(tmp_path):
    study = WrittenStudy(tmp_path / "small" / "journal.jsonl", study_spec(seeds=2, baselines=None))
    study.replicate(study.trial(0.9, 1.5), 1)
    study.writer.close()
    search = Search(tmp_path, lambda record: RefineAgenda(record, 4))
    # Tune is asked for no more than this.
    most = search.run.remaining
    assert most == 3
    for _ in range(most):
        search.finish(search.next(), 0.9, 1.5)
    assert search.next() is None
    assert len(search.record.trials["0000"].complete_runs) == 4


@pytest.mark.parametrize(("name", "problem"), [("small", "no front yet"), ("none", "no study")])
def test_a_study_without_a_front_is_not_refined(tmp_path, name, problem):
    with_seeds(tmp_path)
    with pytest.raises(InputError, match=problem):
        refine(study_folder(tmp_path, name), 3, SweepOptions(storage=tmp_path), None)


def test_seeds_stay_within_what_a_seed_may_be():
    with pytest.raises(InputError, match="seed \\+ seeds - 1"):
        check_search(study_spec(seed=2**31 - 1, seeds=2))


@given(st.lists(FLOATS, min_size=2, max_size=9))
def test_intervals_are_students(values):
    low, high = mean_interval(values)
    error = standard_error(values)
    assert error == pytest.approx(stats.sem(values), abs=1e-9)
    if error > 1e-6:
        expected = stats.t.interval(0.95, len(values) - 1, sum(values) / len(values), error)
        assert (low, high) == pytest.approx(expected)


@given(st.dictionaries(st.integers(0, 9), FLOATS), st.dictionaries(st.integers(0, 9), FLOATS))
def test_differences_pair_common_seeds_and_turn_with_their_sides(first, second):
    interval = difference_interval(first, second)
    common = first.keys() & second.keys()
    assert (interval is None) == (len(common) < 2)
    if interval is not None:
        turned = difference_interval(second, first)
        assert turned == pytest.approx((-interval[1], -interval[0]))
        mean = sum(first[s] - second[s] for s in common) / len(common)
        assert sum(interval) / 2 == pytest.approx(mean, abs=1e-6)
