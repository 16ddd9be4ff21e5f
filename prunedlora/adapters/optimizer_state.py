"""The state that an optimiser keeps for the factors of an adapter."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from prunedlora.adapters.modules import LoraModule
from prunedlora.adapters.sharding import held, is_sharded, local
from prunedlora.errors import UnsupportedOptimizerError


def forget_removed(
    module: LoraModule, removed: Bool[Tensor, " r"], optimizer: torch.optim.Optimizer
) -> None:
    """Zero gradient and optimiser state of all removed components, so that nothing moves them."""
    for parameter, dim in ((module.B, 1), (module.A, 0)):
        own = removed[held(parameter, dim)]
        mask = own if dim == 1 else own.unsqueeze(1)
        tensors = [value for _, value in state_like(parameter, optimizer, module.name)]
        if parameter.grad is not None:
            tensors.append(parameter.grad)
        for tensor in tensors:
            local(tensor).masked_fill_(mask, 0.0)


def forget_all(module: LoraModule, optimizer: torch.optim.Optimizer) -> None:
    """Drop the optimiser's state of a module, step counter and all, as before its first step."""
    for parameter in (module.B, module.A):
        optimizer.state.pop(parameter, None)


def check_state(modules: list[LoraModule], optimizer: torch.optim.Optimizer) -> None:
    """Refuse an optimiser whose state cannot be masked or sliced; knows once it has taken a step.

    Raises:
        UnsupportedOptimizerError: it keeps state that is not one floating-point number per weight.
    """
    for module in modules:
        for parameter in (module.B, module.A):
            state_like(parameter, optimizer, module.name)


def state_like(
    parameter: nn.Parameter, optimizer: torch.optim.Optimizer, name: str
) -> list[tuple[str, Tensor]]:
    """The optimiser's state tensors of the parameter's own shape, sharded as it is; a step counter is left alone.

    Raises:
        UnsupportedOptimizerError: other state, see `unsupported_state`.
    """
    like = []
    state: dict[str, Any] = optimizer.state.get(parameter, {})
    for key, value in state.items():
        if reason := unsupported_state(key, value, parameter):
            raise UnsupportedOptimizerError(f"{type(optimizer).__name__} {reason} ({name})")
        if isinstance(value, Tensor) and value.numel() > 1:
            like.append((key, value))
    return like


def unsupported_state(key: str, value: Any, parameter: Tensor) -> str | None:
    """Why an entry of an optimiser's state cannot be masked and sliced like its parameter; None if it can.

    Numbers and tensors of one entry, such as a step counter, need not be.
    """
    remedy = "use an optimiser with one number per weight, such as AdamW"
    if isinstance(value, Mapping | list | tuple | set):
        parts = value.values() if isinstance(value, Mapping) else value
        if any(isinstance(part, Tensor) for part in parts):
            return f"keeps {key!r}, a {type(value).__name__} of tensors, which cannot be masked; {remedy}"
        return None
    if not isinstance(value, Tensor) or value.numel() <= 1:
        return None
    if is_sharded(value) and is_sharded(parameter):
        if (value.device_mesh, value.placements) != (parameter.device_mesh, parameter.placements):
            return f"keeps {key!r} sharded in another way than its parameter; {remedy}"
    elif type(value) not in (Tensor, nn.Parameter):
        return f"keeps {key!r} as {type(value).__name__}, which cannot be masked; {remedy}"
    if value.shape != parameter.shape or not value.is_floating_point():
        return (
            f"keeps {key!r} of shape {tuple(value.shape)} and type {value.dtype}, which cannot be "
            f"masked; {remedy}"
        )
    return None
