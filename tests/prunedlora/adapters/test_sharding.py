import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from prunedlora import LoraRankPruner, PruneConfig, find_lora_modules, truncate_adapter
from prunedlora.adapters.sharding import full, local, part, write_back
from prunedlora.errors import UnsupportedAdapterError, UnsupportedOptimizerError
from prunedlora.training.optimizers import unwrap_optimizer
from tests.models import trainable


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[DeviceMesh]:
    """A group of one process."""
    rendezvous = f"file://{tmp_path}/rendezvous"
    dist.init_process_group("gloo", init_method=rendezvous, rank=0, world_size=1)
    try:
        yield init_device_mesh("cpu", (1,))
    finally:
        dist.destroy_process_group()


@pytest.mark.supports(
    "AdamW", "FullyShardedDataParallel (FSDP1)", "own loop", "float32", verdict="refused"
)
@pytest.mark.parametrize("original", [True, False])
def test_flat_parameters_are_refused_by_name_with_the_remedy(mesh, lora, original):
    model = lora().requires_grad_()  # flat parameters are trained whole or not at all
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = FullyShardedDataParallel(
            model, device_id=torch.device("cpu"), use_orig_params=original
        )
    with pytest.raises(UnsupportedAdapterError, match=r"FSDP1.*fully_shard"):
        find_lora_modules(wrapped, sharded=True)


@pytest.mark.supports("AdamW", "DeepSpeed ZeRO-3", "own loop", "float32", verdict="refused")
def test_shards_of_zero_3_are_refused_by_name(lora):
    model = lora()
    module = find_lora_modules(model)[0]
    empty = nn.Parameter(torch.zeros(0))
    empty.ds_id = 0
    module.layer.lora_A["default"].weight = empty
    with pytest.raises(UnsupportedAdapterError, match=r"ZeRO-3.*fully_shard"):
        find_lora_modules(model, sharded=True)


def test_only_pruning_and_export_take_shards(mesh, lora):
    model = fully_shard(lora())
    assert all(module.sharded for module in find_lora_modules(model, sharded=True))
    with pytest.raises(UnsupportedAdapterError, match="export_adapter"):
        truncate_adapter(model, 2)


@pytest.mark.supports("AdamW", "tensor parallelism", "own loop", "float32", verdict="refused")
@pytest.mark.supports(
    "AdamW",
    "fully_shard with CPUOffloadPolicy",
    "own loop",
    "float32",
    verdict="refused",
)
def test_shards_of_another_kind_are_refused(mesh, lora, monkeypatch):
    model = lora()
    module = find_lora_modules(model)[0]
    module.layer.lora_A["default"].weight = nn.Parameter(
        distribute_tensor(module.A.detach(), mesh, [Shard(0)])
    )
    with pytest.raises(UnsupportedAdapterError, match="tensor parallelism"):
        find_lora_modules(model, sharded=True)
    model = fully_shard(lora())
    with monkeypatch.context() as patched:
        patched.setattr(dist, "get_world_size", lambda: 2)
        with pytest.raises(UnsupportedAdapterError, match="1 of 2 processes"):
            find_lora_modules(model, sharded=True)
    with monkeypatch.context() as patched:
        patched.setattr(DeviceMesh, "device_type", "cuda")
        with pytest.raises(UnsupportedAdapterError, match="CPUOffloadPolicy"):
            find_lora_modules(model, sharded=True)
    find_lora_modules(model, sharded=True)


def test_shards_over_two_dimensions_are_refused(mesh, lora):
    model = fully_shard(lora())
    grid = init_device_mesh("cpu", (1, 1))
    module = find_lora_modules(model, sharded=True)[0]
    whole = full(module.A)
    for placements in ([Shard(0), Shard(1)], [Replicate(), Shard(0)]):
        module.layer.lora_A["default"].weight = nn.Parameter(
            distribute_tensor(whole, grid, placements)
        )
        if placements[0].is_shard():
            with pytest.raises(UnsupportedAdapterError, match="more than one dimension"):
                find_lora_modules(model, sharded=True)
        else:
            find_lora_modules(model, sharded=True)


def test_what_is_done_to_the_whole_is_done_to_the_parts(mesh):
    value = torch.arange(6.0).view(3, 2)
    sharded = distribute_tensor(value, mesh, [Shard(0)])
    for t in (sharded, value.clone()):
        whole = full(t)
        whole.mul_(2)
        write_back(t, whole)
        torch.testing.assert_close(full(t), 2 * value)
        torch.testing.assert_close(part(2 * value, t), local(t))


@pytest.mark.supports(
    "ZeroRedundancyOptimizer",
    "DistributedDataParallel",
    "own loop",
    "float32",
    verdict="refused",
)
@pytest.mark.supports(
    "DeepSpeed ZeRO-1 and 2",
    "DistributedDataParallel",
    "own loop",
    "float32",
    verdict="refused",
)
def test_zero_1_and_2_are_refused_before_the_first_step(mesh, lora):
    model = lora()
    config = PruneConfig(4, interval=2, warmup_steps=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it imports is deprecated
        from torch.distributed.optim import ZeroRedundancyOptimizer
    optimizer = ZeroRedundancyOptimizer(trainable(model), torch.optim.AdamW, lr=1e-3)
    with pytest.raises(UnsupportedOptimizerError, match=r"ZeRO.*fully_shard"):
        LoraRankPruner(model, optimizer, config, total_steps=8)

    class Partitioned:
        """As DeepSpeed's, around an optimiser of flat tensors."""

        __module__ = "deepspeed.runtime.zero.stage_1_and_2"
        optimizer = torch.optim.AdamW([torch.zeros(1)])

    with pytest.raises(UnsupportedOptimizerError, match=r"ZeRO.*fully_shard"):
        unwrap_optimizer(SimpleNamespace(optimizer=Partitioned()))
