r"""QR decompositions of tall factors, X = QR in float64, whose Q is never formed: only products with it are wanted.

Two ways.  By **Cholesky**: :math:`R^\top R = X^\top X` and :math:`Q = X R^{-1}`, matrix products for the most part,
whose loss of orthogonality is about :math:`\kappa(X)^2` times the precision (Yamamoto, Nakatsukasa, Yanagisawa and
Fukaya, Roundoff error analysis of the CholeskyQR2 algorithm, ETNA 44, 2015).  By **reflections** (Householder):
without such a loss, at a higher price.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from prunedlora.linalg.numerics import fits

#: Loss of orthogonality allowed, relative to the precision of the input's dtype.
LOSS = 0.01
#: Largest condition number that a second decomposition is trusted with.
TWICE = 1e6


class ByCholesky:
    """See the module."""

    def __init__(
        self, X: Float[Tensor, "*m d r"], R: Float[Tensor, "*m r r"], R_inverse: Tensor
    ) -> None:
        self._X = X
        self.R = R
        self._R_inverse = R_inverse

    @classmethod
    def of(
        cls, X: Float[Tensor, "*m d r"], allowed: float, *, twice: bool = False, name: str = "X"
    ) -> "ByCholesky | None":
        """The decomposition, or None where the square of a condition number exceeds `allowed`.

        With `twice`, X R^-1 is decomposed once more where that may help: then condition numbers up to `TWICE` will do.
        """
        R, R_inverse, squared = triangle(X.mT @ X)
        if fits(squared <= allowed, f"{name}: Cholesky"):
            return cls(X, R, R_inverse)
        if not (twice and fits(squared <= TWICE**2, f"{name}: twice")):
            return None
        Q = X @ R_inverse
        second, second_inverse, squared = triangle(Q.mT @ Q)
        if not fits(squared <= allowed, f"{name}: after two"):
            return None
        return cls(X, second @ R, R_inverse @ second_inverse)

    def apply(self, Y: Float[Tensor, "*m r k"]) -> Float[Tensor, "*m d k"]:
        """Q Y."""
        return self._X @ self.coordinates(Y)

    def coordinates(self, Y: Float[Tensor, "*m r k"]) -> Float[Tensor, "*m r k"]:
        """P with Q Y = X P."""
        return self._R_inverse @ Y

    def solve(self, Y: Float[Tensor, "*m d k"]) -> Float[Tensor, "*m r k"]:
        """The least-squares solution of X P = Y."""
        return self._R_inverse @ (self._R_inverse.mT @ (self._X.mT @ Y))


def triangle(
    gram: Float[Tensor, "*m r r"],
) -> tuple[Float[Tensor, "*m r r"], Float[Tensor, "*m r r"], Float[Tensor, "*m"]]:
    r"""R with :math:`R^\top R` a Gram matrix, its inverse, and a bound of the square of its condition number.

    The condition number is that after scaling to unit diagonal; not finite where there is no R.
    """
    # Unit diagonal, so that the scale of single components costs no digits.
    scale = gram.diagonal(dim1=-2, dim2=-1).sqrt()
    L, failed = torch.linalg.cholesky_ex(gram / scale.unsqueeze(-1) / scale.unsqueeze(-2))
    # An upper bound of the condition number, from the factor and its inverse.
    identity = torch.eye(L.shape[-1], dtype=L.dtype, device=L.device).expand_as(L)
    inverse = torch.linalg.solve_triangular(L, identity, upper=False)
    squared = L.square().sum(dim=(-2, -1)) * inverse.square().sum(dim=(-2, -1))
    squared = squared.where(failed == 0, torch.inf)
    return L.mT * scale.unsqueeze(-2), inverse.mT / scale.unsqueeze(-1), squared


class ByReflections:
    """See the module; where d is below r, Q is d x d."""

    def __init__(self, X: Float[Tensor, "*m d r"]) -> None:
        self._rows = X.shape[-2]
        self._short = min(X.shape[-2:])
        self._reflections, self._tau = torch.geqrf(X)
        self.R = self._reflections[..., : self._short, :].triu()

    def coordinates(self, Y: Float[Tensor, "*m short k"]) -> None:
        """Not known: R may be singular."""

    def apply(self, Y: Float[Tensor, "*m short k"]) -> Float[Tensor, "*m d k"]:
        """Q Y."""
        padded = torch.nn.functional.pad(Y, (0, 0, 0, self._rows - self._short))
        return torch.ormqr(self._reflections[..., : self._short], self._tau, padded)


class Differentiable:
    """An explicit Q: reflections that are kept as such have no derivative in torch."""

    def __init__(self, X: Float[Tensor, "*m d r"]) -> None:
        self._Q, self.R = torch.linalg.qr(X)

    def coordinates(self, Y: Float[Tensor, "*m short k"]) -> None:
        """Not known: R may be singular."""

    def apply(self, Y: Float[Tensor, "*m short k"]) -> Float[Tensor, "*m d k"]:
        """Q Y."""
        return self._Q @ Y


def orthogonal(
    X: Float[Tensor, "*m d r"], precision: torch.dtype | None = None, name: str = "X"
) -> ByCholesky | ByReflections | Differentiable:
    r"""Decompose X: by Cholesky where that costs no digit of `precision`, by reflections otherwise.

    The precision is by default that of the dtype of X; the name says which of the factors it is, see
    `prunedlora.linalg.numerics.fits`.  Where a gradient with respect to X may be asked for, Q is
    formed after all.

    The condition number is bounded by :math:`\|R\|_F \|R^{-1}\|_F`, after the columns are scaled to unit length.
    For the precision of float64 it is always reflections.

    >>> X = torch.tensor([[3.0, 0.0], [4.0, 1.0], [0.0, 1.0]])
    >>> decomposed = orthogonal(X)
    >>> torch.allclose(decomposed.apply(decomposed.R), X.double())
    True
    """
    wide = X.double()
    if torch.is_grad_enabled() and X.requires_grad:
        return Differentiable(wide)
    # Reflections are slow on a GPU, where a second round of matrix products costs next to nothing.
    return _by_cholesky(wide, precision or X.dtype, twice=X.is_cuda, name=name) or ByReflections(
        wide
    )


def least_squares(
    X: Float[Tensor, "*m d r"], Y: Float[Tensor, "*m d k"]
) -> Float[Tensor, "*m r k"]:
    r"""The solution P of least norm of :math:`\|XP - Y\|_F \to \min`, in float64.

    By Cholesky where that costs no digit of the dtype of X, else by the pseudo-inverse of the triangle of X = QR.

    >>> least_squares(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([[4.0], [1.0]]))
    tensor([[2.],
            [0.]], dtype=torch.float64)
    """
    wide = X.double()
    if (found := _by_cholesky(wide, X.dtype)) is not None:
        return found.solve(Y.double())
    Q, R = torch.linalg.qr(wide)
    rounding = max(X.shape[-2:]) * torch.finfo(wide.dtype).eps
    return torch.linalg.pinv(R, rtol=rounding) @ (Q.mT @ Y.double())


def _by_cholesky(
    X: Float[Tensor, "*m d r"], precision: torch.dtype, *, twice: bool = False, name: str = "X"
) -> ByCholesky | None:
    allowed = LOSS * torch.finfo(precision).eps / torch.finfo(torch.float64).eps
    if X.shape[-2] >= X.shape[-1] and allowed > X.shape[-1] ** 2:  # no bound is below r
        return ByCholesky.of(X, allowed, twice=twice, name=name)
    return None
