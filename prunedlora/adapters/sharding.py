"""Factors whose parts lie in several processes, as `torch.distributed.fsdp.fully_shard` (FSDP2) leaves them.

Everything else sees whole tensors (`full`), or changes the part that this process holds (`local`, `write_back`).  A
plain tensor is whole and held by itself, so that no caller needs to tell the two apart.
"""

import sys
from typing import TYPE_CHECKING, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

#: What to do instead where shards are of another kind.
REMEDY = "shard the model by torch.distributed.fsdp.fully_shard (FSDP2), or train by DistributedDataParallel"


def is_sharded(t: object) -> "TypeGuard[DTensor]":
    """Whether a tensor is a DTensor, of which this process holds a part."""
    module = sys.modules.get("torch.distributed.tensor")  # slow to import; without it there is none
    return module is not None and isinstance(t, module.DTensor)


def full(t: Tensor) -> Tensor:
    """The whole of a tensor, detached: gathered, to be called in every process; a plain tensor itself."""
    with torch.no_grad():
        return t.full_tensor() if is_sharded(t) else t.detach()


def local(t: Tensor) -> Tensor:
    """The part that this process holds, detached: changing it changes the tensor; a plain tensor itself."""
    with torch.no_grad():
        return t.to_local() if is_sharded(t) else t.detach()


def held(t: Tensor, dim: int) -> slice:
    """Which entries along a dimension this process holds; may be none."""
    if is_sharded(t):
        for axis, placement in enumerate(t.placements):
            if placement.is_shard(dim):
                # As torch.chunk shares them out: the last parts may be smaller, or empty.
                size = -(-t.shape[dim] // t.device_mesh.size(axis))
                start = size * t.device_mesh.get_local_rank(axis)
                return slice(start, start + size)
    return slice(None)


def part(value: Tensor, like: Tensor) -> Tensor:
    """The part of a whole tensor that this process holds of one that is `like` it."""
    return value[tuple(held(like, dim) for dim in range(like.dim()))] if is_sharded(like) else value


@torch.no_grad()
def write_back(t: Tensor, whole: Tensor) -> None:
    """Let a tensor have what has become of its `full`, the same in every process; a plain tensor has it already."""
    if is_sharded(t):
        local(t).copy_(part(whole, t))


def unsupported_shards(t: Tensor, *, fully_sharded: bool) -> str | None:
    """Why the shards of a factor cannot be gathered and written back; None if they can.

    Args:
        t: the factor.
        fully_sharded: whether the model is one that ``fully_shard`` has changed.
    """
    if not is_sharded(t):
        return None
    from torch.distributed.tensor import Replicate, Shard

    if not fully_sharded:
        return f"its factors are sharded, and not by fully_shard (tensor parallelism?); {REMEDY}"
    kinds = [type(placement) for placement in t.placements]
    if kinds.count(Shard) > 1 or not set(kinds) <= {Shard, Replicate}:
        return f"its factors are sharded over more than one dimension ({t.placements}); {REMEDY}"
    processes = dist.get_world_size()
    if t.device_mesh.size() != processes:
        return (
            f"its factors are sharded over {t.device_mesh.size()} of {processes} processes, and statistics are of all; "
            "use a mesh of all of them"
        )
    if local(t).device.type != t.device_mesh.device_type:
        return "its factors are offloaded to the CPU, where they cannot be gathered; leave CPUOffloadPolicy out"
    return None


def fully_sharded_parts(model: nn.Module) -> list[nn.Module]:
    """The modules that ``fully_shard`` was applied to."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    kind = getattr(fsdp, "FSDPModule", None)
    return [m for m in model.modules() if isinstance(m, kind)] if kind is not None else []


def wraps_flat_parameters(model: nn.Module) -> bool:
    """Whether a part of the model is wrapped by FullyShardedDataParallel (FSDP1)."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and any(
        isinstance(m, fsdp.FullyShardedDataParallel) for m in model.modules()
    )


def settle(model: nn.Module) -> None:
    """Put shards in the place of whole parameters, which a forward pass without a backward pass leaves behind."""
    for module in fully_sharded_parts(model):
        module.reshard()  # type: ignore[operator]
