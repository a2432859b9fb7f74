"""How a study came about and how it is made again: its parts, and commands to type."""

from __future__ import annotations

import shlex

from esam_tune.errors import escaped
from esam_tune.journal import Event
from esam_tune.pareto_front import Rule
from esam_tune.study.folder import StudyFolder
from esam_tune.study.record import StudyRecord

_WORDS = {"max": "maximise", "min": "minimise"}


def setup(record: StudyRecord) -> tuple[str, ...]:
    """What a study searches, on what and how: sentences."""
    spec = record.spec
    goals = " and ".join(
        f"{_WORDS[way]} {key.replace('_', ' ')}" for key, way in spec.objectives.items()
    )
    bounds = " and ".join(f"{c.metric} {c}" for c in spec.constraints)
    noise = f" with {spec.task.label_noise:.0%} wrong labels" if spec.task.label_noise else ""
    seeds = "one seed" if spec.seeds == 1 else f"{spec.seeds} seeds"
    count = len(spec.baselines)
    beside = f"{count} baseline{'s' * (count != 1)} run{'s' * (count == 1)} on top of them"
    sentences = [
        f"{goals.capitalize()}{f', subject to {bounds}' if bounds else ''}.",
        f"Each setting trains {spec.task.model} on {spec.task.dataset}{noise} for "
        f"{spec.training.epochs} epochs under {seeds}.",
        f"The {spec.sampler} sampler proposes {', '.join(spec.dimensions)}; {spec.trials} search "
        f"trials are asked for, and {beside}.",
    ]
    if spec.early_stopping.kind != "none":
        sentences.append(f"Trials that fall behind are stopped early ({spec.early_stopping.kind}).")
    return tuple(sentences)


def origin(record: StudyRecord, started: Event) -> tuple[tuple[str, str], ...]:
    """What a study was made with: name and value of each part that is known.

    Args:
        record: of the study.
        started: the journal's first event.
    """
    spec = record.spec
    seeds = [str(run.seed) for trial in record.trials.values() for run in trial.runs]
    dataset = started.get("dataset")
    warm = [str(start["study"]) for start in started.get("warm_start") or ()]
    parts = {
        "study id": started.get("study_id"),
        "commit of the space file": started.get("git_commit"),
        "device": started.get("device"),
        "data": dataset and f"{dataset['name']}, digest {dataset['digest']}",
        "seeds": ", ".join(dict.fromkeys(seeds)) or str(spec.seed),
        "workers of a trial": str(record.workers_per_trial),
        "trials at a time": None if spec.max_concurrent is None else str(spec.max_concurrent),
        "warm start from": ", ".join(warm),
        **{name: str(number) for name, number in (started.get("versions") or {}).items()},
    }
    return tuple((escaped(name), escaped(str(value))) for name, value in parts.items() if value)


def commands(
    folder: StudyFolder, record: StudyRecord, started: Event, rule: Rule
) -> tuple[tuple[str, str], ...]:
    """Commands that make and use a study, in order: what each is for, and what to type.

    Args:
        folder: of the study.
        record: of the study.
        started: the journal's first event.
        rule: by which the setting is chosen.
    """
    spec = record.spec
    sweep = ["sweep", f"{spec.name}.yaml"]
    if record.workers_per_trial > 1:
        sweep += ["--workers-per-trial", str(record.workers_per_trial)]
    for start in started.get("warm_start") or ():
        sweep += ["--warm-start", str(start["study"])]
    listed = [("run it, with the space file below saved under this name", sweep)]
    most = max((len(trial.runs) for trial in record.trials.values()), default=0)
    if most > spec.seeds:
        refine = ["refine", spec.name, "--seeds", str(most)]
        listed.append(("spend more seeds on its front", refine))
    listed += [
        (
            "look at the front and write the chosen setting",
            ["pareto", spec.name, "--pick", rule, "--export", "settings.yaml"],
        ),
        ("train it in full and read the test split, once", ["train", "settings.yaml"]),
        ("see every run in MLflow", ["ui"]),
    ]
    storage = [] if folder.by_default else ["--storage", "DIR"]
    return tuple((what, shlex.join(["esam-tune", *words, *storage])) for what, words in listed)
