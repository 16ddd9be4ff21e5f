"""Rank pruning of LoRA adapters, during fine-tuning and after it.

Reference implementation of PrunedLoRA (arXiv:2510.00192).  Start with :class:`LoraRankPruner` for a training loop
of your own, or with :class:`prunedlora.callback.PruningCallback` for the transformers `Trainer`.
"""

from prunedlora.adapters import LoraModule, find_lora_modules
from prunedlora.config import PruneConfig
from prunedlora.criteria import available_criteria, register, register_reduction
from prunedlora.errors import PrunedLoRAError
from prunedlora.export import export_adapter
from prunedlora.pruner import LoraRankPruner, PruneEvent
from prunedlora.schedule import Schedule
from prunedlora.surgery import truncate_adapter
from prunedlora.truncation import truncate

__version__ = "0.1.0"

__all__ = [
    "LoraModule",
    "LoraRankPruner",
    "PruneConfig",
    "PruneEvent",
    "PrunedLoRAError",
    "Schedule",
    "available_criteria",
    "export_adapter",
    "find_lora_modules",
    "register",
    "register_reduction",
    "truncate",
    "truncate_adapter",
]
