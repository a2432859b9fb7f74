"""The scores of a split: the same however many workers share it out."""

import pytest
import torch

from esam_tune.computation import Computation
from esam_tune.config import TaskSettings, TrainingSettings
from esam_tune.tasks.data import load_split
from esam_tune.tasks.models import build_model
from esam_tune.training import evaluate
from esam_tune.worker import Worker

torch.set_num_threads(1)

PLAIN = Computation(TrainingSettings(epochs=1, batch_size=1, lr=0.1), torch.device("cpu"))


class Together:
    """Workers that take turns in one process, and what each brings to their sums.

    The first round collects; in the second each gets the total, as an all-reduce would give it.
    """

    def __init__(self, workers):
        self.brought = {}
        self.total = None
        team = self

        class Member(Worker):
            def sum(self, values):
                if team.total is None:
                    team.brought[self.rank] = values.clone()
                    return values
                return team.total.clone()

        self.members = [Member(rank=rank, workers=workers) for rank in range(workers)]

    def scores(self, model, split):
        """What each reports."""
        for member in self.members:
            evaluate(model, split, member, PLAIN)
        self.total = sum(self.brought.values())
        return [evaluate(model, split, member, PLAIN) for member in self.members]


@pytest.fixture(scope="module")
def split():
    return load_split(TaskSettings(dataset="digits", model="small_cnn"), "val")


@pytest.fixture(scope="module")
def model(split):
    return build_model("small_cnn", split.image_shape, split.num_classes, 0)


@pytest.mark.parametrize("workers", [2, 3, 7])
def test_each_of_several_workers_reports_the_scores_of_the_whole_split(model, split, workers):
    assert len(split) % workers
    loss, accuracy = evaluate(model, split, Worker(), PLAIN)
    team = Together(workers)
    for other_loss, other_accuracy in team.scores(model, split):
        assert other_loss == pytest.approx(loss, rel=1e-6)
        assert other_accuracy == accuracy
    # Each has its own share: no image is looked at twice, none by nobody.
    assert len(team.brought) == workers
    right = [brought[1].item() for brought in team.brought.values()]
    assert all(0 < count < sum(right) for count in right)
    assert sum(right) == pytest.approx(accuracy * len(split))


def test_a_worker_without_a_share_takes_part_all_the_same(model, split):
    few = split.with_labels(split.labels[:2])
    team = Together(3)
    whole = evaluate(model, few, Worker(), PLAIN)
    assert team.scores(model, few) == [pytest.approx(whole, rel=1e-6)] * 3
    assert team.brought[2].tolist() == [0.0, 0.0]


def test_the_network_trains_on_afterwards(model, split):
    model.train()
    evaluate(model, split, Worker(), PLAIN)
    assert model.training
