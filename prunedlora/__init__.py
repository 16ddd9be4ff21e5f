"""Rank pruning of LoRA adapters, during fine-tuning and after it.

Reference implementation of PrunedLoRA (arXiv:2510.00192).  Start with :class:`LoraRankPruner` for a training loop
of your own, or with :class:`prunedlora.callback.PruningCallback` for the transformers `Trainer`.
"""

from prunedlora.adapters import LoraModule, find_lora_modules
from prunedlora.compress import compress_adapter
from prunedlora.compress_config import CompressConfig
from prunedlora.compress_report import CompressReport
from prunedlora.config import PruneConfig
from prunedlora.criteria import available_criteria, register, register_reduction
from prunedlora.errors import PrunedLoRAError
from prunedlora.event import PruneEvent
from prunedlora.export import export_adapter
from prunedlora.inspection import inspect_adapter
from prunedlora.pruner import LoraRankPruner
from prunedlora.schedule import Schedule
from prunedlora.surgery import truncate_adapter
from prunedlora.truncation import truncate
from prunedlora.verification import verify_adapter

__version__ = "0.1.0"

__all__ = [
    "CompressConfig",
    "CompressReport",
    "LoraModule",
    "LoraRankPruner",
    "PruneConfig",
    "PruneEvent",
    "PrunedLoRAError",
    "Schedule",
    "available_criteria",
    "compress_adapter",
    "export_adapter",
    "find_lora_modules",
    "inspect_adapter",
    "register",
    "register_reduction",
    "truncate",
    "truncate_adapter",
    "verify_adapter",
]
