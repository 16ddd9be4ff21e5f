"""Agreement between processes."""

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor

from prunedlora.errors import InconsistentProcessesError


def assert_same_everywhere(removed: dict[str, Tensor]) -> None:
    """Check that all processes are about to remove the same components; does nothing in a single process.

    Raises:
        InconsistentProcessesError: they are not, in every process.
    """
    if not _several() or not removed:
        return
    mine = torch.cat([indices.flatten() for indices in removed.values()])
    least, most = mine.clone(), mine.clone()
    dist.all_reduce(least, op=dist.ReduceOp.MIN)
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    if not torch.equal(least, most):
        raise InconsistentProcessesError(
            "the processes chose different components to remove; average the gradients over the processes "
            "(DistributedDataParallel) before the optimiser's step"
        )


def true_everywhere(condition: Bool[Tensor, ""]) -> Bool[Tensor, ""]:
    """Whether a condition is true in all processes, left on its device."""
    if not _several():
        return condition
    flag = condition.to(torch.uint8)
    dist.all_reduce(flag, op=dist.ReduceOp.MIN)
    return flag.bool()


def sum_over_processes(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes; the tensor itself in a single one."""
    if not _several():
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total


def gather_over_processes(samples: Float[Tensor, "n *rest"]) -> Float[Tensor, "total *rest"]:
    """The samples of all processes, in the order of their ranks; processes may hold different numbers of them."""
    if not _several():
        return samples
    sizes = [
        torch.zeros(1, dtype=torch.long, device=samples.device)
        for _ in range(dist.get_world_size())
    ]
    dist.all_gather(sizes, torch.tensor([len(samples)], device=samples.device))
    padded = samples.new_zeros((int(max(sizes)), *samples.shape[1:]))
    padded[: len(samples)] = samples
    parts = [torch.zeros_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(size)] for part, size in zip(parts, sizes, strict=True)])


def share_of_this_process(samples: Float[Tensor, "n *rest"]) -> Float[Tensor, "share *rest"]:
    """This process's part of what `gather_over_processes` gave; all of it in a single one."""
    return samples.tensor_split(dist.get_world_size())[dist.get_rank()] if _several() else samples


def is_first() -> bool:
    """Whether this is the only process, or the first of several."""
    return not _several() or dist.get_rank() == 0


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
