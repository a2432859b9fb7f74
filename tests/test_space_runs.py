"""The shipped spaces do what they say: the authors' settings, and steps of what they search."""

import math

import pytest
import torch
from conftest import REPOSITORY

from esam_tune import step_timer, training
from esam_tune.config import trial_settings
from esam_tune.study.dimensions import Choice, Range
from esam_tune.study.space import load_space
from esam_tune.tasks.splits import ArraySplit

torch.set_num_threads(1)

FOLDER = REPOSITORY / "search_spaces"
SPACES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
PAPER = [
    f"{data}_{model}"
    for data in ("cifar10", "cifar100")
    for model in ("resnet18", "wrn28_10", "pyramidnet110")
]
# The least images that a space's network takes at all keep its two steps affordable.
SIDES = {"small_cnn": 8, "resnet18_cifar": 8, "resnet50": 32, "resnet101": 32}
BATCH, CLASSES = 4, 10


def space(name):
    return load_space(FOLDER / f"{name}.yaml")


@pytest.mark.parametrize(
    ("model", "beta", "rho", "weight_decay", "batch", "workers", "epochs"),
    [
        ("resnet18", 0.6, 0.05, 1e-3, 64, 2, 200),
        ("wrn28_10", 0.5, 0.1, 1e-3, 1024, 2, 200),
        ("pyramidnet110", 0.5, 0.2, 5e-4, 64, 4, 300),
    ],
)
@pytest.mark.parametrize("data", ["cifar10", "cifar100"])
def test_the_authors_own_setting_runs_first(
    data, model, beta, rho, weight_decay, batch, workers, epochs
):
    spec = space(f"{data}_{model}")
    first = spec.baselines[0].params
    assert first["optimizer"] == "esam"
    assert (first["beta"], first["gamma"], first["rho"]) == (beta, 0.5, rho)
    trained = spec.training
    assert (trained.lr, trained.momentum, trained.weight_decay) == (0.05, 0.9, weight_decay)
    assert (trained.batch_size, trained.epochs) == (batch * workers, epochs)
    assert spec.task.reads("augment") == "crop_flip_cutout"


@pytest.mark.parametrize("name", [*PAPER, "imagenet_resnet50", "imagenet_resnet101"])
def test_the_papers_spaces_compare_with_sgd_and_sam(name):
    spec = space(name)
    assert [baseline.params["optimizer"] for baseline in spec.baselines] == ["esam", "sgd", "sam"]
    rho = spec.dimensions["rho"]
    published = spec.baselines[0].params["rho"]
    assert rho.log
    assert rho.low == pytest.approx(published / 5)
    assert rho.high == pytest.approx(published * 10)


def test_one_space_searches_learning_rate_and_weight_decay_and_one_optimizers_and_every():
    for name in ("lr", "weight_decay"):
        searched = space("cifar10_resnet18_lr").dimensions[name]
        assert isinstance(searched, Range)
        assert searched.contains(getattr(space("cifar10_resnet18").training, name))
    rivals = space("cifar100_resnet18_rivals").dimensions
    assert isinstance(rivals["optimizer"], Choice)
    assert {"esam", "looksam", "msam"} <= set(rivals["optimizer"].choices)
    assert (rivals["every"].low, rivals["every"].integer) == (1, True)


def made_split(task, name):
    """Images of the data set's kind, as few and as small as the network takes."""
    channels = 1 if task.dataset == "digits" else 3
    side = SIDES.get(task.model, 8)
    count = 2 * BATCH if name == "train" else BATCH
    generator = torch.Generator().manual_seed(0)
    shape = (count, channels, side, side)
    return ArraySplit(
        labels=torch.randint(CLASSES, (count,), generator=generator),
        num_classes=CLASSES,
        image_shape=shape[1:],
        mean=(128.0,) * channels,
        deviation=(64.0,) * channels,
        pixels=torch.randint(256, shape, dtype=torch.uint8, generator=generator),
        rows=torch.arange(count),
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", SPACES)
def test_two_steps_of_a_spaces_first_esam_setting_can_be_trained(name, monkeypatch):
    monkeypatch.setattr(training, "load_split", made_split)
    monkeypatch.setattr(step_timer, "_PAIRS", 1)
    # Counted for each network in test_models.
    monkeypatch.setattr(training, "count_flops_ratio", lambda settings, workers: math.nan)
    spec = space(name)
    params = next(b.params for b in spec.baselines if b.params["optimizer"] == "esam")
    document = spec.settings(params, {}).to_dict()
    document["training"] |= {"epochs": 1, "batch_size": BATCH, "warmup_epochs": 0}
    reports = []

    def report(metrics, state):
        reports.append(metrics)
        assert set(state()) > {"model", "optimizer"}

    trained = training.train(trial_settings(document), report)
    assert [metrics["epoch"] for metrics in reports] == [1]
    assert math.isfinite(reports[0]["train_loss"])
    assert 0.0 <= reports[0]["val_accuracy"] <= 1.0
    assert all(parameter.isfinite().all() for parameter in trained.parameters())
