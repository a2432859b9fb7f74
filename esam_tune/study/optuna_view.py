"""A study rebuilt in Optuna's memory from its record, for what Optuna can say and draw of it.

Optuna's own storage may lag behind the record, and holds proposals that never became trials.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from esam_tune import pareto_front
from esam_tune.report.study import Importance
from esam_tune.study.record import StudyRecord
from esam_tune.study.spec import coordinates

if TYPE_CHECKING:
    import optuna

_log = logging.getLogger(__name__)

# With fewer trials an evaluator ranks noise.
FEWEST_TRIALS = 8
FANOVA, PED_ANOVA = "fANOVA", "PED-ANOVA"
# PED-ANOVA compares the best trials with all; its authors' tenth, but not fewer than five.
_BEST_SHARE, _FEWEST_BEST = 0.1, 5
# fANOVA's time grows with the square of the trials; from more it learns little more.
_MOST_WEIGHED = 100


def rebuilt(record: StudyRecord) -> optuna.Study:
    """The complete trials that lie in the search space, baselines among them, by their means."""
    import optuna

    from esam_tune.study.samplers import distribution

    spec = record.spec
    directions = ["maximize" if way == "max" else "minimize" for way in spec.objectives.values()]
    with _quietly():
        study = optuna.create_study(directions=directions)
        study.set_metric_names(list(spec.objectives))
    for trial in record.complete:
        point = coordinates(spec, trial.params)
        if point is None:
            continue
        added = optuna.trial.create_trial(
            params=point,
            distributions={key: distribution(spec.dimensions[key]) for key in point},
            values=trial.values(spec.objectives),
        )
        for constraint in spec.constraints:
            excess = constraint.excess(trial.values([constraint.metric])[0])
            added.set_constraint(constraint.metric, min(excess, float(np.finfo(float).max)))
        study.add_trial(added)
    return study


def importances(record: StudyRecord) -> tuple[Importance, ...]:
    """How much of each objective each parameter explains, by two of Optuna's evaluators.

    fANOVA (Hutter et al. 2014) shares out the variation over the whole space, PED-ANOVA (Watanabe
    et al. 2023) says what sets the best trials apart. fANOVA leaves out what only some trials have.
    Empty where there are too few trials, and where all have one value of an objective.
    """
    study = rebuilt(record)
    with _quietly():
        return tuple(_importances(study, record))


def _importances(study: optuna.Study, record: StudyRecord) -> Iterator[Importance]:
    import optuna

    trials = study.get_trials(deepcopy=False)
    if len(trials) < FEWEST_TRIALS:
        return
    best = min(0.5, max(_BEST_SHARE, _FEWEST_BEST / len(trials)))
    for column, (key, direction) in enumerate(record.spec.objectives.items()):
        if len({trial.values[column] for trial in trials}) == 1:
            continue
        fanova = optuna.importance.FanovaImportanceEvaluator(seed=record.spec.seed)
        evaluators: dict[str, tuple[optuna.Study, Any, float]] = {
            FANOVA: (_thinned(study), fanova, 1.0),
            # This one takes less for better, whatever the direction.
            PED_ANOVA: (
                study,
                optuna.importance.PedAnovaImportanceEvaluator(target_quantile=best),
                -1.0 if direction == "max" else 1.0,
            ),
        }
        for name, (weighed, evaluator, sign) in evaluators.items():
            try:
                shares = optuna.importance.get_param_importances(
                    weighed, evaluator=evaluator, target=_target(column, sign)
                )
            except (ValueError, RuntimeError) as error:
                _log.warning("%s of %s is left out: %s", name, key, error)
                continue
            if shares:
                yield Importance(
                    objective=key,
                    evaluator=name,
                    shares={name: float(share) for name, share in shares.items()},
                    trials=len(trials),
                )


def _thinned(study: optuna.Study) -> optuna.Study:
    """The study with so many of its trials, evenly spaced, as fANOVA weighs within seconds."""
    import optuna

    trials = study.get_trials(deepcopy=False)
    if len(trials) <= _MOST_WEIGHED:
        return study
    thinned = optuna.create_study(directions=study.directions)
    rows = np.linspace(0, len(trials) - 1, _MOST_WEIGHED).round().astype(int)
    thinned.add_trials([trials[row] for row in rows])
    return thinned


def figures(record: StudyRecord) -> list[tuple[str, Any]]:
    """Optuna's own plots, interactive: of each its heading and the plotly figure."""
    from optuna import visualization

    with _quietly():
        study = rebuilt(record)
        if len(study.get_trials(deepcopy=False)) < 2:
            return []
        objectives = list(record.spec.objectives)
        drawn = [
            ("Parallel coordinates", visualization.plot_parallel_coordinate(study)),
            *(
                (
                    f"Slices: {key.replace('_', ' ')}",
                    visualization.plot_slice(study, target=_target(column), target_name=key),
                )
                for column, key in enumerate(objectives)
            ),
            (
                "Hypervolume, in the objectives' units",
                visualization.plot_hypervolume_history(study, _worst(study, record)),
            ),
        ]
        if len(study.get_trials(deepcopy=False)) >= FEWEST_TRIALS:
            # Optuna's default evaluator, which is the quick one.
            drawn += [
                (
                    f"Importance of the parameters ({PED_ANOVA}): {key.replace('_', ' ')}",
                    visualization.plot_param_importances(
                        study,
                        target=_target(column, -1.0 if direction == "max" else 1.0),
                        target_name=key,
                    ),
                )
                for column, (key, direction) in enumerate(record.spec.objectives.items())
            ]
        return drawn


def _target(column: int, sign: float = 1.0) -> Callable[[optuna.trial.FrozenTrial], float]:
    return lambda trial: sign * float(trial.values[column])


def _worst(study: optuna.Study, record: StudyRecord) -> Sequence[float]:
    """The worst value of each objective, from which the hypervolume is counted."""
    directions = list(record.spec.objectives.values())
    values = [trial.values for trial in study.get_trials(deepcopy=False)]
    worst = pareto_front.minimised(values, directions).max(axis=0, keepdims=True)
    return [float(value) for value in pareto_front.minimised(worst, directions)[0]]


@contextmanager
def _quietly() -> Iterator[None]:
    """Without Optuna's lines on studies, and what it warns of that is heeded here."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", "PedAnovaImportanceEvaluator computes", UserWarning)
        yield
