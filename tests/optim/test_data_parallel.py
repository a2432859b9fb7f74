"""Two processes under DistributedDataParallel."""

import contextlib
import copy
import datetime
import traceback

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from esam_tune.optim import ESAM, MSAM, BaseStep, LookSAM
from esam_tune.optim.distributed import needs_same_mask_on_all_ranks

WORLD = 2


def net(norm=nn.BatchNorm1d):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 8), norm(8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)
    )


def closure_for(model, seed, rank):
    generator = torch.Generator().manual_seed(10 * seed + rank)
    x = torch.randn(8, 4, generator=generator)
    y = torch.randint(3, (8,), generator=generator)

    def closure(rows):
        picked = slice(None) if rows is None else rows
        return F.cross_entropy(model(x[picked]), y[picked], reduction="none")

    return closure


def all_reduced(counted, bucket):
    """A communication hook that averages, and counts the bytes it was given."""
    counted.append(bucket.buffer().numel() * bucket.buffer().element_size())
    future = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
    return future.then(lambda done: done.value()[0] / WORLD)


def same_on_all_ranks(tensor):
    gathered = [torch.empty_like(tensor) for _ in range(WORLD)]
    dist.all_gather(gathered, tensor.contiguous())
    return all(torch.equal(gathered[0], other) for other in gathered)


METHODS = {
    "base": BaseStep,
    "exact": lambda base, **kw: ESAM(base, rho=0.2, **kw),
    "first order": lambda base, **kw: ESAM(base, rho=0.2, selection="first_order", **kw),
    "sam": lambda base, **kw: ESAM(base, rho=0.2, beta=1.0, gamma=1.0, **kw),
    "msam": lambda base, **kw: MSAM(base, rho=0.2, **kw),
    "looksam": lambda base, **kw: LookSAM(base, rho=0.2, every=3, **kw),
}


def check_bytes_weights_and_perturbations(rank):
    per_step = {}
    for name, method in METHODS.items():
        counted = []
        model = DistributedDataParallel(net())
        model.register_comm_hook(counted, all_reduced)
        base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        optimizer = method(base, model=model)
        seen = []
        for seed in range(4):
            closure = closure_for(model, seed, rank)

            def watched(rows, closure=closure, seen=seen, model=model):
                seen.append(nn.utils.parameters_to_vector(model.parameters()).detach().clone())
                return closure(rows)

            before = sum(counted)
            optimizer.step(watched)
            per_step.setdefault(name, []).append(sum(counted) - before)
            assert all(same_on_all_ranks(p.detach()) for p in model.parameters()), name
        if name in ("exact", "first order", "sam"):
            assert not same_on_all_ranks(seen[-1]), name
    sgd_bytes = per_step["base"][0]
    assert sgd_bytes > 0
    for name in ("base", "exact", "first order", "sam", "msam"):
        assert per_step[name] == [sgd_bytes] * 4, (name, per_step)
    assert per_step["looksam"] == [2 * sgd_bytes, sgd_bytes, sgd_bytes, 2 * sgd_bytes]


def check_masks_differ_and_resume_from_one_ranks_state(rank):
    model = DistributedDataParallel(net())
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer = ESAM(base, model=model, seed=3)
    assert not same_on_all_ranks(torch.tensor(optimizer.masks.draw(60)).long())
    optimizer.step(closure_for(model, 0, rank))
    # What rank 0 saves serves every rank.
    saved = [copy.deepcopy((model.state_dict(), optimizer.state_dict()))]
    dist.broadcast_object_list(saved, src=0)
    twin = DistributedDataParallel(net())
    resumed = ESAM(torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9), model=twin)
    twin.load_state_dict(saved[0][0])
    resumed.load_state_dict(saved[0][1])
    for seed in (1, 2):
        optimizer.step(closure_for(model, seed, rank))
        resumed.step(closure_for(twin, seed, rank))
    for own, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(own, other)


def check_micro_batches_all_reduce_once(rank):
    counted = []
    # Two of 24 rows are selected: one micro-batch has none, and batch statistics of one row fail.
    model = DistributedDataParallel(net(nn.LayerNorm))
    model.register_comm_hook(counted, all_reduced)
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizers = (BaseStep(base, model=model), ESAM(base, model=model, gamma=0.1))
    for optimizer in optimizers:
        optimizer.step([closure_for(model, seed, rank) for seed in range(3)])
        assert all(same_on_all_ranks(p.detach()) for p in model.parameters())
    sent = sum(p.numel() * p.element_size() for p in model.parameters())
    assert sum(counted) == 2 * sent


def check_gradients_kept_in_buckets_change_nothing(rank):
    for method in METHODS.values():
        weights = []
        for as_view in (False, True):
            model = DistributedDataParallel(net(), gradient_as_bucket_view=as_view)
            base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
            optimizer = method(base, model=model)
            for seed in range(6):
                optimizer.step(closure_for(model, seed, rank))
            weights.append(nn.utils.parameters_to_vector(model.parameters()).detach())
        assert torch.equal(*weights)


def check_an_overflow_on_one_rank_skips_on_all(rank):
    model = DistributedDataParallel(net())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = ESAM(base, model=model, scaler=scaler)
    before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    closure, calls = closure_for(model, 0, rank), []

    def overflowing(rows):
        calls.append(rows)
        return closure(rows) * (torch.inf if rank == 1 and len(calls) == 1 else 1.0)

    optimizer.step(overflowing)
    assert scaler.get_scale() == 512.0
    assert torch.equal(nn.utils.parameters_to_vector(model.parameters()), before)


def check_sharded_weights_are_refused(rank):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = net()
    fully_shard(model, mesh=init_device_mesh("cpu", (WORLD,)))
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="model must not be sharded"):
        ESAM(base, model=model)
    with pytest.raises(ValueError, match="base_optimizer must not hold sharded parameters"):
        ESAM(base)


CHECKS = [
    check_bytes_weights_and_perturbations,
    check_masks_differ_and_resume_from_one_ranks_state,
    check_micro_batches_all_reduce_once,
    check_gradients_kept_in_buckets_change_nothing,
    check_an_overflow_on_one_rank_skips_on_all,
    check_sharded_weights_are_refused,
]


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=WORLD,
        timeout=datetime.timedelta(seconds=60),
    )
    for check in CHECKS:
        try:
            check(rank)
            message = "passed"
        except BaseException:
            message = traceback.format_exc()
            (folder / f"{check.__name__}.{rank}").write_text(message)
            raise
        (folder / f"{check.__name__}.{rank}").write_text(message)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Run all checks in one pair of processes: starting it is what takes the time."""
    folder = tmp_path_factory.mktemp("ranks")
    with contextlib.suppress(mp.ProcessRaisedException, mp.ProcessExitedException):
        mp.start_processes(work, (folder,), nprocs=WORLD, start_method="spawn")
    return folder


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_on_two_ranks(outcomes, check):
    for rank in range(WORLD):
        outcome = outcomes / f"{check.__name__}.{rank}"
        assert outcome.exists(), "an earlier check failed"
        assert outcome.read_text() == "passed"


def test_synchronised_batch_norm_needs_one_mask_for_all_ranks():
    plain = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(plain))
    assert not needs_same_mask_on_all_ranks(plain)
    base = torch.optim.SGD(synchronised.parameters(), lr=0.1)
    assert ESAM(base, model=synchronised).masks.shared
