"""The random streams of a process: seeded together, kept and restored together."""

import io
import random

import numpy as np
import pytest
import torch

from esam_tune.random_streams import restore_streams, seed_streams, streams_state

CPU = torch.device("cpu")


def drawn():
    """The next numbers of each stream, of every kind that a stream keeps something for."""
    return (
        torch.randn(3).tolist(),
        torch.rand(1).item(),
        np.random.standard_normal(3).tolist(),
        np.random.random(),
        random.gauss(0, 1),
        random.random(),
    )


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_all_streams_go_on_from_where_they_were_kept():
    seed_streams(3)
    drawn()
    kept = through_a_file(streams_state(CPU))
    # Keeping the streams moves none of them.
    following = [drawn() for _ in range(3)]
    seed_streams(4)
    drawn()
    restore_streams(kept, CPU)
    assert [drawn() for _ in range(3)] == following


@pytest.mark.parametrize("seed", [0, 7, 2**31 - 1, 2**33 + 5])
def test_a_seed_begins_all_streams_anew(seed):
    seed_streams(seed)
    first = drawn()
    seed_streams(seed + 1)
    other = drawn()
    assert all(a != b for a, b in zip(first, other, strict=True))
    restore_streams({"seed": seed}, CPU)
    assert drawn() == first


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpus_stream_is_kept_with_the_others():
    device = torch.device("cuda", torch.cuda.current_device())
    seed_streams(3)
    kept = through_a_file(streams_state(device))
    first = torch.rand(3, device=device)
    restore_streams(kept, device)
    assert torch.equal(torch.rand(3, device=device), first)
    # A run that began on the CPU goes on there with the GPU's stream as it is.
    del kept["cuda"]
    restore_streams(kept, device)
    assert not torch.equal(torch.rand(3, device=device), first)
