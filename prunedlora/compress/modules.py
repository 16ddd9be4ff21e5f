"""The scores of modules, and their factors at the new rank: one at a time, or those of a shape together."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from prunedlora.compress.config import CompressConfig
from prunedlora.compress.devices import chosen_device
from prunedlora.compress.model_weights import weight_norms
from prunedlora.errors import NonFiniteError, SingularCurvatureError
from prunedlora.factors import Factors, Scaled, squared_distance
from prunedlora.files.adapter_file import AdapterFile, AdapterModule
from prunedlora.linalg.numerics import is_finite
from prunedlora.ranks.reduction import naming_module, stackable, stacked
from prunedlora.ranks.targets import Scored
from prunedlora.statistics.data import Statistics

TORCH_DTYPES = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "fp64": torch.float64,
    "fp8": torch.float8_e4m3fn,
}
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
        AdapterFileError, ConfigurationError: of a base model that scores are relative to; see
            `prunedlora.compress.model_weights.weight_norms`.
    """
    norms: dict[str, float] = {}
    if config.relative_to is not None:
        norms = weight_norms(config.relative_to, source.modules)
    scored = {}
    for module, factors in source.factors():
        scores = torch.zeros(module.rank, dtype=torch.float64)
        if not _adds_nothing(module, factors):
            with naming_module(module.name):
                item = _on_device(factors, _statistics(module, config, measured), config)
                scores = config.rule.score(*item, **config.options).cpu()
        # What is added to a weight is smaller, relative to it, by its norm.
        scaling = module.scaling / norms.get(module.name, 1.0)
        scored[module.name] = Scored(scores.double(), scaling, module.size)
    return scored


def compress_modules(
    source: AdapterFile,
    config: CompressConfig,
    measured: Mapping[str, Statistics],
    ranks: Mapping[str, int],
) -> Iterator[CompressedModule]:
    """Every module at its new rank, in the order of the file; those of rank 0 are left out.

    Without statistics only one module's factors are held at a time.  Modules with statistics are
    reduced where these are, all of a shape together, and then those of all are held.

    Raises:
        NonFiniteError, SingularCurvatureError: the message names the module.
    """
    together = _reduced_together(source, config, measured, ranks) if measured else {}
    for module, factors in source.factors():
        rank = ranks[module.name]
        empty = _adds_nothing(module, factors)
        if rank == 0 or (empty and config.zero_modules == "exclude"):
            continue
        if empty:  # nothing to choose by
            new = Factors(factors.B[:, :rank] * 0, factors.A[:rank] * 0)
        elif module.name in together:
            new = together.pop(module.name)
        else:
            item = _on_device(factors, _statistics(module, config, measured), config)
            new = _kept(config, module.name, *item, rank)
        yield _rounded(module, factors, new, config, folder=source.config is not None)


def _reduced_together(
    source: AdapterFile,
    config: CompressConfig,
    measured: Mapping[str, Statistics],
    ranks: Mapping[str, int],
) -> dict[str, Factors]:
    """The components that stay of every module with statistics and some rank, by its name."""
    names: list[str] = []
    items: list[tuple[Factors, Statistics]] = []
    for module, factors in source.factors():
        used = module.name in measured and ranks[module.name] > 0
        if used and not _adds_nothing(module, factors):
            names.append(module.name)
            items.append(_on_device(factors, measured[module.name], config))
    counts = [factors.rank - ranks[n] for n, (factors, _) in zip(names, items, strict=True)]
    kept: dict[str, Factors] = {}
    for places in stackable(items, counts):
        part = {names[place]: items[place] for place in places}
        kept |= _kept_together(config, part, ranks[names[places[0]]])
    return kept


def refined_modules(
    source: AdapterFile,
    config: CompressConfig,
    compressed: list[CompressedModule],
    factors: Mapping[str, Factors],
) -> list[CompressedModule]:
    """The same modules with other factors of their ranks.

    Args:
        source: the adapter.
        config: with the dtype.
        compressed: the modules.
        factors: of each by its name, to the scaling that it had.

    Raises:
        NonFiniteError: what cannot be written in that dtype; the message names the module.
    """
    kept = {item.module.name for item in compressed}
    return [
        _rounded(module, old, factors[module.name], config, folder=source.config is not None)
        for module, old in source.factors()
        if module.name in kept
    ]


def excluded(source: AdapterFile, compressed: list[CompressedModule]) -> list[str]:
    """Names of the modules that are left out."""
    kept = {item.module.name for item in compressed}
    return [module.name for module in source.modules if module.name not in kept]


