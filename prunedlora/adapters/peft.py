"""What PEFT knows of an adapter: its configuration, and the names of its modules."""

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from prunedlora.adapters.modules import LoraModule
from prunedlora.errors import ConfigurationError

if TYPE_CHECKING:
    import peft


def exactly(name: str) -> str:
    """A regular expression that PEFT matches against exactly this module."""
    return "^" + re.escape(name)


def describe_adapter(model: nn.Module, modules: list[LoraModule]) -> None:
    """Make the adapter's PEFT configuration say the ranks and scalings that its layers have, see `description`."""
    config = peft_config(model, modules[0].adapter)
    sizes = {name_in_base(m.name): (m.rank, m.scaling) for m in modules}
    for key, value in description(vars(config), sizes).items():
        setattr(config, key, value)


def description(
    config: Mapping[str, Any], modules: Mapping[str, tuple[int, float]]
) -> dict[str, Any]:
    """Entries of a configuration that say ranks and scalings.

    One rank becomes `r`; where modules differ, `rank_pattern` and `alpha_pattern` name each by an anchored
    pattern.  rsLoRA is switched off, since the scaling is now written out as alpha / r.

    Args:
        config: the configuration as it was.
        modules: rank and scaling by path in the base model.

    >>> description({"r": 8}, {"q_proj": (4, 2.0), "v_proj": (2, 2.0)})["rank_pattern"]
    {'^v_proj': 2}
    """
    if config.get("target_parameters"):
        return beside_parameters(config, modules)
    alphas = {name: _as_integer(scaling * rank) for name, (rank, scaling) in modules.items()}
    r = max(rank for rank, _ in modules.values())
    alpha = next(iter(alphas.values()))
    return {
        "r": r,
        "lora_alpha": alpha,
        "use_rslora": False,
        "rank_pattern": {exactly(name): rank for name, (rank, _) in modules.items() if rank != r},
        "alpha_pattern": {exactly(name): a for name, a in alphas.items() if a != alpha},
    }


def beside_parameters(
    config: Mapping[str, Any], modules: Mapping[str, tuple[int, float]]
) -> dict[str, Any]:
    """Entries of a configuration that give modules ranks and scalings, and bare parameters what they had.

    What PEFT adapts by ``target_parameters`` has no path that a file tells, so the general entries stay
    theirs, and every other module is named by a pattern that comes first.

    Args:
        config: the configuration as it was.
        modules: rank and scaling by path in the base model.

    >>> before = {"r": 8, "lora_alpha": 16, "rank_pattern": {"down_proj": 4}}
    >>> beside_parameters(before, {"q_proj": (2, 1.0)})["rank_pattern"]
    {'^q_proj': 2, 'down_proj': 4}
    """
    root = bool(config.get("use_rslora"))
    ranks = {exactly(name): rank for name, (rank, _) in modules.items()}
    alphas = {
        exactly(name): _as_integer(scaling * (math.sqrt(rank) if root else rank))
        for name, (rank, scaling) in modules.items()
    }
    return {
        "rank_pattern": ranks | _others(config.get("rank_pattern"), ranks),
        "alpha_pattern": alphas | _others(config.get("alpha_pattern"), alphas),
    }


def _others(pattern: Mapping[str, Any] | None, known: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in (pattern or {}).items() if key not in known}


def configured_model(model: nn.Module, adapter: str) -> nn.Module:
    """The module inside `model` that carries the PEFT configuration of an adapter.

    Raises:
        ConfigurationError: there is none.
    """
    for module in model.modules():
        configs = getattr(module, "peft_config", None)
        # What torch.compile puts around a model passes its attributes on, under other names.
        if isinstance(configs, dict) and adapter in configs and not hasattr(module, "_orig_mod"):
            return module
    raise ConfigurationError(f"the model carries no PEFT configuration for the adapter {adapter!r}")


def peft_config(model: nn.Module, adapter: str) -> "peft.PeftConfig":
    """The PEFT configuration of an adapter; raises as `configured_model` does."""
    configs: dict[str, peft.PeftConfig] = configured_model(model, adapter).peft_config  # type: ignore[assignment]
    return configs[adapter]


def name_in_base(name: str) -> str:
    """The path of a module in the base model, which PEFT matches patterns against and files are keyed by.

    >>> name_in_base("_orig_mod.base_model.model.layers.0._orig_mod.q_proj")
    'layers.0.q_proj'
    """
    return uncompiled(name).removeprefix("module.").removeprefix("base_model.model.")


def uncompiled(name: str) -> str:
    """A name without what torch.compile and wrappers for activation checkpointing add to it."""
    return name.replace("_orig_mod.", "").replace("_checkpoint_wrapped_module.", "")


def _as_integer(value: float) -> int | float:
    """The integer that `value` is up to rounding, or else the value itself."""
    return round(value) if abs(value - round(value)) < 1e-9 * max(1.0, abs(value)) else value
