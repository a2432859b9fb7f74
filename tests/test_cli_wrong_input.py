"""The command line's answer to wrong input: one line, exit code 2, nothing started."""

import copy
import importlib.metadata
import os
import socket
import subprocess
import sys

import pytest
import yaml
from forked_command import forked_commands
from study_events import WrittenStudy, space_document, study_spec

pytestmark = pytest.mark.e2e

VERBS = ("sweep", "pareto", "train", "ui")
CLOSED = "127.0.0.1:9"  # the discard port: nothing listens there
SETTINGS = {
    "task": {"dataset": "digits", "model": "small_cnn"},
    "training": {"epochs": 1, "batch_size": 64, "lr": 0.05},
    "params": {"optimizer": "sgd"},
}


class CommandLine:
    """A folder to run the command in, where an import of Ray ends it: nothing may be started."""

    def __init__(self, commands, folder):
        self.commands = commands
        self.folder = folder
        self.storage = folder / "runs"
        blocked = folder / "blocked"
        blocked.mkdir()
        (blocked / "ray.py").write_text("raise ImportError('wrong input must not start Ray')\n")
        self.environment = {
            **{key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"},
            "PYTHONPATH": str(blocked),
        }

    def run(self, *arguments, **environment):
        return self.commands(
            list(map(str, arguments)), self.folder, {**self.environment, **environment}
        )

    def write(self, name, document):
        text = document if isinstance(document, str) else yaml.safe_dump(document, sort_keys=False)
        (self.folder / name).write_text(text)
        return name

    def study(self, name="small", **changes):
        """A stored study with one complete trial, begun by an earlier process."""
        spec = study_spec(name=name, **changes)
        study = WrittenStudy(self.storage / name / "journal.jsonl", spec)
        study.trial(0.9, 1.5)
        return study

    def files(self):
        return {
            str(path.relative_to(self.folder)): path.read_bytes() if path.is_file() else None
            for path in self.folder.rglob("*")
            if "__pycache__" not in path.parts
        }


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    with forked_commands(tmp_path_factory.mktemp("printed")) as run:
        yield run


@pytest.fixture
def line(commands, tmp_path):
    return CommandLine(commands, tmp_path)


def assert_refused(line, arguments, *words, **environment):
    before = line.files()
    answer = line.run(*arguments, **environment)
    assert answer.returncode == 2, answer.stderr
    assert answer.stdout == ""
    assert "Traceback" not in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    assert answer.stderr.startswith("esam-tune")
    for word in words:
        assert word in answer.stderr
    assert line.files() == before


def changed(**changes):
    """A space with fields replaced by their dotted names, given with ``__`` for the dot."""
    document = copy.deepcopy(space_document())
    for name, value in changes.items():
        *sections, key = name.split("__")
        part = document
        for section in sections:
            part = part[section]
        part[key] = value
    return document


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(
            changed(trails=3), ["trails: unknown key", "did you mean 'trials'?"], id="key"
        ),
        pytest.param(
            changed(training__momentun=0.9),
            ["training.momentun: unknown key", "did you mean 'momentum'?"],
            id="key of a section",
        ),
        pytest.param(
            changed(search__gama=0.5),
            ["search.gama: unknown key", "did you mean 'gamma'?"],
            id="parameter",
        ),
        pytest.param(
            changed(objectives__val_acc="max"),
            ["objectives.val_acc: unknown key", "did you mean 'val_accuracy'?"],
            id="objective",
        ),
        pytest.param(
            changed(
                search__beta=0.5, search__gamma=0.5, constraints={"step_flops_ratio": "<= 1.4"}
            ),
            ["constraints.step_flops_ratio: ", "predicted cost is 1.6", "selection: first_order"],
            id="a cost that cannot be had",
        ),
        pytest.param(
            changed(task__dataset="digit"),
            ["task.dataset: must be one of digits", "got 'digit'", "did you mean 'digits'?"],
            id="dataset",
        ),
        pytest.param(
            changed(search__optimizer="adam"),
            ["search.optimizer: must be one of", "got 'adam'"],
            id="optimizer",
        ),
        pytest.param(
            changed(search__beta={"low": 0.3, "high": 1.5}),
            ["search.beta.high: must be a number in (0, 1], got 1.5", "set it to"],
            id="bound",
        ),
        pytest.param(
            changed(search__rho={"low": 0.5, "high": 0.1}),
            ["search.rho.low: must be below high = 0.1, got 0.5", "swap or widen"],
            id="bounds the wrong way round",
        ),
        pytest.param(
            changed(trials=0),
            ["trials: must be an integer in [1, 1000000], got 0"],
            id="zero trials",
        ),
        pytest.param(
            changed(name="../elsewhere"),
            ["name: ", "got '../elsewhere'", "choose a name without path separators"],
            id="name",
        ),
        pytest.param(
            changed(search__batch_size={"choices": [32, 5000]}),
            ["batch_size", "must be at most the 1079 training samples, got 5000"],
            id="batch",
        ),
        pytest.param("a: [1\n", ["SPACE: 'space.yaml'", "is not readable as YAML"], id="malformed"),
        pytest.param("trials: 1\ntrials: 2\n", ["line 2", "occurs twice"], id="repeated key"),
        pytest.param("", ["SPACE: 'space.yaml' must hold a mapping"], id="empty"),
        pytest.param('"tri\\nals": 3', ["unknown key"], id="key of two lines"),
        pytest.param("trials: " + "9" * 400, ["task: required but missing"], id="long number"),
    ],
)
def test_a_wrong_space_file(line, content, words):
    space = line.write("space.yaml", content)
    assert_refused(line, ["sweep", space, "--storage", line.storage], *words)


