"""One module at a time: its scores, and its factors at the new rank."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from prunedlora.compress.config import CompressConfig
from prunedlora.errors import NonFiniteError
from prunedlora.factors import Factors, Scaled, squared_distance
from prunedlora.files.adapter_file import AdapterFile, AdapterModule
from prunedlora.linalg.numerics import is_finite
from prunedlora.ranks.reduction import naming_module
from prunedlora.ranks.targets import Scored
from prunedlora.statistics.data import Statistics

TORCH_DTYPES = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "fp64": torch.float64,
}


@dataclass(frozen=True)
class CompressedModule:
    """A module at its new rank.

    Attributes:
        module: the module as it was.
        factors: the new ones, with the scaling 1, rounded to the dtype in which they are written.
        squared_error: ``||s B A - B' A'||_F^2``, of the rounded factors.
        squared_norm: ``||s B A||_F^2``.
    """

    module: AdapterModule
    factors: Scaled
    squared_error: float
    squared_norm: float


def score_all(
    source: AdapterFile, config: CompressConfig, measured: Mapping[str, Statistics]
) -> dict[str, Scored]:
    """The scores of every module's components; zeros where a module adds nothing.

    Raises:
        NonFiniteError, SingularCurvatureError: the message names the module.
    """
    scored = {}
    for module, factors in source.factors():
        scores = torch.zeros(module.rank, dtype=torch.float64)
        if not _adds_nothing(module, factors):
            with naming_module(module.name):
                statistics = _statistics(module, config, measured)
                scores = config.rule.score(factors, statistics, **config.options)
        scored[module.name] = Scored(scores.double(), module.scaling, module.size)
    return scored


def compress_modules(
    source: AdapterFile,
    config: CompressConfig,
    measured: Mapping[str, Statistics],
    ranks: Mapping[str, int],
) -> Iterator[CompressedModule]:
    """Every module at its new rank, in the order of the file; those of rank 0 are left out.

    Only one module's factors are held at a time.

    Raises:
        NonFiniteError, SingularCurvatureError: the message names the module.
    """
    for module, factors in source.factors():
        rank = ranks[module.name]
        empty = _adds_nothing(module, factors)
        if rank == 0 or (empty and config.zero_modules == "exclude"):
            continue
        if empty:  # nothing to choose by
            new = Factors(factors.B[:, :rank] * 0, factors.A[:rank] * 0)
        else:
            with naming_module(module.name):
                new = _kept(config, factors, _statistics(module, config, measured), rank)
        yield _rounded(module, factors, new, config)


def excluded(source: AdapterFile, compressed: list[CompressedModule]) -> list[str]:
    """Names of the modules that are left out."""
    kept = {item.module.name for item in compressed}
    return [module.name for module in source.modules if module.name not in kept]


def _kept(config: CompressConfig, factors: Factors, statistics: Statistics, rank: int) -> Factors:
    """The components that the criterion keeps, without the zeros of those it removes."""
    count = factors.rank - rank
    reduction = config.rule.reduce(factors, statistics, count, **config.options)
    keep = torch.ones(factors.rank, dtype=torch.bool)
    keep[reduction.removed] = False
    return Factors(reduction.factors.B[:, keep], reduction.factors.A[keep])


def _rounded(
    module: AdapterModule, old: Factors, new: Factors, config: CompressConfig
) -> CompressedModule:
    """The new factors as they will be written, with the scaling in B."""
    dtype = TORCH_DTYPES[config.dtype] if config.dtype else module.dtype
    factors = Scaled((module.scaling * new.B.double()).to(dtype), new.A.to(dtype))
    if not (is_finite(factors.B) and is_finite(factors.A)):
        raise NonFiniteError(
            f"the factors of {module.name} are too large for {dtype}; use dtype 'bf16' or 'fp32'"
        )
    error, norm = squared_distance(
        module.scaling * old.B.double(), old.A.double(), factors.B.double(), factors.A.double()
    )
    return CompressedModule(module, factors, error, norm)


def _adds_nothing(module: AdapterModule, factors: Factors) -> bool:
    return module.scaling == 0 or not factors.B.any() or not factors.A.any()


def _statistics(
    module: AdapterModule, config: CompressConfig, measured: Mapping[str, Statistics]
) -> Statistics:
    if module.name in measured:
        return measured[module.name]
    if "noise" in config.rule.needs:
        # A generator for each module, so that scores and reductions see the same numbers.
        generator = torch.Generator().manual_seed(config.seed + sum(map(ord, module.name)))
        return Statistics(noise=torch.rand(module.rank, generator=generator))
    return Statistics()
