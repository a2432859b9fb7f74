"""Validated settings: what one run trains, how, and with which optimizer parameters."""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any

from esam_tune.domains import (
    COUNT,
    NOT_NEGATIVE,
    POSITIVE,
    SEED,
    SHARE,
    Domain,
    Value,
    check_keys,
    check_places,
)
from esam_tune.errors import InputError


@dataclass(frozen=True, kw_only=True)
class OptimizerKind:
    """An optimizer a trial may use: the hyperparameters it reads, with their defaults."""

    label: str
    defaults: Mapping[str, Value]


OPTIMIZERS: dict[str, OptimizerKind] = {
    "sgd": OptimizerKind(label="SGD", defaults={}),
    "sam": OptimizerKind(label="SAM", defaults={"rho": 0.05, "every": 1}),
    "asam": OptimizerKind(label="ASAM", defaults={"rho": 0.5, "every": 1}),
    "esam": OptimizerKind(
        label="ESAM",
        defaults={
            "beta": 0.6,
            "gamma": 0.5,
            "rho": 0.05,
            "selection": "exact",
            "adaptive": False,
            "every": 1,
        },
    ),
    "looksam": OptimizerKind(label="LookSAM", defaults={"rho": 0.05, "alpha": 0.7, "every": 5}),
    "msam": OptimizerKind(label="MSAM", defaults={"rho": 0.5}),
}

SELECTIONS = ("exact", "first_order")

HYPERPARAMETERS: dict[str, Domain] = {
    "beta": SHARE,
    "gamma": SHARE,
    "rho": NOT_NEGATIVE,
    "selection": Domain(kind=str, choices=SELECTIONS),
    "adaptive": Domain(kind=bool),
    "every": COUNT,
    "alpha": NOT_NEGATIVE,
}

PRECISIONS = ("fp32", "bf16", "fp16")

TRAINING: dict[str, Domain] = {
    "epochs": COUNT,
    "batch_size": COUNT,
    "lr": POSITIVE,
    "momentum": Domain(kind=float, low=0.0, high=1.0, high_open=True),
    "weight_decay": NOT_NEGATIVE,
    "label_smoothing": Domain(kind=float, low=0.0, high=1.0, high_open=True),
    "warmup_epochs": Domain(kind=int, low=0),
    "precision": Domain(kind=str, choices=PRECISIONS),
    "channels_last": Domain(kind=bool),
    "compile": Domain(kind=bool),
}

# A trial may change how it is trained, but not for how long: trials of one study stay comparable.
TRIAL_TRAINING = ("batch_size", "lr", "momentum", "weight_decay")

PARAMETERS: dict[str, Domain] = {
    "optimizer": Domain(kind=str, choices=tuple(OPTIMIZERS)),
    **HYPERPARAMETERS,
    **{name: TRAINING[name] for name in TRIAL_TRAINING},
}


# What is done to a training image, by the name's parts: a random crop (padding by an eighth of the
# side; for streamed images a crop of random size and shape), a horizontal flip of every other
# image, a square of half the side cut out of every other image.
AUGMENTATIONS = ("none", "crop", "crop_flip", "crop_cutout", "crop_flip_cutout")

# Data set -> the task's settings it reads beside those that all read, with their defaults.
DATASETS: dict[str, Mapping[str, Value | None]] = {
    "digits": {"augment": "none"},
    "cifar10": {"data_dir": None, "val_share": 0.1, "augment": "crop_flip_cutout"},
    "cifar100": {"data_dir": None, "val_share": 0.1, "augment": "crop_flip_cutout"},
    "glyphs": {"data_dir": None, "samples": 20_000, "val_share": 0.1, "augment": "none"},
    "imagenet": {"data_dir": None, "image_size": 224, "val_share": 0.02, "augment": "crop_flip"},
    "folder": {"data_dir": None, "image_size": 224, "val_share": 0.1, "augment": "crop_flip"},
}


@dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """What is trained: data, its splits and the network.

    A setting left at None has the data set's own default, see :meth:`reads`.

    Args:
        dataset: name of a data set.
        model: name of a network.
        label_noise: share of the training labels that is replaced by another class, in [0, 1).
        split_seed: fixes the train, validation and test splits and the label noise; of ``glyphs``
            the images, too.
        data_dir: folder that keeps (and receives) ``cifar10``, ``cifar100`` and ``glyphs``; of
            ``imagenet`` and ``folder`` the folder of the images itself.
        samples: images of ``glyphs`` for training and validation together.
        image_size: side in pixels that streamed images are brought to.
        val_share: share of the training images that is kept for validation, in (0, 0.5].
        augment: what is done to training images, one of ``AUGMENTATIONS``.
    """

    dataset: str
    model: str
    label_noise: float = 0.0
    split_seed: int = 0
    data_dir: str | None = None
    samples: int | None = None
    image_size: int | None = None
    val_share: float | None = None
    augment: str | None = None

    def reads(self, setting: str) -> Any:
        """The value of a setting that the data set reads, or its default."""
        own = getattr(self, setting)
        return DATASETS[self.dataset][setting] if own is None else own


MODELS = (
    "small_cnn",
    "resnet18_cifar",
    "resnet18",
    "wide_resnet28_10",
    "pyramidnet110_a270",
    "resnet50",
    "resnet101",
    "vit_s_16",
)

