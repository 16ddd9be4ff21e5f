"""An adapter in a model: finding its modules, and changing their factors."""

from typing import TYPE_CHECKING

from prunedlora._lazy import lazy_names

if TYPE_CHECKING:
    from prunedlora.adapters.modules import LoraModule as LoraModule
    from prunedlora.adapters.modules import find_lora_modules as find_lora_modules
    from prunedlora.adapters.optimizer_state import check_state as check_state
    from prunedlora.adapters.optimizer_state import forget_all as forget_all
    from prunedlora.adapters.optimizer_state import forget_removed as forget_removed
    from prunedlora.adapters.peft import describe_adapter as describe_adapter
    from prunedlora.adapters.peft import name_in_base as name_in_base
    from prunedlora.adapters.surgery import shrink as shrink
    from prunedlora.adapters.surgery import truncate_adapter as truncate_adapter
    from prunedlora.adapters.surgery import write_factors as write_factors

_PLACES = {
    "LoraModule": "modules",
    "find_lora_modules": "modules",
    "check_state": "optimizer_state",
    "forget_all": "optimizer_state",
    "forget_removed": "optimizer_state",
    "describe_adapter": "peft",
    "name_in_base": "peft",
    "shrink": "surgery",
    "truncate_adapter": "surgery",
    "write_factors": "surgery",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, _PLACES)

__all__ = sorted(_PLACES)