def test_a_space_file_of_a_number_beyond_all_bounds(line):
    space = line.write("space.yaml", changed(trials=10**400))
    assert_refused(line, ["sweep", space, "--storage", line.storage], "trials: must be")


@pytest.mark.parametrize(
    ("space", "words"),
    [("none.yaml", ["SPACE: no such file 'none.yaml'", "check the path"]), (".", ["cannot read"])],
)
def test_a_space_file_that_cannot_be_read(line, space, words):
    assert_refused(line, ["sweep", space, "--storage", line.storage], *words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--trials", "0"], ["--trials: must be an integer in [1, 1000000], got 0"]),
        (["--trials", "-3"], ["--trials"]),
        (["--trials", "many"], ["--trials: must be an integer in [1, 1000000], got 'many'"]),
        (["--trials", "9" * 5000], ["--trials"]),
        (["--epochs", "0"], ["--epochs: must be an integer in [1, 1000000], got 0"]),
        (
            ["--max-concurrent", "0"],
            ["--max-concurrent: must be an integer in [1, 1000000], got 0"],
        ),
        (["--seed", "-1"], ["--seed"]),
        (["--seed", str(2**31)], ["--seed: must be an integer in [0, 2147483647]"]),
        (["--name", "a/b"], ["--name: ", "got 'a/b'", "without path separators"]),
        (["--name", ".."], ["--name: ", "got '..'"]),
        (["--name", ""], ["--name: must be 1 to 100 characters, got ''"]),
        (["--name", "mlflow.db"], ["--name: ", "'mlflow.db'"]),
        (
            ["--workers-per-trial", "999"],
            ["--workers-per-trial: must be at most", "CPU cores", "got 999", "use fewer workers"],
        ),
        (
            ["--workers-per-trial", "998-999"],
            ["--workers-per-trial: must be at most", "got 998"],
        ),
        (
            ["--workers-per-trial", "1-2", "--gpus-per-worker", "0.5"],
            ["--gpus-per-worker: must be whole GPUs with a range of workers, got 0.5"],
        ),
        (
            ["--workers-per-trial", "1-3"],
            ["training.batch_size: must divide evenly over the 3 workers", "set it to 60 or 66"],
        ),
        (
            ["--gpus-per-worker", "99"],
            ["--gpus-per-worker: must be at most", "GPUs of the largest node", "got 99"],
        ),
        (
            ["--cpus-per-worker", "999"],
            ["--cpus-per-worker: must be at most", "CPU cores of the largest node", "got 999"],
        ),
        (["--checkpoint-storage", ""], ["--checkpoint-storage: must be a folder or a URI"]),
        (["--checkpoint-storage", "s3://"], ["--checkpoint-storage: must name a bucket or host"]),
        (
            ["--checkpoint-storage", "s3://me:secret@bucket/x"],
            ["--checkpoint-storage: must not hold credentials", "AWS_ACCESS_KEY_ID"],
        ),
        (
            ["--checkpoint-storage", "nowhere://x/y"],
            ["--checkpoint-storage: cannot write to 'nowhere://x/y'", "check bucket"],
        ),
        (
            ["--tracking-uri", f"http://me:secret@{CLOSED}"],
            [f"--tracking-uri: no tracking server answers at 'http://{CLOSED}'", "start it"],
        ),
        (["--tracking-uri", "http://[bad"], ["--tracking-uri: "]),
        (["--tracking-uri", "nowhere"], ["--tracking-uri: must be a", "got 'nowhere'"]),
        (
            ["--address", CLOSED],
            [f"--address: no Ray cluster answers at '{CLOSED}'", "check the address"],
        ),
        (["--address", "somewhere"], ["--address: must be auto or HOST:PORT, got 'somewhere'"]),
        (["--address", "ray://host:1"], ["--address: must be auto or HOST:PORT"]),
        (["--resume"], ["no study 'small'", "run `esam-tune sweep` first"]),
        (["--trails", "3"], ["--trails: unknown argument", "did you mean '--trials'?"]),
        (["--trial", "3"], ["--trial: unknown argument", "did you mean '--trials'?"]),
        (["another"], ["another: unknown argument", "remove it"]),
    ],
    ids=lambda value: " ".join(value)[:40] if value and value[0].startswith("-") else None,
)
def test_a_wrong_option_of_a_sweep(line, options, words):
    space = line.write("space.yaml", space_document())
    command = ["sweep", space, "--json", "--storage", line.storage, *options]
    assert_refused(line, command, *words)
    assert not line.storage.exists()


