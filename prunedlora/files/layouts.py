r"""How ranks and scalings are laid out in a file, so that its readers agree.

PEFT and vLLM since 0.32 know a rank and an alpha for each module (``rank_pattern``,
``alpha_pattern``); other servers apply one ``lora_alpha / r`` from the configuration to all modules,
or ``lora_alpha`` over the rank of each tensor (sources in `prunedlora.files.readers`).  Here the
scaling s is baked into B, :math:`(sB)A`, and alpha = r leaves 1 to apply:

* ``uniform``: one rank; all readers agree.
* ``padded``: as many components as each module needs, zeros up to the largest rank; all readers
  agree.
* ``ragged``: each module its rank, the smallest file; PEFT and vLLM agree, others refuse it or apply
  another scaling.  Tools for diffusion models take rank and alpha of each module, so it is right for
  all of them.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from prunedlora.adapters.peft import beside_parameters, exactly
from prunedlora.choices import Layout
from prunedlora.errors import ConfigurationError, NonFiniteError
from prunedlora.factors import Scaled
from prunedlora.linalg.numerics import is_finite


def lay_out(
    modules: Mapping[str, Scaled], layout: Layout, rank: int | None = None
) -> dict[str, Scaled]:
    """The same products with the scaling baked into B, padded with zeros as the layout asks.

    Args:
        modules: factors by name of module.
        layout: see `prunedlora.files.layouts`.
        rank: rank to pad to with ``uniform`` and ``padded``; the largest rank by default.

    Raises:
        ConfigurationError: ``uniform``, no `rank`, and ranks that differ.

    >>> q = Scaled(torch.ones(3, 2), torch.ones(2, 3), 4.0)
    >>> v = Scaled(torch.ones(3, 1), torch.eye(1))
    >>> out = lay_out({"q": q, "v": v}, "padded")
    >>> [(m.rank, m.scaling, m.B.max().item()) for m in out.values()]
    [(2, 1.0, 4.0), (2, 1.0, 1.0)]
    """
    ranks = {module.rank for module in modules.values()}
    if layout == "uniform" and rank is None and len(ranks) > 1:
        raise ConfigurationError(
            f"the modules have ranks {sorted(ranks)}, but layout 'uniform' has one; use 'padded' "
            "or 'ragged'"
        )
    to = None if layout == "ragged" else rank or max(ranks)
    return {name: padded(Scaled(m.scaling * m.B, m.A), to or m.rank) for name, m in modules.items()}


def settings(
    modules: Mapping[str, Scaled], config: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The entries of a PEFT configuration that fit the modules of `lay_out`.

    Args:
        modules: by path in the base model.
        config: the configuration as it was; where it adapts bare parameters too, these keep theirs.

    >>> q = Scaled(torch.ones(3, 2), torch.ones(2, 3))
    >>> v = Scaled(torch.ones(3, 1), torch.ones(1, 3))
    >>> entries = settings({"q": q, "v": v})
    >>> entries["r"], entries["lora_alpha"], entries["rank_pattern"], entries["alpha_pattern"]
    (2, 2, {'^v': 1}, {'^v': 1})
    """
    if config is not None and config.get("target_parameters"):
        return beside_parameters(config, {n: (m.rank, m.scaling) for n, m in modules.items()})
    r = max(module.rank for module in modules.values())
    ranks = {exactly(name): module.rank for name, module in modules.items()}
    alphas = {exactly(name): alpha_of(module) for name, module in modules.items()}
    # With the scaling 1 alpha is r where the rank is; else the most common one is everybody's.
    baked = all(module.scaling == 1 for module in modules.values())
    alpha = r if baked else Counter(alphas.values()).most_common(1)[0][0]
    return {
        "r": r,
        "lora_alpha": alpha,
        "use_rslora": False,
        "rank_pattern": {name: rank for name, rank in ranks.items() if rank != r},
        "alpha_pattern": {name: a for name, a in alphas.items() if a != alpha},
    }


def alpha_of(module: Scaled) -> int | float:
    """The alpha that gives a module its scaling, alpha / rank.

    >>> alpha_of(Scaled(torch.ones(3, 2), torch.ones(2, 3), 0.25))
    0.5
    """
    alpha = module.scaling * module.rank
    return int(alpha) if alpha == int(alpha) else alpha


def as_stored(
    module: Scaled,
    shape_B: tuple[int, ...],
    shape_A: tuple[int, ...],
    dtypes: tuple[torch.dtype, torch.dtype],
    name: str,
) -> tuple[Tensor, Tensor]:
    """B and A in the dtypes and the number of dimensions they have in a file.

    Args:
        module: the factors.
        shape_B: shape of B in the file before, for its dimensions other than the rank.
        shape_A: the same for A.
        dtypes: to round B and A to.
        name: of the module, for the error.

    Raises:
        NonFiniteError: a number is too large for its dtype.
    """
    k = module.rank
    B = module.B.to(dtypes[0]).reshape(shape_B[0], k, *shape_B[2:]).contiguous()
    A = module.A.to(dtypes[1]).reshape(k, *shape_A[1:]).contiguous()
    for factor in (B, A):
        if not is_finite(factor.double()):
            raise NonFiniteError(
                f"the factors of {name} are too large for {factor.dtype}; use dtype 'bf16' or "
                "'fp32'"
            )
    return B, A


def padded(module: Scaled, rank: int) -> Scaled:
    """The same product with components of zeros up to a rank."""
    missing = rank - module.rank
    if missing == 0:
        return module
    B = _with_zeros(module.B, (0, missing))
    A = _with_zeros(module.A, (0, 0, 0, missing))
    return Scaled(B, A, module.scaling)


def _with_zeros(factor: Tensor, margins: tuple[int, ...]) -> Tensor:
    # Not every operation knows float8, but zeros and their neighbours are exact in float32.
    wide = factor.float() if factor.itemsize == 1 else factor
    return torch.nn.functional.pad(wide, margins).to(factor.dtype)
