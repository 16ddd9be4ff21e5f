"""The mathematics: tensors in, tensors out, in float64 inside."""

from typing import TYPE_CHECKING

from prunedlora._lazy import lazy_names

if TYPE_CHECKING:
    from prunedlora.linalg.curvature import damped as damped
    from prunedlora.linalg.curvature import inverse as inverse
    from prunedlora.linalg.curvature import square_root as square_root
    from prunedlora.linalg.elimination import Elimination as Elimination
    from prunedlora.linalg.elimination import block_solution as block_solution
    from prunedlora.linalg.elimination import eliminate as eliminate
    from prunedlora.linalg.elimination import newton_step as newton_step
    from prunedlora.linalg.fisher_truncation import CoreFisherTruncation as CoreFisherTruncation
    from prunedlora.linalg.fisher_truncation import truncate_core_fisher as truncate_core_fisher
    from prunedlora.linalg.qr import orthogonal as orthogonal
    from prunedlora.linalg.truncation import rank_for_energy as rank_for_energy
    from prunedlora.linalg.truncation import singular_values as singular_values
    from prunedlora.linalg.truncation import truncate as truncate
    from prunedlora.linalg.truncation import truncate_weighted as truncate_weighted
    from prunedlora.linalg.truncation import truncate_with_values as truncate_with_values

_PLACES = {
    "damped": "curvature",
    "inverse": "curvature",
    "square_root": "curvature",
    "Elimination": "elimination",
    "block_solution": "elimination",
    "eliminate": "elimination",
    "newton_step": "elimination",
    "CoreFisherTruncation": "fisher_truncation",
    "truncate_core_fisher": "fisher_truncation",
    "orthogonal": "qr",
    "rank_for_energy": "truncation",
    "singular_values": "truncation",
    "truncate": "truncation",
    "truncate_weighted": "truncation",
    "truncate_with_values": "truncation",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, _PLACES)

__all__ = sorted(_PLACES)
