r"""How ranks and scalings are laid out in a file, so that its readers agree.

PEFT knows a rank and an alpha for each module (``rank_pattern``, ``alpha_pattern``); vLLM applies
one ``lora_alpha / r`` from the configuration to all modules, and llama.cpp ``lora_alpha`` over the
rank of each tensor (sources in `prunedlora.files.readers`).  Here the scaling s is baked into B,
:math:`(sB)A`, and alpha = r leaves 1 to apply:

* ``uniform``: one rank; all readers agree.
* ``padded``: as many components as each module needs, zeros up to the largest rank; all readers
  agree.
* ``ragged``: each module its rank, the smallest file; PEFT and vLLM agree, llama.cpp does not.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from prunedlora.adapters.peft import exactly
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
    return {
        name: _padded(Scaled(m.scaling * m.B, m.A), to or m.rank) for name, m in modules.items()
    }


def settings(modules: Mapping[str, Scaled]) -> dict[str, Any]:
    """The entries of a PEFT configuration that fit the modules of `lay_out`.

    Args:
        modules: by path in the base model.

    >>> q = Scaled(torch.ones(3, 2), torch.ones(2, 3))
    >>> v = Scaled(torch.ones(3, 1), torch.ones(1, 3))
    >>> entries = settings({"q": q, "v": v})
    >>> entries["r"], entries["lora_alpha"], entries["rank_pattern"], entries["alpha_pattern"]
    (2, 2, {'^v': 1}, {'^v': 1})
    """
    r = max(module.rank for module in modules.values())
    pattern = {exactly(name): module.rank for name, module in modules.items() if module.rank != r}
    return {
        "r": r,
        "lora_alpha": r,
        "use_rslora": False,
        "rank_pattern": pattern,
        "alpha_pattern": dict(pattern),
    }


def as_stored(
    module: Scaled,
    shape_B: tuple[int, ...],
    shape_A: tuple[int, ...],
    dtype: torch.dtype,
    name: str,
) -> tuple[Tensor, Tensor]:
    """B and A in the dtype and the number of dimensions they have in a file.

    Args:
        module: the factors.
        shape_B: shape of B in the file before, for its dimensions other than the rank.
        shape_A: the same for A.
        dtype: to round to.
        name: of the module, for the error.

    Raises:
        NonFiniteError: a number is too large for the dtype.
    """
    k = module.rank
    B = module.B.to(dtype).reshape(shape_B[0], k, *shape_B[2:]).contiguous()
    A = module.A.to(dtype).reshape(k, *shape_A[1:]).contiguous()
    if not (is_finite(B) and is_finite(A)):
        raise NonFiniteError(
            f"the factors of {name} are too large for {dtype}; use dtype 'bf16' or 'fp32'"
        )
    return B, A


def _padded(module: Scaled, rank: int) -> Scaled:
    missing = rank - module.rank
    pad = torch.nn.functional.pad
    return Scaled(pad(module.B, (0, missing)), pad(module.A, (0, 0, 0, missing)), module.scaling)
