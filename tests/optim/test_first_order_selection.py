"""First-order selection beside per-row gradients of the head by autograd."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from esam_tune.optim import ESAM, MaskCycle, select_rows, step_flops_ratio

torch.set_num_threads(1)


def mlp(outputs=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, outputs)).double()


class Tokens(nn.Module):
    """A head that works on each of several positions of a row."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(4, 3, bias=False)
        self.late = nn.Linear(3, 3)

    def forward(self, x):
        return self.head(x).mean(dim=1)


class Recorded:
    """A closure that keeps the rows it was called with."""

    def __init__(self, losses):
        self.losses, self.rows = losses, []

    def __call__(self, rows):
        self.rows.append(rows)
        return self.losses(rows)


def expected_rows(model, head, losses, gamma, *, adaptive=False):
    """Rows by <grad l_i, direction> over the head's parameters, one backward pass for each row."""
    parameters = list(head.parameters())
    each = losses(None)
    direction = torch.autograd.grad(each.mean(), parameters, retain_graph=True)
    if adaptive:
        direction = [w.detach() ** 2 * d for w, d in zip(parameters, direction, strict=True)]
    scores = []
    for loss in each:
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
        scores.append(sum((g * d).sum() for g, d in zip(gradients, direction, strict=True)))
    return select_rows(torch.stack(scores), gamma)


def losses_of(model, x, loss):
    def losses(rows):
        picked = slice(None) if rows is None else rows
        return loss(model(x[picked]), picked)

    return losses


def data(rows=16, outputs=3):
    x = torch.randn(rows, 4, dtype=torch.float64)
    return x, torch.randint(outputs, (rows,)), torch.rand(rows, outputs, dtype=torch.float64)


def targets_loss(kind, y, soft):
    options = {"label smoothing": {"label_smoothing": 0.1}}.get(kind, {})
    targets = soft / soft.sum(dim=1, keepdim=True) if kind == "soft targets" else y

    def loss(outputs, picked):
        if kind == "squared":
            return (outputs - soft[picked]).square().sum(dim=1)
        return F.cross_entropy(outputs, targets[picked], reduction="none", **options)

    return loss


@pytest.mark.parametrize("kind", ["plain", "label smoothing", "soft targets", "squared"])
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize(
    "mask", [(True,) * 4, (True, False, False, False), (False, False, False, True)]
)
def test_scores_are_the_heads_share_of_the_increase(kind, adaptive, mask):
    model = mlp()
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = ESAM(
        base,
        model=model,
        selection="first_order",
        adaptive=adaptive,
        gamma=0.4,
        masks=MaskCycle([mask]),
    )
    for _ in range(5):
        x, y, soft = data()
        losses = Recorded(losses_of(model, x, targets_loss(kind, y, soft)))
        expected = expected_rows(model, model[2], losses.losses, 0.4, adaptive=adaptive)
        optimizer.step(losses)
        assert losses.rows[0] is None
        assert len(losses.rows) == 2  # no forward pass to select
        assert losses.rows[1].tolist() == expected.tolist()


def test_predicts_the_exact_increase_of_a_small_perturbation_of_the_head():
    model = mlp()
    x, y, soft = data()
    losses = Recorded(losses_of(model, x, targets_loss("plain", y, soft)))
    only_head = MaskCycle([(False, False, True, True)])
    picked = []
    for selection in ("exact", "first_order"):
        twin = copy.deepcopy(model)
        base = torch.optim.SGD(twin.parameters(), lr=0.1)
        losses = Recorded(losses_of(twin, x, targets_loss("plain", y, soft)))
        ESAM(base, model=twin, rho=1e-6, selection=selection, masks=only_head).step(losses)
        picked.append(losses.rows[-1].tolist())
    assert picked[0] == picked[1]


@pytest.mark.parametrize("named", ["head", "module"])
def test_positions_of_a_row_are_added_and_a_head_can_be_named(named):
    model = Tokens().double()
    x = torch.randn(10, 6, 4, dtype=torch.float64)
    y = torch.randint(3, (10,))
    losses = Recorded(losses_of(model, x, targets_loss("plain", y, None)))
    expected = expected_rows(model, model.head, losses.losses, 0.5)
    base = torch.optim.SGD(model.head.parameters(), lr=0.1)
    head = "head" if named == "head" else model.head
    ESAM(base, model=model, selection="first_order", head=head).step(losses)
    assert losses.rows[1].tolist() == expected.tolist()


