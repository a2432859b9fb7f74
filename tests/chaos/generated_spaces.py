"""Space and settings files, right, nearly right and hostile."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import yaml
from study_events import space_document

from esam_tune.config import HYPERPARAMETERS, OPTIMIZERS

SETTINGS = {
    "task": {"dataset": "digits", "model": "small_cnn"},
    "training": {"epochs": 1, "batch_size": 64, "lr": 0.05},
    "params": {"optimizer": "esam"},
}
NUMBERS = (
    *(0, -1, 1, 2, 3, 17, 64, 10**6, 10**6 + 1, 2**31 - 1, 2**31, 2**63, 10**18, 10**400),
    *(0.5, 1.0, -0.0, 1e-9, 5e-324, 1e-320, 1.0000001, 1e6, 1e9, 1e18, 1e300, 1.79e308),
    *(float("inf"), float("-inf"), float("nan")),
)
TEXTS = (
    *("", " ", "null", "true", "0008", "1e5", "-rf", "~", "~root/x", "a/b", "..", "../../x", "/"),
    *("/" + "n" * 300, "/dev/zero", "/proc/self/environ", "loop.yaml"),
    *("\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "a\nb", "a\r\nb", "\x00", "\x7f", "\x9b2J"),
    *("\u202egnp.exe", "\ud800", "\ufeff", "caf\u00e9", "\u212b" * 40, "\U0001f4a5", "\u00b2"),
    *("%s%n%d", "{0}{x!r}", "$(id)", "`id`", "[a](javascript:b)", "<script>alert(1)</script>"),
    *("x" * 5_000, "=" * 300, "'; DROP TABLE trials; --", "digits", "esam", "small_cnn"),
)


def hostile_file_name(draw: random.Random) -> str:
    return draw.choice(
        [
            "\x1b[31m.yaml",
            "a\nb.yaml",
            "caf\udce9.yaml",
            "-x.yaml",
            "x y.yaml",
            "...",
            "\u202e.yaml",
        ]
    )


def space_bytes(draw: random.Random) -> bytes:
    """A space file."""
    document = _space(draw)
    for _ in range(draw.choice([0, 0, 0, 1, 1, 1, 2, 3, 6])):
        _mutate(draw, document)
    text = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=draw.random() < 0.5)
    content = text.encode("utf-8", "surrogatepass")
    return _spoilt(draw, content) if draw.random() < 0.25 else content


class _Dumper(yaml.SafeDumper):
    """Writes values that occur twice twice: aliases are a mutation of their own."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _space(draw: random.Random) -> dict[str, Any]:
    """A space that is right."""
    names = draw.sample(["esam", "sam", "asam", "looksam", "msam", "sgd"], draw.randint(1, 3))
    search: dict[str, Any] = {"optimizer": names[0] if len(names) == 1 else {"choices": names}}
    ranges: dict[str, Callable[[], Any]] = {
        "rho": lambda: {"low": 0.01, "high": draw.choice([0.5, 2.0]), "log": draw.random() < 0.5},
        "beta": lambda: {"low": 0.2, "high": 1.0},
        "gamma": lambda: {"choices": [0.25, 0.5, 1.0]},
        "every": lambda: {"low": 1, "high": draw.choice([2, 4, 1000])},
        "selection": lambda: {"choices": ["exact", "first_order"]},
        "alpha": lambda: draw.choice([0.5, {"low": 0.1, "high": 1.0}]),
        "lr": lambda: {"low": 1e-3, "high": 0.5, "log": True},
        "batch_size": lambda: draw.choice([32, {"choices": [32, 64]}, {"low": 16, "high": 64}]),
        "momentum": lambda: {"choices": [0.0, 0.9]},
    }
    read = {key for name in names for key in OPTIMIZERS[name].defaults}
    fitting = [key for key in sorted(ranges) if key in read or key not in HYPERPARAMETERS]
    for key in draw.sample(fitting, draw.randint(1, min(4, len(fitting)))):
        search[key] = ranges[key]()
        if isinstance(search[key], dict) and draw.random() < 0.15:
            search[key]["when"] = {"optimizer": draw.choice(names)}
    task = {"dataset": "digits", "model": "small_cnn", "label_noise": draw.choice([0.0, 0.4])}
    if draw.random() < 0.1:
        task["model"] = draw.choice(["resnet18_cifar", "vit_s_16", "resnet50", "wide_resnet28_10"])
    if draw.random() < 0.1:
        task |= {"dataset": draw.choice(["folder", "imagenet", "cifar10"]), "data_dir": "/none"}
    return space_document(
        task=task,
        search=search,
        sampler=draw.choice(["tpe", "nsga2", "nsga3", "gp", "random", "qmc", "grid", "random"]),
        trials=draw.choice([1, 2, 5, 50]),
        early_stopping={"kind": "pareto", "eta": 3} if draw.random() < 0.3 else None,
        constraints={"step_flops_ratio": "<= 1.9"} if draw.random() < 0.3 else None,
        max_concurrent=draw.choice([None, 1, 2]),
    )


