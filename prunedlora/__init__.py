"""Rank pruning of LoRA adapters, during fine-tuning and after it.

Reference implementation of PrunedLoRA (arXiv:2510.00192).  Start with :class:`LoraRankPruner` for a
training loop of your own, with :class:`PruningCallback` for the transformers `Trainer`, or with
:func:`compress_adapter` for an adapter that is trained already.

This page is the whole public interface.  Every name is imported when it is first used, so that
importing the package takes no time.
"""

from typing import TYPE_CHECKING

from prunedlora._lazy import lazy_names

if TYPE_CHECKING:
    from prunedlora.adapters.modules import LoraModule as LoraModule
    from prunedlora.adapters.modules import find_lora_modules as find_lora_modules
    from prunedlora.adapters.surgery import truncate_adapter as truncate_adapter
    from prunedlora.compress.compression import compress_adapter as compress_adapter
    from prunedlora.compress.config import CompressConfig as CompressConfig
    from prunedlora.compress.extraction import extract_adapter as extract_adapter
    from prunedlora.compress.merging import merge_adapters as merge_adapters
    from prunedlora.compress.report import CompressReport as CompressReport
    from prunedlora.compress.several import compress_adapters as compress_adapters
    from prunedlora.compress.verification import verify_adapter as verify_adapter
    from prunedlora.criteria import Reduction as Reduction
    from prunedlora.criteria import available_criteria as available_criteria
    from prunedlora.criteria import get_criterion as get_criterion
    from prunedlora.criteria import register as register
    from prunedlora.criteria import register_reduction as register_reduction
    from prunedlora.criteria import unregister as unregister
    from prunedlora.errors import PrunedLoRAError as PrunedLoRAError
    from prunedlora.factors import Factors as Factors
    from prunedlora.files.export import export_adapter as export_adapter
    from prunedlora.files.inspection import inspect_adapter as inspect_adapter
    from prunedlora.linalg.elimination import block_solution as block_solution
    from prunedlora.linalg.elimination import eliminate as eliminate
    from prunedlora.linalg.truncation import truncate as truncate
    from prunedlora.linalg.weighted_truncation import truncate_weighted as truncate_weighted
    from prunedlora.ranks.adapter import reduce_adapter as reduce_adapter
    from prunedlora.ranks.refinement import Refinement as Refinement
    from prunedlora.ranks.refinement import refine_adapter as refine_adapter
    from prunedlora.statistics.data import Statistics as Statistics
    from prunedlora.statistics.fisher_loss import fisher_loss as fisher_loss
    from prunedlora.statistics.measurement import measure_statistics as measure_statistics
    from prunedlora.training.callback import PruningCallback as PruningCallback
    from prunedlora.training.config import PruneConfig as PruneConfig
    from prunedlora.training.pruner import LoraRankPruner as LoraRankPruner
    from prunedlora.training.schedule import PruneEvent as PruneEvent
    from prunedlora.training.schedule import Schedule as Schedule

__version__ = "0.1.0"

#: Every public name by its use, and where it is defined.
_PLACES = {
    # Prune while training.
    "LoraRankPruner": "training.pruner",  # in a training loop of your own
    "PruningCallback": "training.callback",  # with the transformers Trainer
    "PruneConfig": "training.config",  # which components go, and when
    "Schedule": "training.schedule",  # the steps at which they go, and how many
    "PruneEvent": "training.schedule",  # what happened at one of these steps
    # Compress a trained adapter, from file to file.
    "compress_adapter": "compress.compression",  # write it at a lower rank
    "compress_adapters": "compress.several",  # several into one folder
    "merge_adapters": "compress.merging",  # several of one base model as one
    "extract_adapter": "compress.extraction",  # LoHa, LoKr and differences of weights as LoRA
    "CompressConfig": "compress.config",  # how far, by what criterion, in which layout
    "CompressReport": "compress.report",  # what was done
    "inspect_adapter": "files.inspection",  # rank, spectrum and energy of its modules
    "verify_adapter": "compress.verification",  # is it intact, and what does each reader make of it
    # An adapter in memory.
    "find_lora_modules": "adapters.modules",  # the adapted modules of a model
    "LoraModule": "adapters.modules",  # one of them: B, A and scaling
    "truncate_adapter": "adapters.surgery",  # the best adapter of lower rank, by SVD
    "reduce_adapter": "ranks.adapter",  # an adapter of lower rank, by any criterion
    "refine_adapter": "ranks.refinement",  # train it to predict what the larger one predicts
    "Refinement": "ranks.refinement",  # what came of that
    "measure_statistics": "statistics.measurement",  # what a criterion needs, measured on data
    "fisher_loss": "statistics.fisher_loss",  # what to measure some of it with, from logits
    "export_adapter": "files.export",  # write it so that every reader loads what is in memory
    # Criteria, and how to add your own.
    "available_criteria": "criteria",  # names of all that are registered
    "get_criterion": "criteria",  # one of them, with what it needs and its options
    "register": "criteria",  # a score for each component
    "register_reduction": "criteria",  # a rule that changes the factors itself
    "unregister": "criteria",  # take one out again
    "Factors": "factors",  # what a criterion sees of an adapter: B and A
    "Statistics": "statistics.data",  # what has been measured about it
    "Reduction": "criteria",  # what a criterion returns
    # The mathematics, on plain tensors.
    "truncate": "linalg.truncation",  # best product of lower rank
    "truncate_weighted": "linalg.weighted_truncation",  # the same in the metric of two second moments
    "eliminate": "linalg.elimination",  # remove columns one by one, with recovery
    "block_solution": "linalg.elimination",  # the optimal recovery for columns that are given
    # Errors.
    "PrunedLoRAError": "errors",  # base class of all that are raised on purpose
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, _PLACES)

__all__ = sorted(_PLACES)
