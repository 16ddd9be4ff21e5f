"""Agreement between processes."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor, nn

from prunedlora.errors import InconsistentProcessesError, OutputError

#: Relative difference between the weights of two processes that rounding on different devices may make.
TOLERANCE = 1e-3


def assert_same_everywhere(removed: Mapping[str, Tensor]) -> None:
    """Check that all processes are about to remove the same components; does nothing in a single process.

    Modules, numbers and indices are compared by a hash, so that processes may disagree in any of them.

    Raises:
        InconsistentProcessesError: they are not, in every process.
    """
    if not several():
        return
    chosen = json.dumps({name: indices.tolist() for name, indices in removed.items()})
    digest = list(hashlib.sha256(chosen.encode()).digest())
    device = next((t.device for t in removed.values()), torch.device("cpu"))
    least, most = _extremes(torch.tensor(digest, dtype=torch.long, device=device))
    if not torch.equal(least, most):
        raise InconsistentProcessesError(_DIFFERENT.format("chose different components to remove"))


def assert_same_factors(factors: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Check that all processes hold the same factors, up to rounding; does nothing in a single process.

    Compared are r numbers of each factor, its product with a fixed vector, and not its entries.

    Args:
        factors: B (d_out, r) and A (r, d_in) of each module, maybe with leading dimensions; of equal shapes in all
            processes.

    Raises:
        InconsistentProcessesError: they differ, in every process.
    """
    if not several():
        return
    # One row a factor, with zeros at its end, so that each is compared by its own size.
    rows = [_sketch(t) for B, A in factors for t in (B.mT, A)]
    width = max(row.numel() for row in rows)
    mine = torch.stack([nn.functional.pad(row, (0, width - row.numel())) for row in rows])
    least, most = _extremes(mine)
    size = torch.maximum(least.abs(), most.abs()).amax(dim=1, keepdim=True)
    if ((most - least) > TOLERANCE * size).any():
        raise InconsistentProcessesError(_DIFFERENT.format("hold different weights"))


def average_over_processes(gradient: Tensor) -> Tensor:
    """The mean of a gradient over all processes; the gradient itself in a single one."""
    return sum_over_processes(gradient) / dist.get_world_size() if several() else gradient


def _sketch(rows: Float[Tensor, "*m r d"]) -> Float[Tensor, " n"]:
    d = rows.shape[-1]
    along = torch.cos(torch.arange(d, dtype=torch.float64, device=rows.device))
    return (rows.detach().double() @ along).flatten()


def _extremes(mine: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest of each entry, over all processes."""
    least, most = mine.clone(), mine.clone()
    dist.all_reduce(least, op=dist.ReduceOp.MIN)
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    return least, most


_DIFFERENT = (
    "the processes {}; start from the same weights and average the gradients over the processes "
    "(DistributedDataParallel) before the optimiser's step"
)


def true_everywhere(condition: Bool[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
    """Whether a condition is true in all processes, entry by entry, left on its device."""
    if not several():
        return condition
    flag = condition.to(torch.uint8)
    dist.all_reduce(flag, op=dist.ReduceOp.MIN)
    return flag.bool()


def sum_over_processes(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes; the tensor itself in a single one."""
    if not several():
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total


def gather_over_processes(samples: Float[Tensor, "n *rest"]) -> Float[Tensor, "total *rest"]:
    """The samples of all processes, in the order of their ranks; processes may hold different numbers of them."""
    if not several():
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
    return samples.tensor_split(dist.get_world_size())[dist.get_rank()] if several() else samples


def is_first() -> bool:
    """Whether this is the only process, or the first of several."""
    return not several() or dist.get_rank() == 0


def by_the_first(act: Callable[[], None]) -> None:
    """Do something in the first process, and go on in all when it is done; to be called in every process.

    Raises:
        OutputError: it failed in the first process, which raises its own error.
    """
    failure: Exception | None = None
    if is_first():
        try:
            act()
        except Exception as error:
            failure = error
    said = [None if failure is None else str(failure)]
    if several():
        dist.broadcast_object_list(said)
    if failure is not None:
        raise failure
    if said[0] is not None:
        raise OutputError(f"the first process failed: {said[0]}")


def several() -> bool:
    """Whether this is one of several processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
