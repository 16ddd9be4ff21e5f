r"""QR decompositions of tall factors, X = QR in float64, whose Q is never formed: only products with it are wanted.

Two ways.  By **Cholesky**: :math:`R^\top R = X^\top X` and :math:`Q = X R^{-1}`, matrix products for the most part,
whose loss of orthogonality is about :math:`\kappa(X)^2` times the precision (Yamamoto, Nakatsukasa, Yanagisawa and
Fukaya, Roundoff error analysis of the CholeskyQR2 algorithm, ETNA 44, 2015).  By **reflections** (Householder):
without such a loss, at a higher price.
"""

import torch
from jaxtyping import Float
from torch import Tensor

#: Loss of orthogonality allowed, relative to the precision of the input's dtype.
LOSS = 0.01


class ByCholesky:
    """See the module."""

    def __init__(
        self, X: Float[Tensor, "*m d r"], R: Float[Tensor, "*m r r"], R_inverse: Tensor
    ) -> None:
        self._X = X
        self.R = R
        self._R_inverse = R_inverse

    @classmethod
    def of(cls, X: Float[Tensor, "*m d r"], allowed: float) -> "ByCholesky | None":
        """The decomposition, or None where the square of a condition number exceeds `allowed`."""
        # Columns of unit length, so that the scale of single components costs no digits.
        gram = X.mT @ X
        scale = gram.diagonal(dim1=-2, dim2=-1).sqrt()
        L, failed = torch.linalg.cholesky_ex(gram / scale.unsqueeze(-1) / scale.unsqueeze(-2))
        if failed.any() or not scale.all():
            return None
        # An upper bound of the condition number, from the factor and its inverse.
        identity = torch.eye(X.shape[-1], dtype=X.dtype, device=X.device).expand_as(L)
        inverse = torch.linalg.solve_triangular(L, identity, upper=False)
        squared_condition = L.square().sum(dim=(-2, -1)) * inverse.square().sum(dim=(-2, -1))
        if not (squared_condition <= allowed).all():
            return None
        return cls(X, L.mT * scale.unsqueeze(-2), inverse.mT / scale.unsqueeze(-1))

    def apply(self, Y: Float[Tensor, "*m r k"]) -> Float[Tensor, "*m d k"]:
        """Q Y."""
        return self._X @ (self._R_inverse @ Y)


class ByReflections:
    """See the module; where d is below r, Q is d x d."""

    def __init__(self, X: Float[Tensor, "*m d r"]) -> None:
        self._rows = X.shape[-2]
        self._short = min(X.shape[-2:])
        self._reflections, self._tau = torch.geqrf(X)
        self.R = self._reflections[..., : self._short, :].triu()

    def apply(self, Y: Float[Tensor, "*m short k"]) -> Float[Tensor, "*m d k"]:
        """Q Y."""
        padded = torch.nn.functional.pad(Y, (0, 0, 0, self._rows - self._short))
        return torch.ormqr(self._reflections[..., : self._short], self._tau, padded)


class Differentiable:
    """An explicit Q: reflections that are kept as such have no derivative in torch."""

    def __init__(self, X: Float[Tensor, "*m d r"]) -> None:
        self._Q, self.R = torch.linalg.qr(X)

    def apply(self, Y: Float[Tensor, "*m short k"]) -> Float[Tensor, "*m d k"]:
        """Q Y."""
        return self._Q @ Y


def orthogonal(X: Float[Tensor, "*m d r"]) -> ByCholesky | ByReflections | Differentiable:
    r"""Decompose X: by Cholesky where that costs no digit of its dtype, by reflections otherwise.

    Where a gradient with respect to X may be asked for, Q is formed after all.

    The condition number is bounded by :math:`\|R\|_F \|R^{-1}\|_F`, after the columns are scaled to unit length.
    Input in float64 always takes reflections.

    >>> X = torch.tensor([[3.0, 0.0], [4.0, 1.0], [0.0, 1.0]])
    >>> decomposed = orthogonal(X)
    >>> torch.allclose(decomposed.apply(decomposed.R), X.double())
    True
    """
    wide = X.double()
    if torch.is_grad_enabled() and X.requires_grad:
        return Differentiable(wide)
    allowed = LOSS * torch.finfo(X.dtype).eps / torch.finfo(torch.float64).eps
    if X.shape[-2] >= X.shape[-1] and allowed > X.shape[-1] ** 2:  # no bound is below r
        found = ByCholesky.of(wide, allowed)
        if found is not None:
            return found
    return ByReflections(wide)
