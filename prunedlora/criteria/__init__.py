"""The rules, one a file, named after their paper; importing this room registers all of them.

`registry` (register, register_reduction, get_criterion, Reduction); `prunedlora2025`, `fisher`, `kfac`,
`sparsegpt2023`, `llmpruner2023`, `adalora2023`, `wanda2024`, `baselines` (random, magnitude), `svd` (and its weighted
forms), `svd_fisher`; `trial` (options tried on a small example).
"""

from prunedlora.criteria import (
    adalora2023,
    baselines,
    fisher,
    kfac,
    llmpruner2023,
    prunedlora2025,
    sparsegpt2023,
    svd,
    svd_fisher,
    wanda2024,
)
from prunedlora.criteria.registry import (
    Criterion,
    Reduction,
    available_criteria,
    check_options,
    get_criterion,
    register,
    register_reduction,
    remove_lowest,
    unregister,
)
from prunedlora.factors import Factors
from prunedlora.statistics.data import Statistics

__all__ = [
    "Criterion",
    "Factors",
    "Reduction",
    "Statistics",
    "adalora2023",
    "available_criteria",
    "baselines",
    "check_options",
    "fisher",
    "get_criterion",
    "kfac",
    "llmpruner2023",
    "prunedlora2025",
    "register",
    "register_reduction",
    "remove_lowest",
    "sparsegpt2023",
    "svd",
    "svd_fisher",
    "unregister",
    "wanda2024",
]
