"""Pruning an adapter while it is trained."""

from typing import TYPE_CHECKING

from prunedlora._lazy import lazy_names

if TYPE_CHECKING:
    from prunedlora.training.callback import PruningCallback as PruningCallback
    from prunedlora.training.config import PruneConfig as PruneConfig
    from prunedlora.training.pruner import LoraRankPruner as LoraRankPruner
    from prunedlora.training.schedule import PruneEvent as PruneEvent
    from prunedlora.training.schedule import Schedule as Schedule

_PLACES = {
    "PruningCallback": "callback",
    "PruneConfig": "config",
    "LoraRankPruner": "pruner",
    "PruneEvent": "schedule",
    "Schedule": "schedule",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, _PLACES)

__all__ = sorted(_PLACES)
