"""Space files and argument lists, right, nearly right and hostile, drawn by seed and index."""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import yaml
from generated_spaces import SETTINGS, TEXTS, hostile_file_name, settings_bytes, space_bytes
from study_events import WrittenStudy, space_document, study_spec

NAMES = ("sweep", "spaces", "pareto", "refine", "train", "scale", "sync", "ui", "report")
CLOSED = "127.0.0.1:9"  # the discard port: nothing listens there


@dataclass(frozen=True, kw_only=True)
class Input:
    """One call of the command line.

    Args:
        arguments: of it.
        files: by name, what lies in its folder besides the world of :func:`furnish`.
    """

    arguments: tuple[str, ...]
    files: dict[str, bytes]


def generated(seed: int, index: int) -> Input:
    """The input of an index: the same each time."""
    draw = random.Random(f"{seed}:{index}")
    return _space_input(draw) if draw.random() < 0.55 else _argument_input(draw)


def furnish(folder: Path) -> None:
    """Make what inputs refer to: right and wrong files, studies whole and damaged."""
    storage = folder / "runs"
    (folder / "right.yaml").write_text(yaml.safe_dump(space_document()))
    (folder / "settings.yaml").write_text(yaml.safe_dump(SETTINGS))
    (folder / "in the way").write_text("text")
    (folder / "folder.yaml").mkdir()
    os.mkfifo(folder / "pipe.yaml")
    (folder / "loop.yaml").symlink_to("loop.yaml")
    (folder / "dangling.yaml").symlink_to("nowhere")
    (folder / "zero.yaml").symlink_to("/dev/zero")
    (folder / "full.yaml").symlink_to("/dev/full")
    (folder / "locked.yaml").write_text("a: 1")
    (folder / "locked.yaml").chmod(0)
    small = WrittenStudy(storage / "small" / "journal.jsonl", study_spec(name="small"))
    for accuracy, cost in ((0.9, 1.5), (0.8, 1.2), (0.7, 1.9)):
        small.trial(accuracy, cost)
    begun = WrittenStudy(storage / "begun" / "journal.jsonl", study_spec(name="begun"))
    begun.start()
    whole = small.path.read_text().splitlines(keepends=True)
    for name, content in {
        "torn": "".join(whole)[:-20],
        "damaged": f"{whole[0]}damage\n{''.join(whole[1:])}",
        "foreign": '{"event": "study", "time": 1}\n',
        "strange": f'{whole[0]}{{"event": "trial_end", "time": 1, "trial_id": [1]}}\n',
        "headless": "".join(whole[1:]),
        "empty": "",
        "deep": f'{{"event": "study", "time": 1, "space": {"[" * 90_000}\n',
        "escape": "".join(whole).replace("ESAM", "\\u001b]0;x\\u0007"),
    }.items():
        (storage / name).mkdir()
        (storage / name / "journal.jsonl").write_text(content)
    (storage / "odd" / "journal.jsonl").mkdir(parents=True)
    (storage / "link").symlink_to("small")
    (storage / "mlflow.db").touch()
    shutil.copytree(storage / "small", folder / "elsewhere" / "small")


def _space_input(draw: random.Random) -> Input:
    name = "space.yaml" if draw.random() < 0.95 else hostile_file_name(draw)
    if draw.random() < 0.1:
        special = ("folder", "pipe", "loop", "dangling", "zero", "full", "locked", "none", "in the")
        name = draw.choice([f"{kind}.yaml" for kind in special])
        files = {}
    else:
        files = {name: space_bytes(draw)}
    if draw.random() < 0.4:
        return Input(arguments=("spaces", name, *_sometimes(draw, "--json")), files=files)
    extra = _options(draw, "sweep", 1) if draw.random() < 0.3 else ()
    arguments = ("sweep", name, "--dry-run", *_sometimes(draw, "--json"), *extra)
    return Input(arguments=arguments, files=files)