def test_micro_batches_share_one_direction():
    x, y, _ = data(11)

    def stepped(parts):
        model = mlp()
        base = torch.optim.SGD(model.parameters(), lr=0.1)
        optimizer = ESAM(base, model=model, selection="first_order")
        closures = [losses_of(model, x[p], targets_loss("plain", y[p], None)) for p in parts]
        return optimizer.step(closures), list(model.parameters())

    losses, weights = stepped([slice(0, 4), slice(4, 11)])
    expected, others = stepped([slice(0, 11)])
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(weights, others, rtol=1e-10, atol=1e-13)


def test_leaves_no_hook_and_no_tensors_behind():
    model = mlp()
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = ESAM(base, model=model, selection="first_order")
    x, y, soft = data()
    optimizer.step(losses_of(model, x, targets_loss("plain", y, soft)))
    assert not model[2]._forward_hooks
    assert optimizer._recorder._features == []


def test_costs_less_than_exact_selection_by_a_forward_pass():
    def build(selection):
        return lambda model: ESAM(
            torch.optim.SGD(model.parameters(), lr=0.1), model=model, selection=selection
        )

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 256), nn.ReLU(), nn.Linear(256, 256), nn.Linear(256, 10))
    x, y = torch.randn(32, 32), torch.randint(10, (32,))
    exact, first = (step_flops_ratio(build(s), model, x, y) for s in ("exact", "first_order"))
    # A forward pass of this model is more than a third: its first layer needs no gradient of x.
    assert exact - first == pytest.approx(1 / 3, abs=0.03)


def test_refuses():
    model = mlp()
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="model must be given for selection='first_order'"):
        ESAM(base, selection="first_order")
    convolution = nn.Sequential(nn.Conv1d(1, 1, 1))
    with pytest.raises(ValueError, match=r"model must hold a torch\.nn\.Linear .* Sequential"):
        ESAM(base, selection="first_order", model=convolution)
    with pytest.raises(ValueError, match="head must name a layer of model, got 'fc'; it has '0'"):
        ESAM(base, selection="first_order", model=model, head="fc")
    with pytest.raises(TypeError, match=r"head must be a torch\.nn\.Linear, got Tanh"):
        ESAM(base, selection="first_order", model=model, head="1")
    with pytest.raises(ValueError, match="head must be a layer of model, got another Linear"):
        ESAM(base, selection="first_order", model=model, head=nn.Linear(1, 1))
    with pytest.raises(TypeError, match="head must be a name or"):
        ESAM(base, selection="first_order", model=model, head=3)


def test_a_head_that_does_not_run_is_named_in_the_error():
    model = Tokens().double()
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = ESAM(base, selection="first_order", model=model)  # finds `late`
    x = torch.randn(10, 6, 4, dtype=torch.float64)
    loss = targets_loss("plain", torch.randint(3, (10,)), None)
    with pytest.raises(ValueError, match=r"expected \[10\] rows, got \[\]. Name it by head="):
        optimizer.step(losses_of(model, x, loss))
    assert all(p.requires_grad for p in model.parameters())


def test_a_mask_that_the_logits_do_not_depend_on_scores_alike():
    # As exact selection does: that mask's perturbation is none, and ties go to the first rows.
    model = mlp()
    spare = nn.Parameter(torch.ones(2, dtype=torch.float64))
    base = torch.optim.SGD([spare, *model.parameters()], lr=0.1)
    mask = MaskCycle([(True,) + (False,) * 4])
    x, y, soft = data()
    picked = []
    for selection in ("exact", "first_order"):
        losses = Recorded(losses_of(model, x, targets_loss("plain", y, soft)))
        ESAM(base, model=model, selection=selection, masks=mask).step(losses)
        picked.append(losses.rows[-1].tolist())
    assert picked == [list(range(8))] * 2
