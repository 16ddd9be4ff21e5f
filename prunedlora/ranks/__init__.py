"""The rank of every module, and what each module becomes at it."""

from typing import TYPE_CHECKING

from prunedlora._lazy import lazy_names

if TYPE_CHECKING:
    from prunedlora.ranks.adapter import reduce_adapter as reduce_adapter
    from prunedlora.ranks.budget import allocate as allocate
    from prunedlora.ranks.reduction import Candidate as Candidate
    from prunedlora.ranks.reduction import allocate_ranks as allocate_ranks
    from prunedlora.ranks.reduction import reduce_all as reduce_all
    from prunedlora.ranks.targets import Scored as Scored
    from prunedlora.ranks.targets import by_energy as by_energy
    from prunedlora.ranks.targets import by_parameters as by_parameters
    from prunedlora.ranks.targets import by_rank as by_rank

_PLACES = {
    "reduce_adapter": "adapter",
    "allocate": "budget",
    "Candidate": "reduction",
    "allocate_ranks": "reduction",
    "reduce_all": "reduction",
    "Scored": "targets",
    "by_energy": "targets",
    "by_parameters": "targets",
    "by_rank": "targets",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, _PLACES)

__all__ = sorted(_PLACES)
