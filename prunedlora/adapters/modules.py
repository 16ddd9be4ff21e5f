"""Finding the LoRA layers of a model: B, A and scaling of every adapted module."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from prunedlora.adapters.initialisation import refuse_init
from prunedlora.adapters.sharding import (
    REMEDY,
    fully_sharded_parts,
    is_sharded,
    unsupported_shards,
    wraps_flat_parameters,
)
from prunedlora.errors import ConfigurationError, UnsupportedAdapterError

if TYPE_CHECKING:
    import peft.tuners.lora


@dataclass(frozen=True)
class LoraModule:
    """One adapted module of a model.

    Attributes:
        name: its dotted name in the model.
        layer: the PEFT layer that holds the factors.
        adapter: name of the adapter in that layer.
    """

    name: str
    layer: "peft.tuners.lora.LoraLayer"
    adapter: str

    @property
    def B(self) -> nn.Parameter:
        """Left factor, (d_out, r)."""
        return self.layer.lora_B[self.adapter].weight

    @property
    def A(self) -> nn.Parameter:
        """Right factor, (r, d_in)."""
        return self.layer.lora_A[self.adapter].weight

    @property
    def rank(self) -> int:
        """Number of components that the tensors hold, masked ones included."""
        return int(self.A.shape[0])

    @property
    def sharded(self) -> bool:
        """Whether this process holds a part of the factors only."""
        return is_sharded(self.B) or is_sharded(self.A)

    @property
    def scaling(self) -> float:
        """The factor s in ``W = W0 + s B A``."""
        return float(self.layer.scaling[self.adapter])


def find_lora_modules(
    model: nn.Module, adapter: str = "default", *, sharded: bool = False
) -> list[LoraModule]:
    """All modules of `model` that carry LoRA factors of the adapter, in the order of the model.

    Adapters of bare parameters (``target_parameters``, as of fused experts) are not among them and stay as they are.
    Works on a `PeftModel`, on a model with injected layers, and on either inside a wrapper such as
    DistributedDataParallel.

    Args:
        model: the model.
        adapter: name of the adapter.
        sharded: whether B and A may be DTensors, as ``fully_shard`` (FSDP2) leaves them; refused otherwise.

    Raises:
        UnsupportedAdapterError: no LoRA layer, or one of a kind that cannot be pruned: DoRA and other variants,
            embeddings, convolutions, nothing but bare parameters, trained LoRA biases, tied factors, merged weights,
            tensors that are sharded in another way (FSDP1, ZeRO-3, tensor parallelism, CPU offload); an
            initialisation that changed the base model, such as PiSSA.
        ConfigurationError: LoRA layers, but no adapter of that name.

    >>> import peft
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    >>> model = peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["0"]), model)
    >>> [(m.name, m.rank, m.scaling) for m in find_lora_modules(model)]
    [('0', 2, 4.0)]
    """
    from peft.tuners.lora import (  # takes seconds to import, and files do without it
        LoraLayer,
        ParamWrapper,
    )

    layers = [
        (name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)
    ]
    if not layers:
        raise UnsupportedAdapterError(
            "the model holds no LoRA layer; wrap it with peft.get_peft_model(model, LoraConfig(...)) first"
        )
    known = sorted({adapter for _, layer in layers for adapter in layer.scaling})
    if adapter not in known:
        raise ConfigurationError(
            f"the model has no adapter {adapter!r}; it has: {', '.join(known)}"
        )
    modules = [
        LoraModule(name, layer, adapter)
        for name, layer in layers
        if adapter in layer.scaling and not isinstance(layer, ParamWrapper)
    ]
    if not modules:
        raise UnsupportedAdapterError(
            "the adapter adapts bare parameters only (target_parameters), which stay as they are; adapt modules too"
        )
    # Refuse here what would go wrong later, in the middle of training.
    if wraps_flat_parameters(model):
        raise UnsupportedAdapterError(
            f"FullyShardedDataParallel (FSDP1) hides the factors in flat parameters; {REMEDY}"
        )
    fully_sharded = bool(fully_sharded_parts(model))
    for module in modules:
        reason = _why_unsupported(module) or _why_shards_unsupported(module, fully_sharded, sharded)
        if reason:
            raise UnsupportedAdapterError(f"cannot prune {module.name}: {reason}")
    _refuse_shared(modules)
    _refuse_init(model, adapter)
    return modules


def _why_unsupported(module: LoraModule) -> str | None:
    """The reason why the components of a module cannot be removed; None if they can."""
    layer, adapter = module.layer, module.adapter
    # What the layer adds is not s B A of two plain matrices.
    if isinstance(layer.lora_A, nn.ParameterDict):
        return "it is AdaLoRA, which lowers ranks by itself; save it, and `prunedlora compress` makes it plain LoRA"
    if adapter in layer.lora_variant:
        return f"it uses {type(layer.lora_variant[adapter]).__name__}; train it as plain LoRA"
    if adapter in layer.lora_embedding_A:
        return "it adapts an embedding; leave embeddings out of target_modules"
    if adapter not in layer.lora_A or adapter not in layer.lora_B:
        return "its factors A and B are not plain linear layers"
    if layer.lora_bias.get(adapter, False):
        return "it trains a bias in B; set lora_bias=False"
    # It is, but its parameters are not what they seem.
    if adapter in layer.merged_adapters:
        return "the adapter is merged into the weights; call model.unmerge_adapter() first"
    if any(not isinstance(p, nn.Parameter) or p.dim() != 2 for p in (module.A, module.B)):
        if hasattr(module.A, "ds_id"):
            return f"its factors are sharded by ZeRO-3 (DeepSpeed); {REMEDY}"
        return f"a factor is not a matrix (a convolution, or sharded by FSDP1 or ZeRO-3: {REMEDY})"
    return None


def _why_shards_unsupported(module: LoraModule, fully_sharded: bool, allowed: bool) -> str | None:
    """The reason why factors that are sharded cannot be used; None if they are not, or can."""
    for factor in (module.B, module.A):
        if reason := unsupported_shards(factor, fully_sharded=fully_sharded):
            return reason
    if module.sharded and not allowed:
        return (
            "its factors are sharded over processes; only LoraRankPruner and export_adapter work on shards: write the "
            "adapter by export_adapter, in every process, and go on from the file"
        )
    return None


def _refuse_init(model: nn.Module, adapter: str) -> None:
    for module in model.modules():
        configs = getattr(module, "peft_config", None)
        if isinstance(configs, dict) and adapter in configs:
            init = getattr(configs[adapter], "init_lora_weights", True)
            refuse_init(init, f"cannot prune the adapter {adapter!r}")


def _refuse_shared(modules: list[LoraModule]) -> None:
    owner: dict[int, str] = {}
    for module in modules:
        for parameter in (module.A, module.B):
            first = owner.setdefault(id(parameter), module.name)
            if first != module.name:
                raise UnsupportedAdapterError(
                    f"cannot prune {module.name}: it shares a factor with {first}; untie them"
                )