def _sometimes(draw: random.Random, option: str) -> tuple[str, ...]:
    return (option,) if draw.random() < 0.4 else ()


_STORAGES = ("runs", "runs", "runs", "elsewhere", "new", "in the way", "in the way/x", "loop.yaml")
_PATHS = ("/dev/null/x", "/proc/x", "n" * 300, "s3://b/x", "caf\udce9", "\x1b[31m", "", ".")
_STUDIES = (
    *("small", "small", "small", "begun", "torn", "damaged", "foreign", "strange", "headless"),
    *("empty", "deep", "escape", "odd", "link", "smal", "none", "mlflow.db", "../small", "a b"),
)
_URIS = (
    *("nowhere", "http://", "http://[bad", "http://h:99999", "http://a..b", "http://me:pw@h:x"),
    *(f"http://{CLOSED}", f"http://me:secret@{CLOSED}", f"http://{CLOSED}/caf\u00e9 x", "x://y"),
    *("sqlite:///new.db", "sqlite:////none/x.db", "sqlite://", "postgresql://h/db", "file:///x"),
    *(
        f"sqlite:////{'n' * 300}/x.db",
        "postgresql://me:secret@h/db?port=abc",
        "mysql://h:abc/db",
        "user:secret@h",
        "://",
        ":",
    ),
)
_COUNTS = ("1", "2", "0", "-1", "999", "1000001", "9" * 19, "9" * 5_000, "1.5", "x", "", "\u00b2")
_WHOLE = ("--trials", "--epochs", "--max-concurrent", "--seed", "--seeds", "--cpus-per-worker")
_LIMITS = ("--max-failures", "--max-epoch-seconds")
_OPTIONS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys((*_WHOLE, *_LIMITS, "--rounds", "--steps", "--port"), _COUNTS),
    "--storage": (*_STORAGES, *_PATHS),
    "--name": ("fresh", "small", "a/b", "..", "-x", "x" * 101, "mlflow.db", *TEXTS[:20]),
    "--workers-per-trial": (*_COUNTS, "1-2", "2-1", "1-2-3", "998-999", "-"),
    "--gpus-per-worker": ("0", "1", "0.25", "nan", "inf", "-1", "1e400", "x", "1_0"),
    "--checkpoint-storage": ("shared", "", "s3://", "nowhere://x/y", "s3://me:pw@b/x", *_PATHS[:4]),
    "--optuna-storage": (
        *(*_URIS, "journal:///o.log", "journal:////none/x", "journal:///%00"),
        f"journal:////tmp/{'n' * 300}",
    ),
    "--tracking-uri": _URIS,
    "--address": (CLOSED, "auto", "x", "h:\u00b2", "a..b:1", "h:0", "h:99999", "ray://h:1", ":1"),
    "--warm-start": (*_STUDIES, "elsewhere/small", "/none", "loop.yaml", "n" * 300),
    "--set": (
        *("", "=", "a", "a=", ".=1", "trials=1e400", "task=1", "task.dataset.x=1", "task.model="),
        *("search.every={low: 1, high: 1000000}", "search.beta=[", "x=!!python/name:os.system"),
        *("description=\x1b[31m", "search.rho={low: 1e-320, high: 1e308, log: true}", "x" * 9_000),
        *("early_stopping={kind: pareto, eta: 1.0000001}", "trials=1000000", "seeds=1000000"),
    ),
    "--max": ("step_flops_ratio=1.4", "step_flops_ratio=nan", "val_accuracy=0.1", "x=1", "=", "1"),
    "--min": ("val_accuracy=0.8", "val_accuracy=1e999", "test_accuracy=1", "val_accuracy="),
    "--pick": ("accuracy", "cost", "knee", "best", ""),
    "--export": ("out.yaml", "deep/out.yml", "in the way/x.yaml", "out.txt", "runs", "", "x.yaml/"),
    "--out": ("page", "in the way", "in the way/x", "/proc/x", "", "n" * 300),
    "--workers": ("1", "2", "1,2", "1,2,4", "0", "999", "1,x", ",", "2,2", ""),
    "--mode": ("strong", "weak", "x"),
    "--lr-rule": ("none", "linear", "sqrt", "x"),
    "--batch-rule": ("fixed-global", "per-worker", "x"),
    "--network": ("latency=20us,bandwidth=10Gbit", "latency=1,bandwidth=2", "x", "latency=0s"),
    "--predict-to": ("1", "64", "65537", "x"),
    "--host": ("127.0.0.1", "0.0.0.0", "a..b", "203.0.113.7", "x", ""),
    "--register": ("model", "a/b", ""),
}
_FLAGS = ("--json", "--resume", "--accuracy", "--schema", "--help", "--version", "--", "--nonsense")
_OF_VERB = {
    "sweep": (
        *(*_WHOLE, "--storage", "--name", "--workers-per-trial", "--gpus-per-worker", "--set"),
        *("--checkpoint-storage", "--optuna-storage", "--tracking-uri", "--address"),
        *("--warm-start", *_LIMITS),
    ),
    "spaces": (),
    "pareto": ("--storage", "--max", "--min", "--pick", "--export"),
    "refine": (
        *("--storage", "--seeds", "--tracking-uri", "--address", "--gpus-per-worker"),
        *_LIMITS,
    ),
    "train": (
        *("--storage", "--name", "--workers", "--tracking-uri", "--address", "--lr-rule"),
        *("--batch-rule", "--cpus-per-worker", "--checkpoint-storage", "--register"),
    ),
    "scale": (
        *("--storage", "--name", "--workers", "--mode", "--lr-rule", "--rounds", "--steps"),
        *("--network", "--predict-to", "--address", "--tracking-uri", "--cpus-per-worker"),
    ),
    "sync": ("--storage", "--tracking-uri"),
    "ui": ("--storage", "--host", "--port", "--tracking-uri"),
    "report": ("--storage", "--out"),
}


