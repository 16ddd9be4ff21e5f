"""Whether a tensor is free of NaN and infinity, at little cost."""

import torch
from torch import Tensor


def is_finite(t: Tensor) -> bool:
    """Whether every entry is finite.

    >>> is_finite(torch.tensor([1e38, 3e38])), is_finite(torch.tensor([float("inf"), -float("inf")]))
    (True, False)
    """
    # One sum tells in most cases, in a fraction of the time; the sum of finite numbers may still overflow.
    return bool(torch.isfinite(t.sum(dtype=torch.float64))) or bool(torch.isfinite(t).all())
