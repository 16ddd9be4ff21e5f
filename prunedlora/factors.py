"""The two factors of an adapter, which every room works on."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

#: Share of a squared norm below which a squared distance is mostly rounding.
_CANCELLED = 1e-10


@dataclass(frozen=True)
class Factors:
    """The two factors of an adapter (or of a batch of them); component j is ``B[:, j] A[j, :]``."""

    B: Float[Tensor, "*m d_out r"]
    A: Float[Tensor, "*m r d_in"]

    @property
    def rank(self) -> int:
        """Number of components."""
        return self.A.shape[-2]

    def without(self, removed: Int[Tensor, "*m count"]) -> "Factors":
        """The same factors with some components exactly zero.

        >>> Factors(torch.ones(1, 2), torch.ones(2, 1)).without(torch.tensor([0])).B
        tensor([[0., 1.]])
        """
        gone = torch.zeros(self.A.shape[:-1], dtype=torch.bool, device=self.A.device)
        gone = gone.scatter(-1, removed, True)
        return Factors(
            self.B.masked_fill(gone.unsqueeze(-2), 0.0), self.A.masked_fill(gone.unsqueeze(-1), 0.0)
        )


@dataclass(frozen=True)
class Scaled:
    """Factors of one module and the scaling before their product.

    Attributes:
        B: (d_out, k).
        A: (k, d_in).
        scaling: the factor s in ``W = W0 + s B A``.
    """

    B: Float[Tensor, "d_out k"]
    A: Float[Tensor, "k d_in"]
    scaling: float = 1.0

    @property
    def rank(self) -> int:
        """Number of components."""
        return int(self.A.shape[0])


def squared_distance(
    B: Float[Tensor, "d_out r"],
    A: Float[Tensor, "r d_in"],
    B2: Float[Tensor, "d_out k"],
    A2: Float[Tensor, "k d_in"],
) -> tuple[float, float]:
    r"""``||B A - B2 A2||_F^2`` and ``||B A||_F^2``, without forming the products.

    Through Gram matrices, of which rounding leaves about 1e-15 of the second; a distance near that is computed again by
    QR decompositions, with the root of that error.

    >>> squared_distance(torch.eye(2), torch.eye(2), torch.eye(2)[:, :1], torch.eye(2)[:1])
    (1.0, 2.0)
    """
    left, right = torch.cat([B, -B2], dim=1), torch.cat([A, A2])
    products = (left.mT @ left) * (right @ right.mT)
    r = A.shape[0]
    distance, norm = float(products.sum()), float(products[:r, :r].sum())
    if distance < _CANCELLED * norm:
        # The triangles of both sides have the product's norm, and no square is subtracted.
        R_left, R_right = (torch.linalg.qr(side.double(), mode="r").R for side in (left, right.mT))
        distance = float((R_left @ R_right.mT).square().sum())
    return max(0.0, distance), norm