def _argument_input(draw: random.Random) -> Input:
    verb = draw.choice(NAMES)
    files: dict[str, bytes] = {}
    arguments: list[str] = [verb]
    if verb in ("pareto", "refine", "sync", "report"):
        arguments.append(draw.choice(_STUDIES))
    elif verb in ("train", "scale"):
        arguments.append(draw.choice(["settings.yaml"] * 3 + ["given.yaml"] * 3 + ["pipe.yaml"]))
        files["given.yaml"] = settings_bytes(draw)
    elif verb in ("sweep", "spaces"):
        arguments.append(draw.choice(["right.yaml", "right.yaml", "right.yaml", "pipe.yaml", "."]))
    if verb == "refine":
        arguments += ["--seeds", draw.choice(_COUNTS)]
    if verb == "scale":
        arguments += ["--workers", draw.choice(_OPTIONS["--workers"])]
    if verb == "sweep" and draw.random() < 0.7:
        arguments.append("--dry-run")
    arguments += _options(draw, verb, draw.randint(0, 3))
    if draw.random() < 0.15:
        arguments.insert(draw.randrange(len(arguments) + 1), draw.choice([*TEXTS, *_FLAGS]))
    # No process can be given an argument with a NUL in it.
    return Input(arguments=tuple(a.replace("\x00", "0") for a in arguments), files=files)


def _options(draw: random.Random, verb: str, count: int) -> list[str]:
    chosen: list[str] = []
    for _ in range(count):
        known = _OF_VERB[verb]
        way = draw.random()
        if way < 0.12 or not known:
            chosen.append(draw.choice(_FLAGS))
        else:
            option = draw.choice(known if way < 0.95 else sorted(_OPTIONS))
            value = draw.choice(_OPTIONS[option])
            joined = draw.random() < 0.3 or value.startswith("-")
            chosen += [f"{option}={value}"] if joined else [option, value]
            if draw.random() < 0.03:
                chosen.pop()
    return chosen
