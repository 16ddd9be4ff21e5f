"""What a pruning event changes: the factors of modules, and the optimiser's state and gradients for them."""

import torch
from jaxtyping import Bool
from torch import Tensor

from prunedlora.adapters.optimizer_state import forget_all, forget_removed
from prunedlora.adapters.surgery import write_stacked
from prunedlora.choices import Moments
from prunedlora.ranks.reduction import Group
from prunedlora.training.rotation import change_of_basis, rotate_state


def carry_out(
    group: Group,
    removed: Bool[Tensor, "m r"],
    optimizer: torch.optim.Optimizer,
    *,
    rotates: bool,
    moments: Moments,
) -> None:
    """Write reductions into their modules, and make gradients and optimiser state follow.

    Args:
        group: modules as they were, and what becomes of their live components.
        removed: all components that are gone after the event.
        optimizer: the optimiser that trains the modules.
        rotates: whether the kept components are mixtures of the old ones.
        moments: what becomes of the optimiser's state, see `prunedlora.PruneConfig`.

    Raises:
        UnsupportedOptimizerError: the optimiser keeps state that cannot follow.
    """
    modules = [candidate.module for candidate in group.members]
    new = group.reduction.factors
    # Gradients always follow a change of basis, since the step after the event uses them.
    if rotates and group.reduction.removed.numel():
        P, Q = group.reduction.basis or change_of_basis(group.factors, new)
        for i, module in enumerate(modules):
            rotate_state(module, group.live[i], P[i], Q[i], optimizer, moments=moments == "follow")
    write_stacked(modules, group.live, new.B, new.A)
    for module, mask in zip(modules, removed, strict=True):
        if moments == "reset":
            forget_all(module, optimizer)
        forget_removed(module, mask, optimizer)