def _mutate(draw: random.Random, document: dict[str, Any]) -> None:
    """Change something, anywhere."""
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        entries = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in list(entries):
            places.append((node, key))
            if isinstance(value, dict | list):
                walk(value)

    walk(document)
    if not places:
        return
    node, key = draw.choice(places)
    way = draw.random()
    if way < 0.55:
        node[key] = _anything(draw)
    elif way < 0.65:
        del node[key]
    elif way < 0.8 and isinstance(node, dict):
        node[draw.choice([*TEXTS, f"{key}s", str(key).upper()])] = node.pop(key)
    elif way < 0.9 and isinstance(node, dict):
        node[draw.choice([*TEXTS, "when", "default", "low", "choices", "rho"])] = _anything(draw)
    else:
        node[key] = [node[key]] * draw.choice([1, 2, 300])


def _anything(draw: random.Random, depth: int = 0) -> Any:
    way = draw.random()
    if way < 0.4:
        return draw.choice(NUMBERS)
    if way < 0.75 or depth > 3:
        return draw.choice(TEXTS)
    if way < 0.82:
        return draw.choice([None, True, False, [], {}])
    if way < 0.9:
        return [_anything(draw, depth + 1) for _ in range(draw.randint(1, 3))]
    if way < 0.97:
        bounds = {"low": draw.choice(NUMBERS), "high": draw.choice(NUMBERS)}
        return bounds | ({"log": True} if draw.random() < 0.4 else {})
    return {"choices": [draw.randint(1, 10**6) for _ in range(draw.choice([3, 900, 12_000]))]}


def _spoilt(draw: random.Random, content: bytes) -> bytes:
    """Text that is no longer what the dumper wrote."""
    at = draw.randrange(len(content) + 1)
    bomb = b"a: &a [x,x]\n" + b"".join(
        b"%c: &%c [*%c,*%c,*%c]\n" % (c + 1, c + 1, c, c, c) for c in range(ord("a"), ord("z"))
    )
    fragments = (
        *(b"\xff\xfe", b"\x00", b"\x1b[2J", b"\t", b"\r", b"&a *a", b"<<: *a\n", b"\n---\n"),
        *(
            b"!!python/object/apply:os.system [id]",
            b"!!binary aGk=",
            b"? - ? - ? -",
            b"%YAML 9.9\n",
        ),
        *(b"\xef\xbb\xbf", "\u2028".encode(), "\x85".encode(), b"'", b'"', b"|", b">", b"\\x"),
    )
    way = draw.randrange(8)
    if way == 0:
        return content[:at]
    if way == 1:
        return content + content
    if way == 2:
        return bomb + content
    if way == 3:
        return content + b"x: " + b"[" * draw.choice([15, 30, 50_000])
    if way == 4:
        return content + b"description: " + b"x" * draw.choice([1_000, 90_000, 200_000])
    if way == 5:
        return content + b"numbers: [" + b"1," * draw.choice([5_000, 20_000]) + b"1]\n"
    return content[:at] + draw.choice(fragments) + content[at:]


def settings_bytes(draw: random.Random) -> bytes:
    """A settings file."""
    document = copy.deepcopy(SETTINGS)
    document["origin"] = {"study": "small", "trial_id": "0000", "workers": 1}
    for _ in range(draw.choice([0, 1, 1, 2])):
        _mutate(draw, document)
    content = yaml.dump(document, Dumper=_Dumper, sort_keys=False).encode("utf-8", "surrogatepass")
    return _spoilt(draw, content) if draw.random() < 0.15 else content
