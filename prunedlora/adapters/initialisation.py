"""Initialisations of an adapter that change the base model's weights."""

from typing import Any

from prunedlora.errors import UnsupportedAdapterError

#: Values of PEFT's init_lora_weights that leave the base model's weights alone; the others (PiSSA,
#: OLoRA, CorDA, LoftQ, LoRA-GA) replace them by a residual that depends on the rank.
_SAFE = (True, False, None, "gaussian", "eva", "orthogonal", "mica")


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
    if init not in _SAFE:
        raise UnsupportedAdapterError(
            f"{where}: init_lora_weights={init!r} changes the base model's weights by an amount "
            "that depends on the rank; save the adapter with PEFT's save_pretrained and "
            "path_initial_model_for_weight_conversion, which makes it plain LoRA, and use that"
        )
