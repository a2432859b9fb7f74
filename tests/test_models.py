"""The networks: their published sizes, what images they take, and that ESAM can train them."""

import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from esam_tune.errors import InputError
from esam_tune.optim import ESAM, BaseStep, count_step_flops, step_flops_ratio
from esam_tune.optim.head import find_head
from esam_tune.tasks.models import NETWORKS, build_model, check_model

torch.set_num_threads(1)


def square(size, channels=3):
    return (channels, size, size)


def smallest(name):
    """The least shape that a network takes."""
    return square(NETWORKS[name].smallest)


def on_meta(name, num_classes, size=None):
    shape = smallest(name) if size is None else square(size)
    return build_model(name, shape, num_classes, 0, device="meta")


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)


def test_the_small_network_has_the_parameters_of_its_layers():
    convolutions = 9 * (3 * 32 + 32 * 64 + 64 * 64) + 2 * (32 + 64 + 64)
    assert parameters(on_meta("small_cnn", 10)) == convolutions + 65 * 10


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "num_classes", "size", "published"),
    [
        # He et al., CVPR 2016, give no figure for this stem. The sum of its layers:
        # 9*64*3 + 4*9*64^2 + (9*64 + 3*9*128 + 64)*128 + ... is that of torchvision's ResNet-18
        # (11,689,512, its weights' metadata) with 9*64*3 instead of 49*64*3 weights in the stem and
        # 513 * 10 instead of 513 * 1000 in the head.
        ("resnet18_cifar", 10, 32, 11_689_512 - 40 * 64 * 3 - 990 * 513),
        # Zagoruyko and Komodakis, table 4: 36.5M.
        ("wide_resnet28_10", 10, 32, 36_479_194),
        ("wide_resnet28_10", 100, 32, 36_536_884),
        # imgclsmob's model table, 28,485,477. The authors' own (jhkim89/PyramidNet, readme) says
        # 28.3M and an output of 286 channels, which is checked below.
        ("pyramidnet110_a270", 10, 32, 28_485_477),
        ("pyramidnet110_a270", 100, 32, 28_511_307),
        # The metadata of torchvision's weights, which the next test reads.
        ("resnet18", 1000, 224, 11_689_512),
        ("resnet50", 1000, 224, 25_557_032),
        ("resnet101", 1000, 224, 44_549_160),
        # Touvron et al., table 1: 22M (DeiT-S, the same without distillation).
        ("vit_s_16", 1000, 224, 22_050_664),
    ],
)
def test_a_network_has_as_many_parameters_as_published(name, num_classes, size, published):
    assert parameters(on_meta(name, num_classes, size)) == published


def test_the_counts_of_torchvisions_networks_are_in_the_metadata_of_its_weights():
    from torchvision.models import ResNet18_Weights, ResNet50_Weights, ResNet101_Weights

    for name, weights in [
        ("resnet18", ResNet18_Weights),
        ("resnet50", ResNet50_Weights),
        ("resnet101", ResNet101_Weights),
    ]:
        meta = weights.IMAGENET1K_V1.meta
        assert parameters(on_meta(name, 1000, 224)) == meta["num_params"]


@pytest.mark.parametrize(
    ("name", "size", "billions"),
    [
        # torchvision's metadata (_ops, multiply-accumulates of one image): 1.814, 4.089, 7.801.
        ("resnet18", 224, 1.814),
        ("resnet50", 224, 4.089),
        ("resnet101", 224, 7.801),
        # Touvron et al. name 4.6; this counts attention's products too.
        ("vit_s_16", 224, 4.6),
        # imgclsmob's table: 4.73 for PyramidNet-110 (alpha 270), 5.25 for WRN-28-10, with the
        # elementwise operations that are not counted here.
        ("pyramidnet110_a270", 32, 4.73),
        ("wide_resnet28_10", 32, 5.25),
    ],
)
def test_a_forward_pass_costs_what_is_published(name, size, billions):
    model = on_meta(name, 1000 if size == 224 else 10, size)
    images = torch.empty(1, 3, size, size, device="meta")
    labels = torch.zeros(1, dtype=torch.int64, device="meta")
    step = count_step_flops(
        lambda copied: BaseStep(sgd(copied), model=copied), model, images, labels, num_masks=1
    )
    # A step is nearly three forward passes, of two operations for each multiply-accumulate; the
    # images need no gradient.
    assert step / 6 == pytest.approx(billions * 1e9, rel=0.03)


def test_the_pyramid_grows_by_five_channels_a_block_to_286():
    blocks = on_meta("pyramidnet110_a270", 10).blocks
    widths = [block.conv2.out_channels for block in blocks]
    assert widths == list(range(21, 287, 5))
    assert [i for i, block in enumerate(blocks) if block.conv1.stride == (2, 2)] == [18, 36]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_head_gives_the_logits(name):
    model = on_meta(name, 7)
    head = find_head(model, None)
    seen = []
    head.register_forward_hook(lambda module, args, output: seen.append(output))
    shape = smallest(name)
    logits = model(torch.empty(4, *shape, device="meta"))
    assert logits.shape == (4, 7)
    assert seen[0] is logits


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("selection", ["exact", "first_order"])
def test_the_cost_of_an_esam_step_can_be_counted(name, selection):
    shape = smallest(name)
    images = torch.empty(8, *shape, device="meta")
    labels = torch.zeros(8, dtype=torch.int64, device="meta")

    def build(model):
        return ESAM(sgd(model), beta=0.5, gamma=0.5, selection=selection, model=model)

    ratio = step_flops_ratio(build, on_meta(name, 10), images, labels, num_masks=2)
    expected = 5 / 3 if selection == "exact" else 4 / 3
    assert ratio == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "resnet101"])