TASK: dict[str, Domain] = {
    "dataset": Domain(kind=str, choices=tuple(DATASETS)),
    "model": Domain(kind=str, choices=MODELS),
    "label_noise": Domain(kind=float, low=0.0, high=1.0, high_open=True),
    "split_seed": SEED,
    "data_dir": Domain(kind=str),
    "samples": Domain(kind=int, low=1_000, high=1_000_000),
    "image_size": Domain(kind=int, low=8, high=1_024),
    "val_share": Domain(kind=float, low=0.0, high=0.5, low_open=True),
    "augment": Domain(kind=str, choices=AUGMENTATIONS),
}


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How it is trained: SGD with momentum under a cosine learning rate.

    Args:
        epochs: passes over the training split.
        batch_size: samples of one step, over all workers of the trial together.
        lr: initial learning rate.
        momentum: SGD's momentum.
        weight_decay: SGD's weight decay.
        label_smoothing: share of each training label that is spread evenly over all classes.
        warmup_epochs: epochs at the start with a linearly rising learning rate, fewer than
            ``epochs``.
        precision: of the passes; weights stay float32. ``bf16`` and ``fp16`` are autocast's, the
            latter with loss scaling and on a GPU alone.
        channels_last: whether images and convolutions lie in memory with channels last, which is
            what tensor cores want.
        compile: whether steps run through ``torch.compile``. ESAM's weight perturbation then
            saves no time, whatever beta: see docs/esam.md.
    """

    epochs: int
    batch_size: int
    lr: float
    momentum: float = 0.9
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    warmup_epochs: int = 0
    precision: str = "fp32"
    channels_last: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        """Check what concerns two settings together."""
        if self.warmup_epochs >= self.epochs:
            raise InputError(
                "training.warmup_epochs",
                f"must be less than the {self.epochs} epochs, got {self.warmup_epochs}",
                "use fewer, or more epochs",
            )


def check_precision(training: TrainingSettings, *, gpu: bool) -> None:
    """Require a precision that the workers' devices offer.

    Raises:
        InputError: for fp16 without a GPU.
    """
    if training.precision == "fp16" and not gpu:
        raise InputError(
            "training.precision",
            "fp16 needs a CUDA GPU, and the workers have none",
            "use bf16, which needs no loss scaling, or fp32",
        )


def _section(name: str, cls: Any, domains: Mapping[str, Domain], received: object) -> Any:
    required = [f.name for f in fields(cls) if f.default is MISSING]
    check_keys(name, received, domains, required)
    assert isinstance(received, Mapping)
    # Documents that were written from settings hold None where a setting was left to its default.
    unset = {f.name for f in fields(cls) if f.default is None}
    given = {k: v for k, v in received.items() if not (v is None and k in unset)}
    return cls(**{key: domains[key].check(f"{name}.{key}", v) for key, v in given.items()})


def task_settings(received: object) -> TaskSettings:
    """Validate the ``task`` section of a file.

    Raises:
        InputError: for an unknown key, a value out of bounds, or a setting that the data set does
            not read.
    """
    settings: TaskSettings = _section("task", TaskSettings, TASK, received)
    used = DATASETS[settings.dataset]
    every = {key for reads in DATASETS.values() for key in reads}
    for key in sorted(every - set(used)):
        if getattr(settings, key) is not None:
            raise InputError(
                f"task.{key}",
                f"{settings.dataset} does not read it, got {getattr(settings, key)!r}",
                "remove it or use another data set",
            )
    return settings


def training_settings(received: object) -> TrainingSettings:
    """Validate the ``training`` section of a file."""
    settings: TrainingSettings = _section("training", TrainingSettings, TRAINING, received)
    return settings


def complete_params(name: str, received: object) -> dict[str, Value]:
    """Validate one trial's parameters and fill in the optimizer's defaults.

    Raises:
        InputError: for an unknown parameter, a value out of bounds, or a hyperparameter that the
            optimizer does not read.
    """
    check_keys(name, received, PARAMETERS, ["optimizer"])
    assert isinstance(received, Mapping)
    params = {key: PARAMETERS[key].check(f"{name}.{key}", v) for key, v in received.items()}
    optimizer = str(params["optimizer"])
    used = OPTIMIZERS[optimizer].defaults
    for key in params:
        if key in HYPERPARAMETERS and key not in used:
            raise InputError(
                f"{name}.{key}",
                f"{optimizer} does not read it, got {params[key]!r}",
                "remove it or use another optimizer",
            )
    ordered: dict[str, Value] = {"optimizer": optimizer}
    ordered.update({key: params.get(key, default) for key, default in used.items()})
    ordered.update({key: v for key, v in params.items() if key in TRIAL_TRAINING})
    return ordered


@dataclass(frozen=True, kw_only=True)
class TrialSettings:
    """Everything that fixes one run; what a settings file holds.

    Args:
        task: what is trained.
        training: how; entries of ``params`` such as ``lr`` are already merged into it.
        params: the trial's parameters, ``optimizer`` among them.
        seed: fixes initial weights, sample order and the optimizer's masks.
        origin: the study and trial it was chosen from, for the record.
    """

    task: TaskSettings
    training: TrainingSettings
    params: Mapping[str, Value]
    seed: int = 0
    origin: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as :func:`trial_settings` reads them."""
        document = asdict(self)
        document["params"] = dict(self.params)
        document["origin"] = dict(self.origin)
        return document


def trial_settings(received: object) -> TrialSettings:
    """Validate a settings document.

    Raises:
        InputError: naming the field that is wrong.
    """
    known = [f.name for f in fields(TrialSettings)]
    sections = {"": known, "task": TASK, "training": TRAINING, "params": PARAMETERS}
    check_places(received, sections)
    check_keys("", received, known, ["task", "training", "params"])
    assert isinstance(received, Mapping)
    origin = {} if received.get("origin") is None else received["origin"]
    if not isinstance(origin, Mapping):
        raise InputError("origin", f"must be a mapping, got {origin!r}", "remove it")
    params = complete_params("params", received["params"])
    training = training_settings(received["training"])
    overrides: dict[str, Any] = {key: params[key] for key in TRIAL_TRAINING if key in params}
    return TrialSettings(
        task=task_settings(received["task"]),
        training=TrainingSettings(**{**asdict(training), **overrides}),
        params=params,
        seed=int(SEED.check("seed", received.get("seed", 0))),
        origin=dict(origin),
    )
