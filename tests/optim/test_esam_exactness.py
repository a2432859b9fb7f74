"""ESAM beside independent references in float64, over tens of steps."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esam_tune.optim import ESAM, BaseStep

torch.set_num_threads(1)

STEPS = 25
ROWS = 12


class Tied(nn.Module):
    """Shares a weight, freezes one, and owns one that no loss reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 7)
        self.square = nn.Linear(7, 7)
        self.again = nn.Linear(7, 7)
        self.again.weight = self.square.weight
        self.head = nn.Linear(7, 3)
        self.unused = nn.Parameter(torch.ones(2))
        self.first.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.square(torch.tanh(self.first(x))))
        return self.head(torch.tanh(self.again(hidden)))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(1)
    return Tied().double()


def batches(count: int = STEPS, rows: int = ROWS) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [
        (
            torch.randn(rows, 5, generator=generator, dtype=torch.float64),
            torch.randint(3, (rows,), generator=generator),
        )
        for _ in range(count)
    ]


def groups(model: nn.Module, *, own_rho: bool) -> list[dict[str, object]]:
    named = dict(model.named_parameters())
    head = [p for name, p in named.items() if name.startswith("head")]
    rest = [p for name, p in named.items() if not name.startswith("head")]
    second: dict[str, object] = {"params": head, "lr": 0.05, "weight_decay": 0.0}
    if own_rho:
        second["rho"] = 0.3
    return [{"params": rest}, second]


def sgd(model: nn.Module, *, own_rho: bool = False) -> torch.optim.SGD:
    return torch.optim.SGD(
        groups(model, own_rho=own_rho), lr=0.1, momentum=0.9, weight_decay=1e-2, nesterov=True
    )


def per_sample(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[Tensor | None], Tensor]:
    def closure(rows: Tensor | None) -> Tensor:
        if rows is not None:
            return F.cross_entropy(model(x[rows]), y[rows], reduction="none")
        return F.cross_entropy(model(x), y, reduction="none")

    return closure


class Reference:
    """The step of Du et al. written out with torch.autograd.grad, one tensor at a time."""

    def __init__(self, model, optimizer, *, rho, beta, gamma, adaptive) -> None:
        self.model, self.optimizer = model, optimizer
        self.rho, self.beta, self.gamma, self.adaptive = rho, beta, gamma, adaptive

    def step(self, x: Tensor, y: Tensor, mask: tuple[bool, ...]) -> Tensor:
        weights, rhos = [], []
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                if p.requires_grad:
                    weights.append(p)
                    rhos.append(group.get("rho", self.rho))
        losses = F.cross_entropy(self.model(x), y, reduction="none")
        grads = torch.autograd.grad(losses.mean(), weights, allow_unused=True)
        square = torch.zeros((), dtype=torch.float64)
        for w, g, keep in zip(weights, grads, mask, strict=True):
            if keep and g is not None:
                square += ((w.detach().abs() if self.adaptive else 1.0) * g).pow(2).sum()
        before = [w.detach().clone() for w in weights]
        with torch.no_grad():
            for w, g, keep, rho in zip(weights, grads, mask, rhos, strict=True):
                if keep and g is not None and square > 0:
                    size = w**2 if self.adaptive else 1.0
                    w += rho / self.beta * size * g / square.sqrt()
            raised = F.cross_entropy(self.model(x), y, reduction="none")
        count = max(1, round(self.gamma * len(x)))
        increase = (raised - losses.detach()).tolist()
        rows = sorted(range(len(x)), key=lambda i: (-increase[i], i))[:count]
        rows = torch.tensor(sorted(rows))
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(x[rows]), y[rows]).backward()
        with torch.no_grad():
            for w, old in zip(weights, before, strict=True):
                w.copy_(old)
        self.optimizer.step()
        return losses.detach()


class Recorded:
    """Keeps the masks that a source drew."""

    def __init__(self, source) -> None:
        self.source, self.drawn = source, []

    def draw(self, num_tensors: int) -> tuple[bool, ...]:
        self.drawn.append(self.source.draw(num_tensors))
        return self.drawn[-1]


@pytest.mark.parametrize("own_rho", [False, True])
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize(
    ("beta", "gamma"), [(1.0, 1.0), (1.0, 0.5), (0.5, 1.0), (0.6, 0.5), (0.3, 0.25), (0.1, 0.01)]
)
def test_follows_the_reference(model, beta, gamma, adaptive, own_rho):
    twin = copy.deepcopy(model)
    settings = {"rho": 0.1, "beta": beta, "gamma": gamma, "adaptive": adaptive}
    optimizer = ESAM(sgd(model, own_rho=own_rho), seed=3, **settings)
    optimizer.masks = Recorded(optimizer.masks)
    reference = Reference(twin, sgd(twin, own_rho=own_rho), **settings)
    for x, y in batches():
        losses = optimizer.step(per_sample(model, x, y))
        expected = reference.step(x, y, optimizer.masks.drawn[-1])
        torch.testing.assert_close(losses, expected, rtol=1e-9, atol=1e-12)
    for own, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-12)
    # The comparison has to be about something: the settings must matter.
    assert any((p.grad is not None and p.grad.abs().max() > 1e-3) for p in model.parameters())


def test_base_step_is_the_base_optimizer_bit_for_bit(model):
    twin = copy.deepcopy(model)
    optimizer, plain = BaseStep(sgd(model)), sgd(twin)
    for x, y in batches():
        optimizer.step(per_sample(model, x, y))
        plain.zero_grad()
        F.cross_entropy(twin(x), y, reduction="none").mean().backward()
        plain.step()
    for own, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(own, other)


def test_tends_to_the_base_optimizer_for_small_rho(model):
    twin = copy.deepcopy(model)
    optimizer, plain = ESAM(sgd(model), rho=0.0, gamma=1.0), BaseStep(sgd(twin))
    for x, y in batches():
        optimizer.step(per_sample(model, x, y))
        plain.step(per_sample(twin, x, y))
    for own, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(own, other)
