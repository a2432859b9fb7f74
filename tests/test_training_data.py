"""Training on augmented images: that it resumes exactly, and that a step's passes see the same."""

import multiprocessing

import pytest
import torch
from image_files import write_images
from test_training import Reports, assert_same_weights, trained
from torch.nn.modules.module import register_module_forward_pre_hook

from esam_tune import step_timer
from esam_tune.config import trial_settings
from esam_tune.tasks.models.small_cnn import SmallCNN
from esam_tune.training import train

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def few_timed_steps(monkeypatch):
    monkeypatch.setattr(step_timer, "_PAIRS", 2)


def settings(epochs=2, augment="crop_flip_cutout", **params):
    task = {"dataset": "digits", "model": "small_cnn", "label_noise": 0.2, "augment": augment}
    return trial_settings(
        {
            "task": task,
            "training": {"epochs": epochs, "batch_size": 64, "lr": 0.05},
            "params": {"optimizer": "esam", "beta": 0.5, "gamma": 0.5, **params},
        }
    )


def test_a_run_on_augmented_images_resumes_bit_for_bit():
    run = settings(selection="first_order")
    reports, model = trained(run)
    cut = Reports(die_after=1)
    with pytest.raises(KeyboardInterrupt):
        train(run, cut)
    torch.manual_seed(4)
    rest, resumed = trained(run, resume=cut.states[0])
    assert cut.exact() + rest.exact() == reports.exact()
    assert_same_weights(resumed.state_dict(), model.state_dict())
    plain, _ = trained(settings(selection="first_order", augment="none"))
    assert plain.exact() != reports.exact()


def test_all_passes_of_a_step_see_the_same_augmented_images():
    passes = []

    def note(module, arguments):
        if isinstance(module, SmallCNN) and module.training:
            passes.append((module, arguments[0].clone()))

    hook = register_module_forward_pre_hook(note)
    try:
        _, model = trained(settings(epochs=1))
    finally:
        hook.remove()
    # The network is copied to count and to time steps: those passes are not the training's.
    seen = [images for module, images in passes if module is model]
    steps = [seen[start : start + 3] for start in range(0, len(seen), 3)]
    assert len(steps) == 1079 // 64
    for clean, selection, last in steps:
        assert torch.equal(clean, selection)
        assert (len(clean), len(last)) == (64, 32)
        known = {image.numpy().tobytes() for image in clean}
        assert {image.numpy().tobytes() for image in last} <= known
    assert not torch.equal(steps[0][0], steps[1][0])


def test_a_run_on_streamed_images_resumes_bit_for_bit_and_leaves_no_process(tmp_path, monkeypatch):
    monkeypatch.setenv("ESAM_TUNE_DATA", str(tmp_path / "kept"))
    images = write_images(tmp_path / "images", ["train", "test"], count=12)
    plain = {"dataset": "folder", "model": "small_cnn", "data_dir": str(images), "image_size": 8}
    run = trial_settings(
        {
            "task": {**plain, "augment": "crop_flip"},
            "training": {"epochs": 2, "batch_size": 8, "lr": 0.05},
            "params": {"optimizer": "esam", "beta": 0.5, "gamma": 0.5},
        }
    )
    before = multiprocessing.active_children()
    reports, model = trained(run)
    cut = Reports(die_after=1)
    with pytest.raises(KeyboardInterrupt):
        train(run, cut)
    torch.manual_seed(4)
    rest, resumed = trained(run, resume=cut.states[0])
    assert cut.exact() + rest.exact() == reports.exact()
    assert_same_weights(resumed.state_dict(), model.state_dict())
    assert multiprocessing.active_children() == before
    middle = trial_settings({**run.to_dict(), "task": {**plain, "augment": "none"}})
    assert trained(middle)[0].exact() != reports.exact()
