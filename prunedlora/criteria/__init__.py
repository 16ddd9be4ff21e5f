"""Pruning criteria; importing this package registers all of them."""

from prunedlora.criteria import baselines, llmpruner2023, prunedlora2025
from prunedlora.criteria.registry import (
    Criterion,
    Factors,
    Reduction,
    Statistics,
    available_criteria,
    check_options,
    drop_lowest,
    get_criterion,
    register,
    register_reduction,
    unregister,
)

__all__ = [
    "Criterion",
    "Factors",
    "Reduction",
    "Statistics",
    "available_criteria",
    "baselines",
    "check_options",
    "drop_lowest",
    "get_criterion",
    "llmpruner2023",
    "prunedlora2025",
    "register",
    "register_reduction",
    "unregister",
]