def test_an_esam_step_changes_every_weight_and_keeps_them_finite(name):
    shape = smallest(name)
    model = build_model(name, shape, 5, 0)
    if name == "vit_s_16":
        # Its head starts at zero, and then lets no gradient through.
        torch.nn.init.normal_(find_head(model, None).weight, std=0.01)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, *shape, generator=generator)
    labels = torch.tensor([0, 1, 2, 3])
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = ESAM(
        sgd(model), rho=0.05, beta=0.5, gamma=0.5, selection="first_order", model=model
    )

    def closure(rows):
        picked = slice(None) if rows is None else rows
        return F.cross_entropy(model(images[picked]), labels[picked], reduction="none")

    losses = optimizer.step(closure)
    assert losses.shape == (4,)
    assert losses.isfinite().all()
    for (key, parameter), old in zip(model.named_parameters(), before, strict=True):
        assert parameter.isfinite().all(), key
        # A bias in front of BatchNorm or of the softmax over keys may get a zero gradient.
        assert parameter.dim() == 1 or not torch.equal(parameter, old), key


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("channels", [1, 4])
def test_a_network_takes_images_of_any_number_of_channels(name, channels):
    shape = square(NETWORKS[name].smallest, channels)
    model = build_model(name, shape, 3, 0, device="meta")
    images = torch.empty(2, *shape, device="meta")
    assert model(images).shape == (2, 3)


@pytest.mark.parametrize("name", [name for name in NETWORKS if NETWORKS[name].patch == 1])
@pytest.mark.parametrize("added", [1, 5])
def test_a_convolutional_network_takes_images_of_odd_sizes(name, added):
    height = NETWORKS[name].smallest + added
    shape = (3, height, height + 2)
    model = build_model(name, shape, 3, 0, device="meta")
    assert model(torch.empty(2, *shape, device="meta")).shape == (2, 3)


def test_a_vision_transformer_has_a_position_for_each_patch():
    assert on_meta("vit_s_16", 10, 64).encoder.pos_embedding.shape == (1, 17, 384)


@pytest.mark.parametrize(
    ("name", "shape", "problem", "remedy"),
    [
        ("vit_s_16", square(8), "at least 32x32 pixels, got a data set of 8x8", "resnet18_cifar"),
        ("resnet50", square(28), "at least 32x32 pixels", "resnet18_cifar"),
        ("vit_s_16", square(40), "square images of a multiple of 16 pixels", "another image size"),
        (
            "vit_s_16",
            (3, 32, 64),
            "square images of a multiple of 16 pixels, got a data set of 32x64",
            "another image size",
        ),
        ("small_cnn", square(1), "at least 2x2 pixels", "a data set of larger images"),
    ],
)
def test_a_network_that_does_not_fit_the_images_is_refused(name, shape, problem, remedy):
    for use in (check_model, lambda *args: build_model(*args, 10, 0)):
        with pytest.raises(InputError, match=problem) as caught:
            use(name, shape)
        assert caught.value.field == "task.model"
        assert remedy in caught.value.remedy


@pytest.mark.parametrize("name", NETWORKS)
def test_the_least_images_that_a_network_takes_are_taken(name):
    check_model(name, smallest(name))
    with pytest.raises(InputError):
        check_model(name, square(NETWORKS[name].smallest - 1))


@pytest.mark.parametrize("name", ["small_cnn", "resnet18_cifar"])
def test_initial_weights_depend_on_the_seed_and_leave_the_generator_alone(name):
    torch.manual_seed(11)
    before = torch.get_rng_state()
    models = [build_model(name, square(8, 1), 10, seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    first, again, other = (torch.cat([p.flatten() for p in m.parameters()]) for m in models)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", ["wide_resnet28_10", "pyramidnet110_a270"])
def test_signals_neither_die_nor_grow_through_the_depth(name):
    model = build_model(name, square(8), 10, 0)
    images = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    loss = F.cross_entropy(model(images), torch.arange(16) % 10)
    loss.backward()
    assert 1.0 < loss.item() < 6.0
    stem = next(model.parameters())
    assert 1e-4 < stem.grad.norm().item() < 1e3


def test_networks_that_are_not_torchvisions_do_not_import_it():
    code = (
        "import sys; from esam_tune.tasks.models import build_model\n"
        "for name in ('small_cnn', 'wide_resnet28_10', 'pyramidnet110_a270'):\n"
        "    build_model(name, (3, 8, 8), 10, 0, device='meta')\n"
        "sys.exit('torchvision' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
