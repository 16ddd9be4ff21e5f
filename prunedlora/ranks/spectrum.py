"""Rules that read the rank of one module off its singular values; other tools that resize adapters have them too.

Each takes singular values in decreasing order, shape (r,), and returns a rank of at least 1.
"""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from prunedlora.linalg.truncation import rank_for_energy

#: A rule and its number.
Rule = Callable[[Tensor, float], int]


def by_energy(values: Float[Tensor, " r"], share: float) -> int:
    r"""The smallest rank that keeps a share of :math:`\sum \sigma_i^2`, the squared Frobenius norm.

    A share x of the Frobenius norm itself, as in sd-scripts' ``sv_fro``, is x squared here.
    """
    return int(rank_for_energy(values, share))


def by_cumulative(values: Float[Tensor, " r"], share: float) -> int:
    r"""The smallest rank that keeps a share of :math:`\sum \sigma_i`.

    >>> import torch
    >>> by_cumulative(torch.tensor([3.0, 1.0, 0.0]), 0.8)
    2
    """
    return int(rank_for_energy(values.double().clamp(min=0).sqrt(), share))


def by_ratio(values: Float[Tensor, " r"], ratio: float) -> int:
    r"""As many components as have :math:`\sigma_1 / \sigma_i` of at most a ratio.

    >>> import torch
    >>> by_ratio(torch.tensor([8.0, 4.0, 1.0]), 2.0)
    2
    """
    return max(1, int((values * ratio >= values[:1]).sum())) if values[0] > 0 else 1


def by_knee(values: Float[Tensor, " r"], sensitivity: float) -> int:
    """The rank at the elbow of the spectrum: the point farthest below the line through its ends.

    Source: Satopaa, Albrecht, Irwin and Raghavan, Finding a "Kneedle" in a Haystack, ICDCS
    workshops 2011.  A point counts as an elbow if it lies below the line by more than the
    sensitivity over the number of points; where none does, all components are kept.

    >>> import torch
    >>> by_knee(torch.tensor([10.0, 9.0, 1.0, 0.9, 0.8, 0.7]), 1.0)
    2
    """
    count = values.numel()
    spread = float(values[0] - values[-1])
    if count < 3 or spread <= 0:
        return count
    heights = ((values - values[-1]) / spread).double()
    line = 1 - heights.new_tensor(range(count)) / (count - 1)
    below = line - heights
    elbow = int(below.argmax())
    # The elbow is the first component of the tail, which goes.
    return max(1, elbow) if float(below[elbow]) > sensitivity / count else count


#: Every rule by the name of its setting.
RULES: dict[str, Rule] = {
    "energy": by_energy,
    "cumulative": by_cumulative,
    "ratio": by_ratio,
    "knee": by_knee,
}