def test_a_tracking_server_of_the_environment_that_is_away(line):
    space = line.write("space.yaml", space_document())
    command = ["sweep", space, "--storage", line.storage]
    environment = {"MLFLOW_TRACKING_URI": f"http://{CLOSED}"}
    assert_refused(line, command, "--tracking-uri: no tracking server answers", **environment)


@pytest.mark.parametrize("below", ["file", "file/below"])
@pytest.mark.parametrize("verb", ["sweep", "train"])
def test_a_storage_that_cannot_be_written(line, verb, below):
    line.write("file", "in the way")
    given = line.write("given.yaml", space_document() if verb == "sweep" else SETTINGS)
    assert_refused(
        line,
        [verb, given, "--storage", line.folder / below],
        "--storage: cannot write to",
        "choose a folder you can write to",
    )


def test_a_batch_that_the_workers_cannot_share(line):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores")
    space = line.write("space.yaml", changed(training__batch_size=63))
    command = ["sweep", space, "--storage", line.storage, "--workers-per-trial", "2"]
    assert_refused(line, command, "training.batch_size: must divide evenly over the 2 workers")


@pytest.mark.parametrize("verb", ["sweep", "train"])
def test_a_network_that_does_not_take_the_images(line, verb):
    if verb == "sweep":
        given = line.write("space.yaml", changed(task__model="vit_s_16"))
    else:
        task = {**SETTINGS["task"], "model": "vit_s_16"}
        given = line.write("settings.yaml", {**SETTINGS, "task": task})
    assert_refused(
        line,
        [verb, given, "--storage", line.storage],
        "task.model: vit_s_16 takes images of at least 32x32 pixels, got a data set of 8x8",
        "use small_cnn or resnet18_cifar",
    )


