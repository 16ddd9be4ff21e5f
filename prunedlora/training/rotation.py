r"""Carrying an optimiser's state into the new basis that a truncation gives the components.

With :math:`B' = BP` and :math:`A' = QA` the gradients are :math:`G_{A'} = P^\top G_A` and :math:`G_{B'} = G_B
Q^\top`, so first moments follow exactly; second moments follow as those of uncorrelated entries,
:math:`v_{A'} = (P \circ P)^\top v_A`.
"""

import torch
from torch import Tensor

from prunedlora.adapters.modules import LoraModule
from prunedlora.adapters.optimizer_state import state_like
from prunedlora.errors import UnsupportedOptimizerError
from prunedlora.factors import Factors

_LINEAR = ("exp_avg", "momentum_buffer")
_SQUARED = ("exp_avg_sq", "max_exp_avg_sq")


def check_rotatable(modules: list[LoraModule], optimizer: torch.optim.Optimizer) -> None:
    """Refuse, before anything changes, an optimiser whose state cannot follow a change of basis.

    Raises:
        UnsupportedOptimizerError: it keeps state of an unknown kind.
    """
    for module in modules:
        for parameter in (module.B, module.A):
            for key, tensor in state_like(parameter, optimizer, module.name):
                _map(key, tensor, optimizer)


def rotate_state(
    module: LoraModule,
    live: Tensor,
    old: Factors,
    new: Factors,
    optimizer: torch.optim.Optimizer,
    *,
    moments: bool = True,
) -> None:
    """Carry gradients and optimiser state of the live components from the old factors' basis to the new one's.

    Args:
        module: the module.
        live: indices of its live components.
        old: their factors before the truncation.
        new: after it, of the same shape.
        optimizer: the optimiser that trains the module.
        moments: whether its state moves, or the gradients only.

    Raises:
        UnsupportedOptimizerError: the optimiser keeps state of an unknown kind.
    """
    # The change of basis, from the factors themselves: B' = B P, A' = Q A.
    P = torch.linalg.pinv(old.B.double()) @ new.B.double()
    Q = new.A.double() @ torch.linalg.pinv(old.A.double())
    for parameter, right, dim in ((module.B, Q.mT, 1), (module.A, P, 0)):
        tensors = [("grad", parameter.grad)] if parameter.grad is not None else []
        if moments:
            tensors += state_like(parameter, optimizer, module.name)
        for key, tensor in tensors:
            map_ = _map(key, right, optimizer)
            part = tensor.index_select(dim, live).double()
            moved = part @ map_ if dim == 1 else map_.mT @ part
            tensor.index_copy_(dim, live, moved.to(tensor.dtype))


def _map(key: str, right: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
    if key == "grad" or key in _LINEAR:
        return right
    if key in _SQUARED:
        return right.square()
    raise UnsupportedOptimizerError(
        f"{type(optimizer).__name__} keeps {key!r}, which cannot follow a change of basis; use AdamW or SGD, or a "
        "criterion that keeps the components, such as 'kfac'"
    )
