"""Initialisations of an adapter that change the base model's weights."""

from collections.abc import Mapping
from typing import Any

from prunedlora.errors import UnsupportedAdapterError

#: Values of PEFT's init_lora_weights that leave the base model's weights alone; the others (PiSSA,
#: OLoRA, CorDA, LoftQ, LoRA-GA) replace them by a residual that depends on the rank.
_SAFE = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
#: Those that take the product of the initial factors from the weight, and nothing else; of PiSSA the
#: beginning, since the number of its iterations may follow.
_FROM_BASE = ("pissa", "olora", "corda", "lora_ga")
#: Entries of a configuration that say how to initialise.
_HOW = ("corda_config", "eva_config", "loftq_config", "lora_ga_config")


def refuse_init(init: Any, where: str) -> None:
    """Refuse an initialisation that takes from the base model an amount that depends on the rank.

    PEFT takes it again whenever it loads such an adapter, at the rank that it then has.

    Args:
        init: `init_lora_weights` of the adapter's configuration.
        where: for the message.

    Raises:
        UnsupportedAdapterError: it is one of these.

    >>> refuse_init("gaussian", "here")
    """
    if init in _SAFE:
        return
    changes = f"{where}: init_lora_weights={_shown(init)} changes the base model's weights"
    if not is_from_base(init):
        raise UnsupportedAdapterError(
            f"{changes} by more than the adapter tells; use it as it is, or train plain LoRA"
        )
    raise UnsupportedAdapterError(
        f"{changes} by an amount that depends on the rank; with the adapter as it was before training, "
        "which you have if you saved it, `prunedlora compress --initial` makes plain LoRA of it (so "
        "does PEFT's save_pretrained with path_initial_model_for_weight_conversion)"
    )


def as_plain(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A configuration as that of plain LoRA, for what training added to the initial adapter.

    Args:
        raw: its entries.
        where: for the message.

    Raises:
        UnsupportedAdapterError: an initialisation of which the initial adapter is not all that was
            taken from the base model.

    >>> as_plain({"r": 4, "init_lora_weights": "pissa_niter_16"}, "here")
    {'r': 4, 'init_lora_weights': True}
    """
    init = raw.get("init_lora_weights", True)
    # True is what PEFT wants the initial adapter to be saved with, and may be left standing.
    if init is not True and not is_from_base(init):
        raise UnsupportedAdapterError(
            f"{where}: init_lora_weights={_shown(init)} is not an initialisation that took its start from the "
            f"base model ({', '.join(_FROM_BASE)}); leave the initial adapter out"
        )
    return {k: v for k, v in raw.items() if k not in _HOW} | {"init_lora_weights": True}


def _shown(init: Any) -> str:
    return repr(str(init)[:80])


def is_from_base(init: Any) -> bool:
    """Whether ``init_lora_weights`` is an initialisation that took the adapter's start from the base model."""
    name = init.lower() if isinstance(init, str) else ""
    return name in _FROM_BASE or name.startswith("pissa_niter_")
