import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esam_tune.optim import BernoulliMasks, MaskCycle, stratified_masks


def test_same_seed_same_masks_other_seed_others():
    def drawn(seed):
        source = BernoulliMasks(0.5, seed=seed)
        return [source.draw(20) for _ in range(10)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert len(set(drawn(1))) == 10


def test_masks_do_not_touch_or_follow_the_global_generator_and_defaults():
    expected = BernoulliMasks(0.5, seed=4).draw(50)
    torch.manual_seed(9)
    before = torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            assert BernoulliMasks(0.5, seed=4).draw(50) == expected
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("beta", [0.2, 0.5, 0.9])
def test_each_tensor_is_kept_with_probability_beta_and_independently(beta):
    source = BernoulliMasks(beta, seed=0)
    masks = torch.tensor([source.draw(10) for _ in range(4000)], dtype=torch.float64)
    spread = 4.5 * (beta * (1 - beta) / 4000) ** 0.5
    # At beta = 0.2 an empty draw (10.7 %) is filled with one of ten tensors.
    expected = beta + (1 - beta) ** 10 / 10
    assert (masks.mean(dim=0) - expected).abs().max() < spread
    # The refill of empty draws correlates tensors by at most P(empty), negligible at 0.5 and 0.9.
    if beta > 0.2:
        correlation = torch.corrcoef(masks.T) - torch.eye(10)
        assert correlation.abs().max() < 5 / 4000**0.5


def test_an_empty_draw_is_replaced_by_one_tensor_chosen_uniformly():
    source = BernoulliMasks(1e-6, seed=0)
    masks = torch.tensor([source.draw(4) for _ in range(2000)])
    assert (masks.sum(dim=1) == 1).all()
    assert (masks.double().mean(dim=0) - 0.25).abs().max() < 0.05


def test_beta_one_keeps_everything():
    assert BernoulliMasks(1.0).draw(3) == (True, True, True)


def test_ranks_draw_different_masks_unless_shared(monkeypatch):
    def drawn(rank, *, shared):
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
        return BernoulliMasks(0.5, seed=1, shared=shared).draw(40)

    assert drawn(0, shared=False) != drawn(1, shared=False)
    assert drawn(0, shared=True) == drawn(1, shared=True)


def test_state_resumes_the_sequence():
    source = BernoulliMasks(0.5, seed=1)
    for _ in range(3):
        source.draw(8)
    state = source.state_dict()
    expected = [source.draw(8) for _ in range(3)]
    resumed = BernoulliMasks(0.5, seed=77)
    resumed.load_state_dict(state)
    assert [resumed.draw(8) for _ in range(3)] == expected


@settings(max_examples=60)
@given(
    num_tensors=st.integers(1, 30),
    beta=st.floats(0.01, 1.0),
    count=st.integers(1, 40),
    seed=st.integers(0, 2**31),
)
def test_stratified_masks_keep_each_tensor_in_its_share(num_tensors, beta, count, seed):
    masks = stratified_masks(num_tensors, beta, count, seed)
    assert len(masks) == count
    assert all(any(mask) and len(mask) == num_tensors for mask in masks)
    assert masks == stratified_masks(num_tensors, beta, count, seed)
    kept = torch.tensor(masks).sum(dim=0)
    if num_tensors * int(beta * count) >= count:  # enough for no mask to be empty
        assert ((kept - beta * count).abs() < 1 + 1e-9).all()


def test_mask_cycle_repeats_and_resumes():
    masks = [(True, False), (False, True), (True, True)]
    source = MaskCycle(masks)
    assert [source.draw(2) for _ in range(4)] == [*masks, masks[0]]
    other = MaskCycle(masks)
    other.load_state_dict(source.state_dict())
    assert other.draw(2) == masks[1]


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        ([], "at least 1 mask"),
        ([(True,), (True, True)], r"masks\[1\] must have 1 entries"),
        ([(True,), (False,)], r"masks\[1\] must keep"),
    ],
)
def test_mask_cycle_refuses(masks, words):
    with pytest.raises(ValueError, match=words):
        MaskCycle(masks)


def test_mask_cycle_refuses_another_number_of_tensors():
    with pytest.raises(ValueError, match="each of the 3 trainable"):
        MaskCycle([(True, False)]).draw(3)
