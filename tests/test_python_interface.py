"""The Python interface without Ray: names and arguments as the command line has them, and studies
that are read back."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import os
import signal
import subprocess
import sys
import threading

import jsonschema
import pytest
import yaml
from conftest import TEST_DATA
from rich.console import Console
from study_events import WrittenStudy, space_document, study_spec

import esam_tune as et
from esam_tune.cli import build_parser, main
from esam_tune.config import PARAMETERS
from esam_tune.interface.calls import interruptible, named_arguments
from esam_tune.interface.requests import refine_request, sweep_request
from esam_tune.interface.scaling_runs import scale_request
from esam_tune.interface.trainings import train_request
from esam_tune.metrics import METRICS
from esam_tune.study import cluster
from esam_tune.study.execution import SweepResult
from esam_tune.study.folder import StudyFolder
from esam_tune.study.signals import handlers_put_back, raise_on_signals, stop_on_signals
from esam_tune.worker_scaling import WorkerRule

HEAVY = ("ray", "mlflow", "torch", "optuna", "numpy", "rich")
SETTINGS = {
    "task": {"dataset": "digits", "model": "small_cnn"},
    "training": {"epochs": 1, "batch_size": 64, "lr": 0.05},
    "params": {"optimizer": "sgd"},
}


# --- names -----------------------------------------------------------------------------------

# What only one side has: printing is the command line's, where progress goes is the caller's.
PRINTED, PROGRESS = {"json", "dry_run", "help"}, {"console"}
FUNCTIONS = {
    "sweep": (et.sweep, et.dry_run),
    "refine": (refine_request, et.Study.refine),
    "pareto": (et.pareto,),
    "train": (et.train,),
    "scale": (et.scale,),
    "report": (et.Study.report,),
}
# What a method of a study knows of itself.
KNOWN = {"study", "storage"}


def verbs():
    for action in build_parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return action.choices
    raise AssertionError("no verbs")


def parts(function, options):
    """Names that the two do not share, and defaults that differ."""
    arguments = dict(inspect.signature(function).parameters)
    method = arguments.pop("self", None) is not None
    given = {option.dest: option for option in options if option.dest not in PRINTED}
    ours = set(arguments) - PROGRESS
    theirs = set(given) - (KNOWN if method else set())
    differ = {
        name: (arguments[name].default, given[name].default)
        for name in ours & theirs
        if arguments[name].default is not inspect.Parameter.empty
        and _plain(arguments[name].default) != _plain(given[name].default)
    }
    return ours ^ theirs, differ


def _plain(default):
    """Nothing given is an empty list here, an empty tuple or mapping there."""
    return None if not default and default != 0 else default


@pytest.mark.parametrize("verb", FUNCTIONS)
def test_a_function_takes_what_its_verb_takes(verb):
    for function in FUNCTIONS[verb]:
        assert parts(function, verbs()[verb]._actions) == (set(), {})


def test_every_verb_is_a_function_or_known_to_be_none():
    # A page on a port, a table of files, and a transfer have nothing to give back to a program.
    assert set(verbs()) - set(FUNCTIONS) == {"spaces", "sync", "ui"}


def test_the_comparison_of_names_sees_a_difference():
    def sweep(space, *, trials=3, console=None):
        pass

    names, defaults = parts(sweep, verbs()["sweep"]._actions)
    assert {"name", "epochs", "storage"} <= names
    assert defaults == {"trials": (3, None)}


def test_importing_the_package_loads_none_of_the_heavy_libraries():
    code = (
        "import sys, esam_tune as et\n"
        "assert {'sweep', 'pareto', 'train', '__version__'} <= set(dir(et))\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))\n"
        "print(et.InputError.__name__, hasattr(et, 'nothing'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["[]", "InputError False"]


@pytest.mark.parametrize("name", et.__all__)
def test_every_public_name_is_there_and_explained(name):
    assert name in dir(et)
    assert len(inspect.getdoc(getattr(et, name))) > 30


def test_help_tells_a_function_s_arguments():
    assert et.sweep.__name__ == "sweep"
    text = inspect.getdoc(et.sweep)
    positions = [text.index(part) for part in ("Args:", "Returns:", "Raises:")]
    assert positions == sorted(positions)
    assert [text.count(part) for part in ("Args:", "Returns:", "Raises:")] == [1, 1, 1]
    assert "max_concurrent: trials at a time" in text
    assert str(inspect.signature(et.sweep)).endswith("-> 'Study'")
    assert inspect.signature(et.dry_run).return_annotation == "DryRun"


# --- what is asked ---------------------------------------------------------------------------


def test_a_space_may_be_a_file_or_what_one_holds(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump(space_document()))
    asked = {"trials": 5, "seed": 3, "storage": tmp_path / "runs"}
    document = space_document()
    from_file, from_mapping = (sweep_request(space, **asked) for space in (path, document))
    assert from_file.space == from_mapping.space == study_spec()
    assert from_file.overrides == from_mapping.overrides
    assert from_file.options.space_file == path
    assert from_mapping.options.space_file is None
    assert document == space_document()
    assert not (tmp_path / "runs").exists()


def test_parts_of_a_mapping_may_be_shared():
    bounds = {"low": 0.3, "high": 1.0}
    search = {"optimizer": "esam", "beta": bounds, "gamma": bounds, "rho": 0.1}
    spec = sweep_request(space_document(search=search)).space
    assert spec.dimensions["beta"] == spec.dimensions["gamma"]


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (space_document(trails=3), "trails: unknown key; did you mean 'trials'"),
        (space_document(seed=object()), "SPACE: holds what no space file can"),
        (space_document(description="a\x1b[2Jb"), "U+001B is not read"),
        (3, "SPACE: must be a text, got 3"),
        ({}, "task: required but missing"),
    ],
)
def test_a_mapping_is_checked_as_a_file_is(space, words):
    with pytest.raises(et.InputError) as error:
        et.sweep(space)
    assert words in str(error.value)


def test_a_mapping_without_a_name_is_named_by_the_call():
    document = {key: value for key, value in space_document().items() if key != "name"}
    assert sweep_request(document, name="mine").space.name == "mine"
    with pytest.raises(et.InputError, match="name: must be 1 to 100 characters"):
        sweep_request(document)


def test_fields_are_set_by_a_mapping_as_by_texts():
    values = {"task.label_noise": 0.1, "search.every": {"choices": [1, 2]}, "sampler": "nsga2"}
    texts = ["task.label_noise=0.1", "search.every={choices: [1, 2]}", "sampler=nsga2"]
    first, second = (sweep_request(space_document(), set=given).space for given in (values, texts))
    assert first == second
    assert (first.task.label_noise, first.sampler) == (0.1, "nsga2")


@pytest.mark.parametrize(
    ("asked", "expected"), [(None, (None, None)), (4, (None, 4)), ((2, 4), (2, 4))]
)
def test_workers_are_a_count_or_two(asked, expected):
    options = sweep_request(space_document(), workers_per_trial=asked).options
    assert (options.min_workers, options.workers_per_trial) == expected


def test_an_earlier_study_may_be_named_without_a_list():
    assert sweep_request(space_document(), warm_start="first").options.warm_start == ("first",)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"trials": 0}, "trials: must be an integer in [1, 1000000], got 0"),
        ({"max_concurrent": "2"}, "max_concurrent: must be an integer"),
        ({"name": "a/b"}, "name: may hold letters"),
        ({"workers_per_trial": (4, 2)}, "workers_per_trial: must rise"),
        ({"workers_per_trial": 0}, "workers_per_trial: must be an integer"),
        ({"gpus_per_worker": 1.5}, "gpus_per_worker: must be a whole number, or a share"),
        ({"gpus_per_worker": "half"}, "gpus_per_worker: must be a number"),
        ({"cpus_per_worker": 0}, "cpus_per_worker: must be an integer"),
        ({"max_failures": -1}, "max_failures: must be an integer"),
        ({"max_epoch_seconds": 0}, "max_epoch_seconds: must be an integer"),
        ({"address": 6379}, "address: must be a text, got 6379"),
        ({"address": "nowhere"}, "address: must be auto or HOST:PORT"),
        ({"set": {"seed": {1}}}, "set: holds what no space file can"),
        ({"warm_start": "none"}, "warm_start: no study 'none'"),
        ({"storage": None}, "storage: must be a text"),
        ({"tracking_uri": "ftp://x"}, "tracking_uri: "),
        ({"resume": True}, "no study 'small'"),
    ],
)
@pytest.mark.parametrize("function", [et.sweep, et.dry_run])
def test_a_mistake_names_the_argument_and_starts_nothing(tmp_path, function, arguments, words):
    storage = tmp_path / "runs"
    with pytest.raises(ValueError) as error:
        function(space_document(), **{"storage": storage, **arguments})
    assert isinstance(error.value, et.InputError)
    assert words in str(error.value)
    assert not error.value.field.startswith("-")
    assert not storage.exists()


def test_a_remedy_is_told_in_the_words_of_a_call(tmp_path):
    WrittenStudy(tmp_path / "small" / "journal.jsonl", study_spec()).writer.close()
    with pytest.raises(et.InputError) as error:
        et.sweep(space_document(), storage=tmp_path)
    assert error.value.field == "name"
    assert error.value.remedy == "add resume=True to go on with it, or choose another name"


def test_the_command_line_asks_by_the_same_requests(tmp_path, monkeypatch):
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump(space_document()))
    asked = []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////elsewhere.db")

    def note(space, overrides, options, console):
        asked.append((space, overrides, options))
        raise et.InputError("enough", "seen", "stop")

    monkeypatch.setattr("esam_tune.study.sweep.sweep", note)
    line = (
        f"sweep {path} --storage {tmp_path} --trials 7 --max-concurrent 1 --set task.label_noise=0 "
        "--workers-per-trial 2-4 --gpus-per-worker 0 --max-failures 0 --warm-start a --warm-start b"
    )
    assert main(line.split()) == 2
    with pytest.raises(et.InputError, match="seen"):
        et.sweep(
            path,
            storage=str(tmp_path),
            trials=7,
            max_concurrent=1,
            set={"task.label_noise": 0},
            workers_per_trial=(2, 4),
            gpus_per_worker=0,
            max_failures=0,
            warm_start=["a", "b"],
        )
    assert asked[0] == asked[1]
    assert asked[0][2].tracking_uri == "sqlite:////elsewhere.db"


def test_settings_may_be_a_file_what_one_holds_or_a_pick(study, tmp_path):
    path = study.export(tmp_path / "settings.yaml", "accuracy")
    pick = study.pick("accuracy")
    asked = [train_request(each, name="m") for each in (path, str(path), pick, pick.settings)]
    assert all(request.settings == asked[0].settings for request in asked)
    assert asked[0].settings.origin["trial_id"] == pick.trial_id


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"workers": 0}, "workers: must be an integer"),
        ({"resume": True}, "name: is needed with resume=True"),
        ({"name": ""}, "name: must be 1 to 100"),
        ({"batch_rule": "global"}, "batch_rule: must be one of"),
        ({"lr_rule": "sqrt"}, "lr_rule: must be none"),
        ({"checkpoint_storage": 3}, "checkpoint_storage: must be a text"),
    ],
)
def test_a_training_s_mistake_names_the_argument(tmp_path, arguments, words):
    with pytest.raises(et.InputError) as error:
        et.train(SETTINGS, storage=tmp_path / "runs", **arguments)
    assert words in str(error.value)
    assert not (tmp_path / "runs").exists()


def test_a_training_is_asked_for_as_on_the_command_line(tmp_path):
    request = train_request(SETTINGS, storage=tmp_path, batch_rule="per-worker", workers=2)
    assert request.options.rule == WorkerRule(batch="per-worker")
    assert train_request(SETTINGS, storage=tmp_path).options.rule is None
    assert request.options.name == "model"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"workers": [1, 0]}, "workers: must be an integer"),
        ({"workers": "1,2"}, "workers: must be counts"),
        ({"workers": [1, 2], "rounds": 2}, "rounds: must be an integer >= 3"),
        ({"workers": [1, 2], "predict_to": 10**6}, "predict_to: must be an integer"),
        ({"workers": [1, 2], "network": "fast"}, "network: must name latency and bandwidth"),
        ({"workers": [1, 2], "mode": "medium"}, "mode"),
        ({"workers": [2]}, "workers: must hold 1"),
    ],
)
def test_a_scaling_study_s_mistake_names_the_argument(tmp_path, arguments, words):
    with pytest.raises(et.InputError) as error:
        et.scale(SETTINGS, storage=tmp_path / "runs", **arguments)
    assert words in str(error.value)
    assert not (tmp_path / "runs").exists()


def test_a_described_network_is_asked_for_by_text():
    network = "latency=20us,bandwidth=10Gbit"
    request = scale_request(SETTINGS, workers=[1, 2], network=network, name="s")
    assert request.options.network.bandwidth == pytest.approx(1.25e9)


# --- a study read back -----------------------------------------------------------------------


@pytest.fixture
def storage(tmp_path):
    """Of a study of one baseline, three complete trials, one that failed and one that runs."""
    written = WrittenStudy(tmp_path / "runs" / "small" / "journal.jsonl", study_spec(trials=9))
    written.trial(0.70, 1.0, params={"optimizer": "sgd"}, baseline=True, label="<b>SGD</b>")
    first = written.trial(0.90, 1.4)
    for seed, accuracy in ((1, 0.92), (2, 0.91)):
        run = written.replicate(first, seed)
        written.epoch(run, 2, val_accuracy=accuracy, step_flops_ratio=1.4)
        written.end(run)
    written.trial(0.95, 2.0)
    written.trial(0.80, 1.9)
    written.trial(0.10, 1.1, "failed")
    written.start()
    written.writer.close()
    return tmp_path / "runs"


@pytest.fixture
def study(storage):
    return et.load_study("small", storage=storage)


def test_a_study_s_trials_are_flat_rows(study):
    rows = study.trials
    assert [row["trial_id"] for row in rows] == [f"{i:04d}" for i in range(6)]
    assert [row["state"] for row in rows] == ["complete"] * 4 + ["failed", "running"]
    assert [row["trial_id"] for row in rows if row["on_front"]] == ["0000", "0001", "0002"]
    row = rows[1]
    assert (row["study"], row["optimizer"], row["seeds"]) == ("small", "esam", 3)
    assert row["val_accuracy"] == pytest.approx(0.91)
    assert row["val_accuracy_stderr"] == pytest.approx(0.01 / 3**0.5)
    assert rows[2]["val_accuracy_stderr"] is None
    assert json.loads(json.dumps(rows)) == rows
    assert study.front == [rows[0], rows[1], rows[2]]


def test_parameters_and_metrics_have_names_of_their_own():
    assert not set(PARAMETERS) & set(METRICS)


def test_rows_make_a_data_frame(study):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(study.trials).set_index("trial_id")
    assert frame.loc["0001", "step_flops_ratio"] == pytest.approx(1.4)
    assert list(frame[frame.on_front].index) == ["0000", "0001", "0002"]


def test_a_study_is_read_anew(study, storage):
    assert study.pick("accuracy").trial_id == "0002"
    event = {
        "event": "trial_end",
        "time": 2e9,
        "trial_id": "0005",
        "state": "failed",
        "reason": "x",
    }
    with (storage / "small" / "journal.jsonl").open("a") as journal:
        journal.write(json.dumps(event) + "\n")
    assert study.trials[5]["state"] == "failed"


def test_a_pick_has_what_it_takes_to_carry_on(study):
    pick = study.pick("accuracy", max={"step_flops_ratio": 1.5})
    assert (pick.study, pick.trial_id, pick.rule) == ("small", "0001", "accuracy")
    low, high = pick.interval["val_accuracy"]
    assert low < pick.metrics["val_accuracy"] < high
    assert pick.settings["origin"]["trial_id"] == "0001"
    assert pick.settings["params"] == pick.params
    assert study.pick("cost").trial_id == "0000"
    assert study.pick(min={"val_accuracy": 0.99}) is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"rule": "nee"}, "pick: unknown rule 'nee'; did you mean 'knee'"),
        ({"max": {"step_flop_ratio": 1}}, "max: unknown metric 'step_flop_ratio'"),
        ({"max": {"step_flops_ratio": "1.4"}}, "max step_flops_ratio: must be a number"),
        ({"min": {"val_accuracy": float("nan")}}, "min val_accuracy: must be a number"),
        ({"min": {"val_accuracy": 0.9}, "max": {"val_accuracy": 0.8}}, "must be at most its max"),
    ],
)
def test_a_pick_that_cannot_be_made_names_the_argument(study, arguments, words):
    with pytest.raises(et.InputError) as error:
        study.pick(**arguments)
    assert words in str(error.value)


def test_an_export_writes_nothing_over_but_a_settings_file(study, tmp_path):
    for path, words in (
        (tmp_path / "journal.jsonl", "export: must end in .yaml or .yml"),
        (tmp_path / "none.txt" / "x.yaml", "export: cannot write"),
    ):
        (tmp_path / "none.txt").touch()
        with pytest.raises(et.InputError) as error:
            study.export(path)
        assert words in str(error.value)
    with pytest.raises(et.InputError, match="there is no trial to export; loosen max and min"):
        study.export(tmp_path / "x.yaml", max={"step_flops_ratio": 0.1})
    assert not (tmp_path / "x.yaml").exists()


def test_a_notebook_shows_a_table_with_everything_escaped(study):
    shown = study._repr_html_()
    assert shown.count("<table>") == 1
    assert "&lt;b&gt;SGD&lt;/b&gt;" in shown
    assert "<b>" not in shown
    assert "91.0% ± 2.5%" in shown
    assert "* pick by knee: trial 0001" in shown
    assert repr(study).startswith("<study 'small' in ")


def test_a_study_that_is_not_there_is_told_by_its_name(storage):
    with pytest.raises(et.InputError, match=r"no study 'smal'.*did you mean 'small'"):
        et.load_study("smal", storage=storage)
    with pytest.raises(et.InputError, match="may hold letters"):
        et.load_study("../small", storage=storage)


def test_refining_checks_before_it_starts(study, storage):
    before = sorted(storage.rglob("*"))
    for arguments, words in (({"seeds": 0}, "seeds: must be"), ({"seeds": 2**31}, "seeds: must")):
        with pytest.raises(et.InputError, match=words):
            study.refine(**arguments)
    assert sorted(storage.rglob("*")) == before
    assert refine_request("small", seeds=3, storage=storage).options.storage == storage


def test_the_document_is_the_one_that_the_command_line_prints(study, storage, capsys):
    schema = json.loads((TEST_DATA / "study.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(study.document(), schema)
    assert main(["pareto", "small", "--storage", str(storage), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(study.document()))


# --- signals and threads ---------------------------------------------------------------------


def handlers():
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def test_an_interruption_is_python_s_own_and_leaves_the_handlers():
    before = handlers()
    with pytest.raises(KeyboardInterrupt, match="SIGINT ended the work"), interruptible("the work"):
        signal.raise_signal(signal.SIGINT)
    assert handlers() == before


def test_a_termination_reaches_the_caller_s_handler():
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        with pytest.raises(KeyboardInterrupt, match="SIGTERM"), interruptible("the work"):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]


def test_a_termination_without_a_handler_ends_the_process():
    code = (
        "import signal; from esam_tune.interface.calls import interruptible\n"
        "with interruptible('the work'): signal.raise_signal(signal.SIGTERM)\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGTERM


@pytest.mark.parametrize("block", [raise_on_signals, stop_on_signals])
def test_another_thread_leaves_signals_alone(block):
    before, seen = handlers(), []

    def work():
        try:
            with block():
                seen.append(handlers())
        except ValueError as error:
            seen.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.fixture
def ended(storage, monkeypatch):
    """A sweep, and a refinement, that have come to an end of some kind."""

    def end_as(outcome):
        folder = StudyFolder(storage=storage, name="small")
        result = SweepResult(outcome=outcome, document={}, record=folder.record(), folder=folder)
        monkeypatch.setattr("esam_tune.study.sweep.sweep", lambda *_: result)
        monkeypatch.setattr("esam_tune.study.sweep.refine", lambda *_: result)

    return end_as


def calls(storage):
    return [
        lambda: et.sweep(space_document(), storage=storage),
        lambda: et.load_study("small", storage=storage).refine(seeds=2),
    ]


def test_a_study_that_is_done_is_returned(ended, storage):
    ended("done")
    for call in calls(storage):
        assert len(call().front) == 3


def test_a_study_without_a_complete_trial_raises_with_the_first_reason(ended, storage):
    ended("failed")
    for call in calls(storage):
        with pytest.raises(et.RunFailedError, match="no trial reached its end; the first: because"):
            call()


def test_an_interrupted_study_says_how_to_go_on(ended, storage):
    ended("interrupted")
    for call in calls(storage):
        with pytest.raises(KeyboardInterrupt, match="'small' was interrupted and is saved"):
            call()


def test_a_terminated_study_ends_the_process_by_the_caller_s_handler(ended, storage):
    ended("terminated")
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        for call in calls(storage):
            with pytest.raises(KeyboardInterrupt, match="is saved"):
                call()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM] * 2


def test_what_a_block_does_to_handlers_is_undone():
    before = signal.getsignal(signal.SIGUSR1)
    with contextlib.suppress(RuntimeError), handlers_put_back(signal.SIGUSR1):
        signal.signal(signal.SIGUSR1, lambda *_: None)
        raise RuntimeError
    assert signal.getsignal(signal.SIGUSR1) is before


def test_ray_s_variables_are_put_back(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.delenv("TUNE_DISABLE_SIGINT_HANDLER", raising=False)
    before = dict(os.environ)
    with contextlib.suppress(RuntimeError), cluster._variables(None) as known:
        assert known is None
        assert "RAY_ADDRESS" not in os.environ
        assert os.environ["TUNE_DISABLE_SIGINT_HANDLER"] == "1"
        os.environ["RAY_OF_ITS_OWN"] = "1"
        raise RuntimeError
    assert dict(os.environ) == before


def test_a_mistake_names_the_arguments_of_the_call_and_nothing_else_anew():
    with pytest.raises(et.InputError) as error, named_arguments("lr_rule", "batch_rule"):
        raise et.InputError("--lr-rule", "must be none", "add --batch-rule, or `ray start --head`")
    assert error.value.field == "lr_rule"
    assert error.value.remedy == "add batch_rule, or `ray start --head`"


def test_progress_goes_where_the_caller_says():
    console = Console(quiet=True)
    assert sweep_request(space_document(), console=console).console is console
    assert sweep_request(space_document()).console.stderr
