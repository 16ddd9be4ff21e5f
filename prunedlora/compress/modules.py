"""One module at a time: its scores, its lowered factors, and how far these are from the old ones."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from prunedlora.compress.config import CompressConfig
from prunedlora.errors import NonFiniteError, SingularCurvatureError
from prunedlora.factors import Factors, Scaled, squared_distance
from prunedlora.files.adapter_file import AdapterFile, AdapterModule
from prunedlora.linalg.numerics import is_finite
from prunedlora.ranks.targets import Scored
from prunedlora.statistics.data import Statistics

TORCH_DTYPES = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "fp64": torch.float64,
}


@dataclass(frozen=True)
class Lowered:
    """A module at its new rank.

    Attributes:
        module: the module as it was.
        factors: the new ones, scaling 1, rounded to the dtype of the output but held in it as they will be written.
        squared_error: ``||s B A - B' A'||_F^2``, of the rounded factors.
        squared_norm: ``||s B A||_F^2``.
    """

    module: AdapterModule
    factors: Scaled
    squared_error: float
    squared_norm: float


def score_all(source: AdapterFile, config: CompressConfig, measured: Mapping[str, Statistics]) -> dict[str, Scored]:
    """The scores of every module's components; zeros where a module adds nothing.

    Raises:
        NonFiniteError, SingularCurvatureError: the message names the module.
    """
    scored = {}
    for module, factors in source.factors():
        scores = torch.zeros(module.rank, dtype=torch.float64)
        if not _adds_nothing(module, factors):
            with _blamed(module):
                scores = config.rule.score(factors, _statistics(module, config, measured), **config.options)
        scored[module.name] = Scored(scores.double(), module.scaling, module.size)
    return scored


def lower_all(
    source: AdapterFile,
    config: CompressConfig,
    measured: Mapping[str, Statistics],
    ranks: Mapping[str, int],
) -> Iterator[Lowered]:
    """Every module at its new rank, in the order of the file; those of rank 0 are left out.

    Only one module's factors are held at a time.

    Raises:
        NonFiniteError, SingularCurvatureError: the message names the module.
    """
    for module, factors in source.factors():
        rank = ranks[module.name]
        if rank == 0 or (config.zero_modules == "exclude" and _adds_nothing(module, factors)):
            continue
        if _adds_nothing(module, factors):
            new = Factors(factors.B[:, :rank] * 0, factors.A[:rank] * 0)
        else:
            with _blamed(module):
                statistics = _statistics(module, config, measured)
                new = _kept(config, factors, statistics, rank)
        yield _rounded(module, factors, new, config)


def _kept(config: CompressConfig, factors: Factors, statistics: Statistics, rank: int) -> Factors:
    """The components that the criterion keeps, without the zeros of those it removes."""
    reduction = config.rule.reduce(factors, statistics, factors.rank - rank, **config.options)
    keep = torch.ones(factors.rank, dtype=torch.bool)
    keep[reduction.removed] = False
    return Factors(reduction.factors.B[:, keep], reduction.factors.A[keep])


def _rounded(module: AdapterModule, old: Factors, new: Factors, config: CompressConfig) -> Lowered:
    dtype = TORCH_DTYPES[config.dtype] if config.dtype else module.dtype
    factors = Scaled((module.scaling * new.B.double()).to(dtype), new.A.to(dtype))
    if not (is_finite(factors.B) and is_finite(factors.A)):
        raise NonFiniteError(f"the factors of {module.name} are too large for {dtype}; use dtype 'bf16' or 'fp32'")
    error, norm = squared_distance(
        module.scaling * old.B.double(), old.A.double(), factors.B.double(), factors.A.double()
    )
    return Lowered(module, factors, error, norm)


def _adds_nothing(module: AdapterModule, factors: Factors) -> bool:
    return module.scaling == 0 or not factors.B.any() or not factors.A.any()


def _statistics(module: AdapterModule, config: CompressConfig, measured: Mapping[str, Statistics]) -> Statistics:
    if module.name in measured:
        return measured[module.name]
    if "noise" in config.rule.needs:
        # A generator for each module, so that scores and reductions see the same numbers.
        generator = torch.Generator().manual_seed(config.seed + sum(map(ord, module.name)))
        return Statistics(noise=torch.rand(module.rank, generator=generator))
    return Statistics()


@contextmanager
def _blamed(module: AdapterModule) -> Iterator[None]:
    """Names the module in an error of its numbers."""
    try:
        yield
    except (NonFiniteError, SingularCurvatureError) as error:
        raise type(error)(f"{module.name}: {error}") from None


def excluded(source: AdapterFile, lowered: list[Lowered]) -> list[str]:
    """Names of the modules that are left out."""
    kept = {item.module.name for item in lowered}
    return [module.name for module in source.modules if module.name not in kept]
