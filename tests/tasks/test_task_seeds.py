"""One seed for many purposes."""

import pytest
import torch

from esam_tune.tasks.seeds import seeded


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1])
def test_purposes_and_seeds_have_streams_of_their_own(seed):
    def drawn(seed, purpose):
        return torch.rand(200, generator=seeded(seed, purpose), dtype=torch.float64)

    own = drawn(seed, "order")
    assert torch.equal(own, drawn(seed, "order"))
    for other in (
        drawn(seed, "augmentation"),
        drawn(seed + 1, "order"),
        drawn(seed + 2**32, "order"),
    ):
        assert abs(torch.corrcoef(torch.stack([own, other]))[0, 1]) < 0.3
    plain = torch.rand(200, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert not torch.equal(own, plain)
