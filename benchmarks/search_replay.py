"""A search on stored curves, epoch by simulated epoch; see search_efficiency.py."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from stored_curves import Curve, Pool, Task

from esam_tune import pareto_front
from esam_tune.metrics import STEP_FLOPS_RATIO, VAL_ACCURACY
from esam_tune.study.rungs import Objectives, Rungs, rung_epochs
from esam_tune.study.trial_record import RunRecord, State, TrialRecord

TRIALS = 60


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to search.

    Args:
        sampler: by name.
        rungs: makes the rungs for trials of so many epochs; None runs all to the end.
        accuracy_alone: whether rungs see nothing but the accuracy.
    """

    sampler: str
    rungs: Callable[[int], Rungs] | None = None
    accuracy_alone: bool = False


def pareto_rungs(
    grace: int, eta: float, *, baselines: float = 0.1, contenders: float = 0.0
) -> Callable[[int], Rungs]:
    """Rungs over accuracy and cost; by how much dearer than a trial who beats it may be."""
    objectives = Objectives(
        static=(False, True),
        margin=math.log1p(baselines),
        contender_margin=math.log1p(contenders),
    )
    return lambda last: Rungs(rung_epochs(grace, eta, last), eta, objectives)


def asha_rungs(grace: int, eta: float) -> Callable[[int], Rungs]:
    """Rungs over the accuracy alone."""
    return lambda last: Rungs(rung_epochs(grace, eta, last), eta, Objectives(static=(False,)))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one replayed search did.

    Args:
        epochs: spent when each trial finished, ascending.
        volume: held from then on.
        trials: started.
        stopped: of them, before their end.
        wasted: epochs of trials that were no better than SGD's baseline at the end of their curve.
        idle_kept: of the trials below SGD's baseline at the end of their curve, the share that
            was run to the end.
    """

    epochs: tuple[int, ...]
    volume: tuple[float, ...]
    trials: int
    stopped: int
    wasted: int
    idle_kept: float

    def at(self, epochs: float) -> float:
        """The hypervolume held after so many epochs."""
        held = [v for e, v in zip(self.epochs, self.volume, strict=True) if e <= epochs]
        return held[-1] if held else 0.0

    def reaches(self, volume: float) -> float:
        """Epochs until the hypervolume is held; infinite when it never is."""
        pairs = zip(self.epochs, self.volume, strict=True)
        return next((e for e, v in pairs if v >= volume), math.inf)


def replay(task: Task, method: Method, seed: int, budget: int, workers: int) -> Outcome:
    """Search with one method until the budget of epochs is spent."""
    import optuna

    from esam_tune.study.feasibility import PredictedCost
    from esam_tune.study.known_cost import KnownCost
    from esam_tune.study.samplers import distribution, propose, propose_point

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    spec = replace(task.spec, seed=seed, sampler=method.sampler, trials=TRIALS)
    study = optuna.create_study(directions=["maximize", "minimize"])
    last = spec.training.epochs
    rungs = method.rungs(last) if method.rungs else None
    pool = Pool(task)
    guide = KnownCost(spec, PredictedCost(spec, 1)) if method.sampler == "known_cost" else None

    def rank(name: str, curve: Curve, epoch: int, *, exempt: bool = False) -> bool:
        if rungs is None:
            return True
        costs = (-curve.accuracy[epoch - 1], math.log(curve.cost))
        return rungs.report(
            name, epoch, costs[:1] if method.accuracy_alone else costs, exempt=exempt
        )

    def learn(
        name: str, curve: Curve, epochs: int, state: State, *, baseline: bool = False
    ) -> None:
        if guide is not None:
            guide.learn(_record(name, curve, epochs, state, baseline=baseline))

    for name, curve in task.baselines.items():
        learn(name, curve, last, "complete", baseline=True)
        for epoch in range(1, last + 1):
            rank(name, curve, epoch, exempt=True)

    # Running trials as (time of the next report, order of starting, number, epoch, curve).
    running: list[tuple[int, int, int, int, Curve]] = []
    started = spent = stopped = wasted = 0
    below = below_kept = 0
    finished: list[tuple[float, float]] = []
    history: list[tuple[int, float]] = []

    def start(time: int) -> None:
        nonlocal started, below
        point = guide.point(started, lambda _: True) if guide is not None else {}
        trial, params = (
            propose_point(study, spec, started, [point]) if point else propose(study, spec, started)
        )
        curve = pool.take(params)
        asked = study.get_trials(deepcopy=False)[trial.number]
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        if curve is None:
            return
        # The sampler learns the setting that was run; what it does not read stays as proposed.
        point = {**asked.params, **{k: v for k, v in curve.params.items() if k in spec.dimensions}}
        known = {k: v for k, v in point.items() if k in asked.params or k in curve.params}
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.RUNNING,
                params=known,
                distributions={key: distribution(spec.dimensions[key]) for key in known},
                system_attrs=asked.system_attrs,
            )
        )
        number = len(study.get_trials(deepcopy=False)) - 1
        learn(f"{started:03d}", curve, 0, "running")
        below += curve.point[0] >= task.reference[0]
        heapq.heappush(running, (time + 1, started, number, 1, curve))
        started += 1

    for _ in range(workers):
        start(0)
    while running and spent < budget:
        time, order, number, epoch, curve = heapq.heappop(running)
        spent += 1
        bad = curve.point[0] >= task.reference[0]
        wasted += bad
        ended = epoch == len(curve.accuracy)
        goes_on = ended or rank(f"{order:03d}", curve, epoch)
        if not ended and goes_on:
            heapq.heappush(running, (time + 1, order, number, epoch + 1, curve))
            continue
        state: State = "complete" if epoch == last else "failed" if ended else "pruned"
        learn(f"{order:03d}", curve, epoch, state)
        if epoch == last:
            study.tell(number, [curve.accuracy[-1], curve.cost])
            finished.append(curve.point)
            history.append((spent, pareto_front.hypervolume(np.array(finished), task.reference)))
            below_kept += bad
        elif ended:
            study.tell(number, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(number, state=optuna.trial.TrialState.PRUNED)
            stopped += 1
        start(time)
    epochs, volume = zip(*history, strict=True) if history else ((), ())
    return Outcome(
        epochs=tuple(epochs),
        volume=tuple(volume),
        trials=started,
        stopped=stopped,
        wasted=wasted,
        idle_kept=below_kept / below if below else 0.0,
    )


def _record(name: str, curve: Curve, epochs: int, state: State, *, baseline: bool) -> TrialRecord:
    """A replayed trial as a study's record would tell it."""
    run = RunRecord(
        run_id=name,
        trial_id=name,
        seed=0,
        state=state,
        epochs=epochs,
        accuracies=list(curve.accuracy[:epochs]),
    )
    if epochs:
        run.metrics = {VAL_ACCURACY: curve.accuracy[epochs - 1], STEP_FLOPS_RATIO: curve.cost}
    return TrialRecord(
        trial_id=name,
        label=name,
        params=dict(curve.params),
        baseline=baseline,
        optuna_number=None,
        seeds=1,
        runs=[run],
    )
