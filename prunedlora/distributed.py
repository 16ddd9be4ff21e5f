"""Agreement between processes."""

import torch
import torch.distributed as dist
from torch import Tensor

from prunedlora.errors import InconsistentProcessesError


def assert_same_everywhere(removed: dict[str, Tensor]) -> None:
    """Check that all processes are about to remove the same components; does nothing in a single process.

    Raises:
        InconsistentProcessesError: they are not, in every process.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1 or not removed:
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
