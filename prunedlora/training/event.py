"""What a pruning event changes: the factors of a module, and the optimiser's state and gradients for them."""

import torch
from jaxtyping import Bool
from torch import Tensor

from prunedlora.adapters.optimizer_state import forget_all, forget_removed
from prunedlora.adapters.surgery import write_factors
from prunedlora.choices import Moments
from prunedlora.criteria import Reduction
from prunedlora.ranks.reduction import Candidate
from prunedlora.training.rotation import rotate_state


def carry_out(
    candidate: Candidate,
    reduction: Reduction,
    removed: Bool[Tensor, " r"],
    optimizer: torch.optim.Optimizer,
    *,
    rotates: bool,
    moments: Moments,
) -> None:
    """Write a reduction into its module, and make gradients and optimiser state follow.

    Args:
        candidate: the module as it was.
        reduction: what becomes of its live components.
        removed: all components that are gone after the event.
        optimizer: the optimiser that trains the module.
        rotates: whether the kept components are mixtures of the old ones.
        moments: what becomes of the optimiser's state, see `prunedlora.PruneConfig`.

    Raises:
        UnsupportedOptimizerError: the optimiser keeps state that cannot follow.
    """
    module = candidate.module
    new = reduction.factors
    # Gradients always follow a change of basis, since the step after the event uses them.
    if rotates and reduction.removed.numel():
        follow = moments == "follow"
        rotate_state(module, candidate.live, candidate.factors, new, optimizer, moments=follow)
    write_factors(module, candidate.live, new.B, new.A)
    if moments == "reset":
        forget_all(module, optimizer)
    forget_removed(module, removed, optimizer)
