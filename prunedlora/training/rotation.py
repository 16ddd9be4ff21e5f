r"""Carrying an optimiser's state into the new basis that a truncation gives the components.

With :math:`B' = BP` and :math:`A' = QA` the gradients are :math:`G_{A'} = P^\top G_A` and :math:`G_{B'} = G_B
Q^\top`, so first moments follow exactly; second moments follow as those of uncorrelated entries,
:math:`v_{A'} = (P \circ P)^\top v_A`.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prunedlora.adapters.modules import LoraModule
from prunedlora.adapters.optimizer_state import state_like
from prunedlora.adapters.sharding import full, write_back
from prunedlora.errors import UnsupportedOptimizerError
from prunedlora.factors import Factors
from prunedlora.linalg.qr import least_squares

_LINEAR = ("exp_avg", "momentum_buffer")
_SQUARED = ("exp_avg_sq", "max_exp_avg_sq")


def check_rotatable(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Refuse, before anything changes, an optimiser whose state cannot follow a change of basis.

    Args:
        state: what it keeps for a parameter, by name.
        optimizer: the optimiser.

    Raises:
        UnsupportedOptimizerError: it keeps state of an unknown kind.
    """
    for key, tensor in state.items():
        if isinstance(tensor, Tensor) and tensor.numel() > 1:
            _map(key, tensor, optimizer)


def change_of_basis(
    old: Factors, new: Factors
) -> tuple[Float[Tensor, "*m r r"], Float[Tensor, "*m r r"]]:
    """P and Q with ``B' = B P`` and ``A' = Q A``, from factors before and after a truncation, of equal shape."""
    P = least_squares(old.B, new.B)
    return P, least_squares(old.A.mT, new.A.mT).mT


def rotate_state(
    module: LoraModule,
    live: Int[Tensor, " k"],
    P: Float[Tensor, "k k"],
    Q: Float[Tensor, "k k"],
    optimizer: torch.optim.Optimizer,
    *,
    moments: bool = True,
) -> None:
    """Carry gradients and optimiser state of the live components into a new basis.

    Args:
        module: the module.
        live: indices of its live components.
        P: the change of basis of B, see `change_of_basis`.
        Q: that of A.
        optimizer: the optimiser that trains the module.
        moments: whether its state moves, or the gradients only.

    Raises:
        UnsupportedOptimizerError: the optimiser keeps state of an unknown kind.
    """
    for parameter, right, dim in ((module.B, Q.mT, 1), (module.A, P, 0)):
        tensors = [("grad", parameter.grad)] if parameter.grad is not None else []
        if moments:
            tensors += state_like(parameter, optimizer, module.name)
        for key, tensor in tensors:
            map_ = _map(key, right, optimizer)
            whole = full(tensor)
            part = whole.index_select(dim, live).double()
            moved = part @ map_ if dim == 1 else map_.mT @ part
            whole.index_copy_(dim, live, moved.to(whole.dtype))
            write_back(tensor, whole)


def _map(key: str, right: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
    if key == "grad" or key in _LINEAR:
        return right
    if key in _SQUARED:
        return right.square()
    raise UnsupportedOptimizerError(
        f"{type(optimizer).__name__} keeps {key!r}, which cannot follow a change of basis; use AdamW or SGD, or a "
        "criterion that keeps the components, such as 'kfac'"
    )
