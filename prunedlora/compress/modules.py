"""One module at a time: its scores, and its factors at the new rank."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch

from prunedlora.compress.config import CompressConfig
from prunedlora.compress.devices import chosen_device
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
    "fp8": torch.float8_e4m3fn,
}
_Data = TypeVar("_Data", Factors, Statistics)
#: Where the largest entry of a factor in float8 goes, a power of two; formats end at 448 or later.
_FP8_PEAK = 256.0
#: The scaling of every module of a PEFT folder in float8, whose readers should agree on one.
_FP8_SCALING = 2.0**-12
#: Where the largest entries of both factors may lie; elsewhere powers of two go from one to the
#: other, so that neither is rounded to zeros or to infinity.
_FP16_RANGE = (2.0**-8, 2.0**14)
_RANGE = (2.0**-90, 2.0**120)


@dataclass(frozen=True)
class CompressedModule:
    """A module at its new rank.

    Attributes:
        module: the module as it was.
        factors: the new ones, rounded to the dtype in which they are written, with the scaling 1;
            in float8, of which the range is small, with a power of two.
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
    device = _device(config)
    for module, factors in source.factors():
        scores = torch.zeros(module.rank, dtype=torch.float64)
        if not _adds_nothing(module, factors):
            with naming_module(module.name):
                statistics = _moved(_statistics(module, config, measured), device)
                score = config.rule.score(_moved(factors, device), statistics, **config.options)
                scores = score.cpu()
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
        yield _rounded(module, factors, new, config, folder=source.config is not None)


def excluded(source: AdapterFile, compressed: list[CompressedModule]) -> list[str]:
    """Names of the modules that are left out."""
    kept = {item.module.name for item in compressed}
    return [module.name for module in source.modules if module.name not in kept]


def _kept(config: CompressConfig, factors: Factors, statistics: Statistics, rank: int) -> Factors:
    """The components that the criterion keeps, without the zeros of those it removes."""
    device = _device(config)
    count = factors.rank - rank
    reduction = config.rule.reduce(
        _moved(factors, device), _moved(statistics, device), count, **config.options
    )
    keep = torch.ones(factors.rank, dtype=torch.bool)
    keep[reduction.removed.cpu()] = False
    return Factors(reduction.factors.B.cpu()[:, keep], reduction.factors.A.cpu()[keep])


def _device(config: CompressConfig) -> torch.device:
    """Where decompositions run: small ones in float64 are no work for most GPUs, unless asked for."""
    return torch.device("cpu") if config.device == "auto" else chosen_device(config.device)


def _moved(data: _Data, device: torch.device) -> _Data:
    """The same dataclass with its tensors on a device."""
    tensors = {f.name: getattr(data, f.name) for f in fields(data)}
    moved = {name: x.to(device) for name, x in tensors.items() if isinstance(x, torch.Tensor)}
    return replace(data, **moved)


def _rounded(
    module: AdapterModule, old: Factors, new: Factors, config: CompressConfig, folder: bool
) -> CompressedModule:
    """The new factors as they will be written, with the scaling in B."""
    dtype = TORCH_DTYPES[config.dtype] if config.dtype else module.dtype
    exact = Scaled(module.scaling * new.B.double(), new.A.double())
    low, high = _FP16_RANGE if dtype == torch.float16 else _RANGE
    if dtype.itemsize == 1:
        exact = _into_range(exact, _FP8_SCALING if folder else None)
    elif not all(low <= float(factor.abs().max()) <= high for factor in (exact.B, exact.A)):
        exact = _into_range(exact, 1.0)
    factors = Scaled(exact.B.to(dtype), exact.A.to(dtype), exact.scaling)
    B, A = factors.scaling * factors.B.double(), factors.A.double()
    if not (is_finite(B) and is_finite(A)):
        raise NonFiniteError(
            f"the factors of {module.name} are too large for {dtype}; use dtype 'bf16' or 'fp32'"
        )
    changes = ((exact.scaling * exact.B, B), (exact.A, A))
    allowed = torch.finfo(dtype).eps
    if any(float((x - y).norm()) > allowed * float(x.norm()) for x, y in changes):
        raise NonFiniteError(
            f"the factors of {module.name} are too small for {dtype}, which would make many of "
            "their entries zero; use dtype 'bf16' or 'fp32'"
        )
    error, norm = squared_distance(module.scaling * old.B.double(), old.A.double(), B, A)
    return CompressedModule(module, factors, error, norm)


def _into_range(module: Scaled, scaling: float | None) -> Scaled:
    """The same product with factors that a dtype of small range can hold, by powers of two.

    Args:
        module: with the scaling 1.
        scaling: of the result; the one that lets both factors fill the range by default.
    """
    peaks = [float(factor.abs().max()) for factor in (module.B, module.A)]
    if 0.0 in peaks:
        return module
    left, right = (math.floor(math.log2(_FP8_PEAK / peak)) for peak in peaks)
    if scaling is not None:
        # What there is to divide goes to both alike, after they are of one size.
        left = (round(-math.log2(scaling)) + left - right) // 2
        right = round(-math.log2(scaling)) - left
    return Scaled(module.B * 2.0**left, module.A * 2.0**right, 2.0 ** -(left + right))


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
