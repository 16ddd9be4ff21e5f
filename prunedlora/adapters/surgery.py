"""Changing live tensors: writing reduced factors, keeping removed components at zero, making tensors smaller.

Everything here acts on the parameters of a model and on the state that an optimiser keeps for them.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from prunedlora.adapters.modules import LoraModule, find_lora_modules
from prunedlora.adapters.optimizer_state import state_like
from prunedlora.adapters.peft import describe_adapter
from prunedlora.adapters.sharding import full, held, local, part
from prunedlora.errors import ConfigurationError
from prunedlora.linalg.truncation import truncate


def write_factors(
    module: LoraModule,
    live: Int[Tensor, " r_live"],
    B: Float[Tensor, "d_out r_live"],
    A: Float[Tensor, "r_live d_in"],
) -> None:
    """Copy the live components back into the module's parameters; all others become exactly zero."""
    with torch.no_grad():
        module.B.zero_().index_copy_(1, live, B.to(module.B.dtype))
        module.A.zero_().index_copy_(0, live, A.to(module.A.dtype))


def write_stacked(
    modules: list[LoraModule],
    live: Int[Tensor, "m k"],
    B: Float[Tensor, "m d_out k"],
    A: Float[Tensor, "m k d_in"],
) -> None:
    """`write_factors` for modules of equal shape, together."""
    left: list[Tensor] = [module.B for module in modules]
    right: list[Tensor] = [module.A for module in modules]
    rank = modules[0].rank
    with torch.no_grad():
        for written, new, dim in ((left, B, 2), (right, A, 1)):
            if new.shape[dim] < rank:
                shape = list(new.shape)
                shape[dim] = rank
                index = live.unsqueeze(3 - dim).expand_as(new)
                new = new.new_zeros(shape).scatter_(dim, index, new)
            parts = [part(value, t) for t, value in zip(written, new.unbind(0), strict=True)]
            torch._foreach_copy_([local(t) for t in written], parts)


def hold_at_zero(module: LoraModule, removed: Bool[Tensor, " r"]) -> None:
    """Zero the weights of all removed components, whatever a step made of them."""
    with torch.no_grad():
        local(module.B).masked_fill_(removed[held(module.B, 1)], 0.0)
        local(module.A).masked_fill_(removed[held(module.A, 0)].unsqueeze(1), 0.0)


def no_component(module: LoraModule) -> Bool[Tensor, " r"]:
    """The mask of removed components where none is."""
    return torch.zeros(module.rank, dtype=torch.bool, device=module.A.device)


def check_removed(
    module: LoraModule,
    removed: Bool[Tensor, " r"],
    hint: str = "something wrote to the adapter after they were removed (load_best_model_at_end, or loading a "
    "checkpoint); keep the final model instead, or resume from the last checkpoint of the training",
) -> None:
    """Check that removed components are exactly zero, so that cutting them out changes nothing.

    Of sharded factors in every process, with the same outcome.

    Raises:
        ConfigurationError: one is not; the message ends with the hint.
    """
    if full(module.B)[:, removed].any() or full(module.A)[removed].any():
        raise ConfigurationError(f"removed components of {module.name} are not zero: {hint}")


def shrink(
    module: LoraModule, removed: Bool[Tensor, " r"], optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Replace B and A by tensors without the removed components; the scaling does not change.

    Where an optimiser is given, it gets the new parameters in place of the old, with its state sliced alike, so
    that training can go on.

    Args:
        module: the module to shrink.
        removed: which components go; their weights must be exactly zero.
        optimizer: the optimiser that trains the module, if training may go on.

    Raises:
        ConfigurationError: no component would be left, or a removed one is not zero.
        UnsupportedOptimizerError: the optimiser keeps state that cannot be sliced.
    """
    index = (~removed).nonzero().squeeze(1)
    check_removed(module, removed)
    if index.numel() == 0:
        raise ConfigurationError(
            f"{module.name} would be left without components; keep at least one"
        )
    _replace(
        module,
        _smaller(module.B, index, 1, optimizer, module.name),
        _smaller(module.A, index, 0, optimizer, module.name),
    )


@torch.inference_mode(False)  # or the new factors could never be trained
def truncate_adapter(model: nn.Module, rank: int, adapter: str = "default") -> None:
    """Lower every module of an adapter in memory to `rank` by the SVD of BA; the scaling does not change.

    For an adapter whose training is over: the parameters are replaced, no optimiser follows.

    Raises:
        UnsupportedAdapterError: see :func:`prunedlora.find_lora_modules`.
        ConfigurationError: `rank` is below 1 or above the rank of a module; nothing is changed.
        NonFiniteError: NaN or infinity in a factor; nothing is changed.

    >>> import peft
    >>> settings = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["0"])
    >>> model = peft.get_peft_model(nn.Sequential(nn.Linear(8, 8)), settings)
    >>> truncate_adapter(model, 2)
    >>> [(module.rank, module.scaling) for module in find_lora_modules(model)]
    [(2, 2.0)]
    """
    modules = find_lora_modules(model, adapter)
    truncated = [truncate(module.B.detach(), module.A.detach(), rank) for module in modules]
    for module, (B, A) in zip(modules, truncated, strict=True):
        _replace(module, nn.Parameter(B), nn.Parameter(A))
    describe_adapter(model, modules)


def _replace(module: LoraModule, B: nn.Parameter, A: nn.Parameter) -> None:
    """Give a layer new factors of another rank, with everything PEFT derives from the rank, at equal scaling."""
    layer, adapter, scaling = module.layer, module.adapter, module.scaling
    layer.lora_B[adapter].weight, layer.lora_A[adapter].weight = B, A
    layer.lora_B[adapter].in_features = layer.lora_A[adapter].out_features = layer.r[adapter] = (
        A.shape[0]
    )
    layer.lora_alpha[adapter] = scaling * A.shape[0]
    layer.use_rslora[adapter] = False
    layer.scaling[adapter] = scaling


def _smaller(
    old: nn.Parameter, index: Tensor, dim: int, optimizer: torch.optim.Optimizer | None, name: str
) -> nn.Parameter:
    new = nn.Parameter(old.detach().index_select(dim, index), requires_grad=old.requires_grad)
    if optimizer is None:
        return new
    sliced = {
        key: value.index_select(dim, index) for key, value in state_like(old, optimizer, name)
    }
    if old in optimizer.state:
        optimizer.state[new] = {**optimizer.state.pop(old), **sliced}
    for group in optimizer.param_groups:
        group["params"] = [new if p is old else p for p in group["params"]]
    return new