@pytest.mark.parametrize("verb", ["sweep", "train"])
def test_fp16_without_a_gpu(line, verb, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    if verb == "sweep":
        given = line.write("space.yaml", changed(training__precision="fp16"))
    else:
        training = {**SETTINGS["training"], "precision": "fp16"}
        given = line.write("settings.yaml", {**SETTINGS, "training": training})
    assert_refused(
        line,
        [verb, given, "--storage", line.storage],
        "training.precision: fp16 needs a CUDA GPU, and the workers have none",
        "use bf16",
    )


def test_a_study_that_exists(line):
    line.study()
    space = line.write("space.yaml", space_document())
    assert_refused(
        line,
        ["sweep", space, "--storage", line.storage],
        "--name: study 'small' exists",
        "add --resume to go on with it, or choose another --name",
    )


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        (changed(search__beta=0.5), [], ["search: differs", "choose another --name"]),
        (changed(training__lr=0.5), [], ["training: differs", "choose another --name"]),
        (
            changed(objectives={"step_flops_ratio": "min", "val_accuracy": "max"}),
            [],
            ["objectives"],
        ),
        (space_document(), ["--epochs", "9"], ["training: differs"]),
        (space_document(), ["--seed", "9"], ["seed: differs", "it was 0, got 9"]),
        (space_document(), ["--workers-per-trial", "2"], ["--workers-per-trial: differs"]),
        (
            space_document(),
            ["--workers-per-trial", "1-2"],
            ["--workers-per-trial: differs", "it was '1', got '1-2'"],
        ),
        (
            space_document(),
            ["--checkpoint-storage", "elsewhere"],
            ["--checkpoint-storage: differs", "it was None, got '"],
        ),
        (space_document(), ["--tracking-uri", "sqlite:///b.db"], ["--tracking-uri: differs"]),
        (space_document(), ["--name", "smal"], ["no study 'smal'", "did you mean 'small'?"]),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_resume_of_something_else(line, content, options, words):
    line.study()
    space = line.write("space.yaml", content)
    command = ["sweep", space, "--storage", line.storage, "--resume", *options]
    assert_refused(line, command, *words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["smal"], ["STUDY: no study 'smal'", "did you mean 'small'?"]),
        (["../small"], ["STUDY: ", "got '../small'"]),
        (
            ["small", "--max", "step_flop_ratio=1.4"],
            ["--max: unknown metric 'step_flop_ratio'", "did you mean 'step_flops_ratio'?"],
        ),
        (["small", "--min", "val_accuracy"], ["--min: must be METRIC=NUMBER", "'val_accuracy'"]),
        (["small", "--min", "val_accuracy=high"], ["--min: must be METRIC=NUMBER"]),
        (["small", "--max", "val_accuracy=nan"], ["--max: must be METRIC=NUMBER"]),
        (["small", "--max", "test_accuracy=1"], ["--max: unknown metric 'test_accuracy'"]),
        (["small", "--max", "val_loss=1", "--min", "val_loss=2"], ["val_loss"]),
        (["small", "--pick", "best"], ["--pick: invalid choice: 'best'"]),
        (["small", "--max", "step_flops_ratio=1", "--export", "x.yaml"], ["--export: there is no"]),
        (["small", "--export", "file/x.yaml"], ["--export: cannot write 'file/x.yaml'"]),
        ([], ["STUDY"]),
    ],
    ids=lambda value: " ".join(value)[:50],
)
def test_a_wrong_pareto(line, options, words):
    line.study()
    line.write("file", "in the way")
    assert_refused(line, ["pareto", *options, "--json", "--storage", line.storage], *words)


@pytest.mark.parametrize(
    ("document", "options", "words"),
    [
        (None, [], ["SETTINGS: no such file"]),
        ("- a", [], ["SETTINGS: ", "must hold a mapping, found list"]),
        (SETTINGS | {"parms": {}}, [], ["parms: unknown key", "did you mean 'params'?"]),
        (SETTINGS | {"params": {"optimizer": "sgd", "rho": 1}}, [], ["params.rho: sgd does not"]),
        (SETTINGS | {"seed": -1}, [], ["seed: must be an integer in"]),
        (SETTINGS | {"origin": {"study": "s"}}, ["--workers", "999"], []),
        (SETTINGS | {"origin": {"study": 3, "trial_id": [1]}}, ["--workers", "999"], []),
        (SETTINGS, ["--workers", "999"], ["--workers: must be at most", "got 999"]),
        (SETTINGS, ["--workers", "0"], ["--workers: must be an integer in [1, 1000000], got 0"]),
        (SETTINGS, ["--lr-rule", "linear"], ["--lr-rule: must be none where the global batch"]),
        (
            SETTINGS | {"origin": {"workers": 3}},
            ["--batch-rule", "per-worker"],
            ["training.batch_size: must divide evenly over the 3 workers", "origin.workers"],
        ),
        (
            SETTINGS | {"origin": {"workers": 0}},
            [],
            ["origin.workers: must be an integer in [1, 1000000]"],
        ),
        (SETTINGS, ["--gpus-per-worker", "99"], ["--gpus-per-worker: must be at most"]),
        (SETTINGS, ["--cpus-per-worker", "999"], ["--cpus-per-worker: must be at most"]),
        (SETTINGS, ["--checkpoint-storage", "s3://"], ["--checkpoint-storage: must name"]),
        (SETTINGS, ["--name", "a/b"], ["--name: ", "got 'a/b'"]),
        (SETTINGS, ["--name", "kept"], ["--name: a model 'kept' exists", "another --name"]),
        (SETTINGS, ["--tracking-uri", f"http://{CLOSED}"], ["--tracking-uri: no tracking server"]),
        (SETTINGS, ["--address", CLOSED], ["--address: no Ray cluster answers"]),
    ],
)
def test_a_wrong_training(line, document, options, words):
    (line.storage / "models" / "kept").mkdir(parents=True)
    name = "none.yaml" if document is None else line.write("settings.yaml", document)
    assert_refused(line, ["train", name, "--json", "--storage", line.storage, *options], *words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], ["--storage: no runs are logged in", "run a sweep first"]),
        (["--port", "0"], ["--port: must be an integer in [1, 65535], got 0"]),
        (["--port", "65536"], ["--port: must be an integer in [1, 65535], got 65536"]),
        (["--tracking-uri", f"http://{CLOSED}"], ["--tracking-uri: no tracking server answers"]),
    ],
)
def test_a_wrong_ui(line, options, words):
    assert_refused(line, ["ui", "--storage", line.storage, *options], *words)


