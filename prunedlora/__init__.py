"""Rank pruning of LoRA adapters, during fine-tuning and after it.

Reference implementation of PrunedLoRA (arXiv:2510.00192).  Start with :class:`LoraRankPruner` for a training loop
of your own, or with :class:`prunedlora.training.callback.PruningCallback` for the transformers `Trainer`.
"""

from prunedlora.adapters.modules import LoraModule, find_lora_modules
from prunedlora.adapters.surgery import truncate_adapter
from prunedlora.compress.compression import compress_adapter
from prunedlora.compress.config import CompressConfig
from prunedlora.compress.report import CompressReport
from prunedlora.compress.verification import verify_adapter
from prunedlora.criteria import available_criteria, register, register_reduction
from prunedlora.errors import PrunedLoRAError
from prunedlora.files.export import export_adapter
from prunedlora.files.inspection import inspect_adapter
from prunedlora.linalg.truncation import truncate
from prunedlora.training.config import PruneConfig
from prunedlora.training.pruner import LoraRankPruner
from prunedlora.training.schedule import PruneEvent, Schedule

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