def _kept_together(
    config: CompressConfig, items: Mapping[str, tuple[Factors, Statistics]], rank: int
) -> dict[str, Factors]:
    """What `_kept` gives for modules of one shape, by name, computed for all at once.

    Raises:
        NonFiniteError, SingularCurvatureError: the message names the module.
    """
    factors, statistics = stacked(list(items.values()))
    count = factors.rank - rank
    try:
        reduction = config.rule.reduce(factors, statistics, count, **config.options)
    except (NonFiniteError, SingularCurvatureError):
        # One by one, to name the module that has the error.
        for name, item in items.items():
            _kept(config, name, *item, rank)
        raise
    parts = zip(items, reduction.factors.B, reduction.factors.A, reduction.removed, strict=True)
    return {name: _without(Factors(b, a), removed) for name, b, a, removed in parts}


def _kept(
    config: CompressConfig, name: str, factors: Factors, statistics: Statistics, rank: int
) -> Factors:
    """The components that the criterion keeps, without the zeros of those it removes.

    Raises:
        NonFiniteError, SingularCurvatureError: the message names the module.
    """
    count = factors.rank - rank
    with naming_module(name):
        reduction = config.rule.reduce(factors, statistics, count, **config.options)
    return _without(reduction.factors, reduction.removed)


def _without(factors: Factors, removed: Int[Tensor, " count"]) -> Factors:
    """Smaller factors, without some components, on the CPU."""
    keep = torch.ones(factors.rank, dtype=torch.bool)
    keep[removed.cpu()] = False
    return Factors(factors.B.cpu()[:, keep], factors.A.cpu()[keep])


def _on_device(
    factors: Factors, statistics: Statistics, config: CompressConfig
) -> tuple[Factors, Statistics]:
    """Factors where their statistics are; without any, on the device that the settings name."""
    devices = [t.device for t in vars(statistics).values() if t is not None]
    # Small decompositions in float64 are no work for most GPUs, unless asked for.
    named = "cpu" if config.device == "auto" else config.device
    device = devices[0] if devices else chosen_device(named)
    # What is written in float64 must not go through float32.
    wide = torch.float64 if config.dtype == "fp64" and not devices else None
    return Factors(factors.B.to(device, wide), factors.A.to(device, wide)), statistics


def _rounded(
    module: AdapterModule, old: Factors, new: Factors, config: CompressConfig, folder: bool
) -> CompressedModule:
    """The new factors as they will be written, with the scaling in B."""
    own = TORCH_DTYPES[config.dtype] if config.dtype else None
    dtypes = (own or module.dtype_B, own or module.dtype_A)
    exact = Scaled(module.scaling * new.B.double(), new.A.double())
    if any(dtype.itemsize == 1 for dtype in dtypes):
        exact = _into_range(exact, _FP8_SCALING if folder else None)
    elif not (_in_range(exact.B, dtypes[0]) and _in_range(exact.A, dtypes[1])):
        exact = _into_range(exact, 1.0)
    factors = Scaled(exact.B.to(dtypes[0]), exact.A.to(dtypes[1]), exact.scaling)
    B, A = factors.scaling * factors.B.double(), factors.A.double()
    if not (is_finite(B) and is_finite(A)):
        raise NonFiniteError(
            f"the factors of {module.name} are too large for {_named(dtypes)}; use dtype 'bf16' "
            "or 'fp32'"
        )
    changes = ((exact.scaling * exact.B, B), (exact.A, A))
    for (x, y), dtype in zip(changes, dtypes, strict=True):
        if float((x - y).norm()) > torch.finfo(dtype).eps * float(x.norm()):
            raise NonFiniteError(
                f"the factors of {module.name} are too small for {dtype}, which would make many "
                "of their entries zero; use dtype 'bf16' or 'fp32'"
            )
    error, norm = squared_distance(module.scaling * old.B.double(), old.A.double(), B, A)
    return CompressedModule(module, factors, error, norm)


def _in_range(factor: Tensor, dtype: torch.dtype) -> bool:
    """Whether the largest entry lies where the dtype has all its digits."""
    low, high = _FP16_RANGE if dtype == torch.float16 else _RANGE
    return low <= float(factor.abs().max()) <= high


def _named(dtypes: tuple[torch.dtype, ...]) -> str:
    return " and ".join(dict.fromkeys(map(str, dtypes)))


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