def test_a_port_that_is_taken(line):
    line.storage.mkdir()
    (line.storage / "mlflow.db").touch()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert_refused(
            line,
            ["ui", "--storage", line.storage, "--port", port],
            f"--port: cannot listen on {port}",
            "choose another --port",
        )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["VERB"]),
        (["swep"], ["invalid choice: 'swep'"]),
        (["sweep"], ["SPACE"]),
        (["--vers"], []),
    ],
)
def test_a_wrong_verb(line, arguments, words):
    assert_refused(line, arguments, *words)


@pytest.mark.parametrize("resumed", [False, True], ids=["pareto", "sweep --resume"])
def test_a_damaged_journal_is_named_without_a_traceback(line, resumed):
    study = line.study()
    lines = study.path.read_text().splitlines(keepends=True)
    study.path.write_text(lines[0] + "damage\n" + "".join(lines[1:]))
    space = line.write("space.yaml", space_document())
    before = line.files()
    verb = ["sweep", space, "--resume"] if resumed else ["pareto", "small"]
    answer = line.run(*verb, "--storage", line.storage)
    assert answer.returncode != 0
    assert answer.stdout == ""
    assert "Traceback" not in answer.stderr
    (message,) = answer.stderr.splitlines()
    assert "is damaged in line 2, before byte" in message
    assert line.files() == before


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_names_every_option(line, verb):
    answer = line.run(*filter(None, [verb, "--help"]))
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.startswith(f"usage: esam-tune {verb}".rstrip())
    for option in VERBS if not verb else ["--storage"]:
        assert option in answer.stdout
    assert line.files().keys() == {"blocked", "blocked/ray.py"}


@pytest.mark.parametrize("arguments", [["--help"], ["sweep", "--help"], ["sweep", "--trials", "0"]])
def test_help_and_mistakes_wait_for_no_heavy_import(arguments):
    heavy = ("torch", "ray", "mlflow", "optuna", "numpy", "sklearn", "matplotlib", "rich")
    snippet = (
        "import sys\n"
        "from esam_tune.cli import main\n"
        f"main({arguments!r})\n"
        f"sys.exit(','.join(name for name in {heavy!r} if name in sys.modules))\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", snippet], capture_output=True, text=True, timeout=60
    )
    # An empty exit message prints an empty line.
    assert answer.stderr.splitlines()[-1] == ""
    assert "usage" in answer.stdout or "must be an integer" in answer.stderr


def test_the_end_of_a_command_does_not_go_through_all_objects():
    snippet = (
        "import atexit, gc\n"
        "from esam_tune.cli import main\n"
        "atexit.register(lambda: print(gc.get_freeze_count() > 0))\n"
        "main(['--version'])\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", snippet], capture_output=True, text=True, timeout=60
    )
    assert answer.stdout.splitlines()[-1] == "True"


def test_the_installed_command_is_this_one():
    from esam_tune import cli

    (command,) = importlib.metadata.entry_points(group="console_scripts", name="esam-tune")
    assert command.load() is cli.main


def test_right_input_goes_past_every_check(line):
    """The guard of all tests above: only an import of Ray stops a sweep that is right."""
    space = line.write("space.yaml", space_document())
    answer = line.run("sweep", space, "--storage", line.storage)
    assert "wrong input must not start Ray" in answer.stderr
