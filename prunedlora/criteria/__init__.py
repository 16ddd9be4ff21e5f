"""Pruning criteria; importing this package registers all of them."""

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
