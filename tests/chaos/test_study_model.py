"""Whatever happens to a study's process and disk, it ends as the undisturbed one.

Histories of random events, made and shrunk by hypothesis, against the model: a study that nothing
disturbs. As Jepsen does it, but in one process, so that hundreds of histories take seconds.
"""

from __future__ import annotations

import functools
import os
import random
import tempfile
from collections import defaultdict
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from study_world import EPOCHS, World

HISTORIES = int(os.environ.get("ESAM_TUNE_CHAOS_HISTORIES", "40"))
SHARES = st.floats(min_value=0, max_value=1)


@functools.cache
def undisturbed(seeds: int) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), seeds, concurrent=1)
        world.finish()
        return world.told()


class Histories(RuleBasedStateMachine):
    """Random events, then an end without any, and the comparison."""

    concurrent = 1

    @initialize(seeds=st.integers(1, 2))
    def begin(self, seeds):
        self.folder = tempfile.TemporaryDirectory()
        self.seeds = seeds
        self.world = World(Path(self.folder.name), seeds, self.concurrent)

    @precondition(lambda self: self.world.room)
    @rule()
    def start(self):
        self.world.act(self.world.start)

    @precondition(lambda self: self.world.running)
    @rule(data=st.data(), times=st.integers(1, 4))
    def train(self, data, times):
        run_id = data.draw(st.sampled_from(sorted(self.world.running)))
        for _ in range(times):
            if run_id in self.world.running:
                self.world.act(lambda: self.world.report(run_id))

    @precondition(lambda self: self.world.running)
    @rule(data=st.data())
    def keep(self, data):
        run_id = data.draw(st.sampled_from(sorted(self.world.running)))
        self.world.act(lambda: self.world.checkpoint(run_id))

    @rule()
    def kill(self):
        self.world.die()

    @rule(after=st.integers(0, 3), share=SHARES)
    def kill_in_a_write(self, after, share):
        self.world.die_in_a_write(after, share)

    @rule(share=SHARES, zeroed=st.booleans())
    def power_loss(self, share, zeroed):
        self.world.lose_power(share, zeroed)

    @rule(writes=st.integers(1, 5))
    def full_disk(self, writes):
        self.world.full = writes

    @rule(seed=st.integers(0, 9))
    def lost_checkpoint(self, seed):
        self.world.lose_checkpoint(random.Random(seed))
        self.world.die()

    def teardown(self):
        if not hasattr(self, "world"):
            return
        try:
            self.world.act(self.world.finish)
            self.world.finish()
            self.check()
        finally:
            self.world.writer.close()
            self.folder.cleanup()

    def check(self):
        told, expected = self.world.told(), undisturbed(self.seeds)
        assert told == expected


class ConcurrentHistories(Histories):
    """With two runs at a time what the sampler knows depends on who ends first; counts do not."""

    concurrent = 2

    def check(self):
        told = self.world.told()
        by_kind = defaultdict(list)
        for event in told:
            by_kind[event["event"]].append(event["trial_id"])
        runs = by_kind["trial_start"] + by_kind["replicate_start"]
        spec = self.world.spec
        assert len(set(runs)) == len(runs)
        assert len(by_kind["trial_start"]) == spec.trials + len(spec.baselines)
        assert sorted(by_kind["trial_end"]) == sorted(runs)
        state = {e["trial_id"]: e["state"] for e in told if e["event"] == "trial_end"}
        epochs = defaultdict(list)
        for event in told:
            if event["event"] == "epoch":
                request = self.world.run._request_for(self.world.run.record.runs[event["trial_id"]])
                assert event["metrics"] == self.world.metrics(request, event["metrics"]["epoch"])
                epochs[event["trial_id"]].append(event["metrics"]["epoch"])
        for run_id in runs:
            assert epochs[run_id] == list(range(1, len(epochs[run_id]) + 1))
            assert state[run_id] != "complete" or len(epochs[run_id]) == EPOCHS
        for trial in self.world.run.record.trials.values():
            if trial.state == "complete":
                assert len(trial.complete_runs) == self.seeds


CHECKS = settings(
    max_examples=HISTORIES,
    stateful_step_count=30,
    suppress_health_check=list(HealthCheck),
)
TestHistories = Histories.TestCase
TestHistories.settings = CHECKS
TestConcurrentHistories = ConcurrentHistories.TestCase
TestConcurrentHistories.settings = CHECKS
