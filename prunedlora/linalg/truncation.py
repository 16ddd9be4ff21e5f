r"""Best approximation of an adapter by one of lower rank, through its factors.

The product :math:`BA` is never formed: a QR decomposition of each factor leaves an :math:`r \times r` problem.  In
other metrics than that of the weights: `prunedlora.linalg.weighted_truncation`.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prunedlora.errors import ConfigurationError, NonFiniteError
from prunedlora.linalg.numerics import fits, is_finite
from prunedlora.linalg.qr import orthogonal

#: Cosine of the angle between two left singular vectors up to which `core_svd` trusts its fast way.
SKEW = 1e-6


def truncate(
    B: Float[Tensor, "*m d_out r"], A: Float[Tensor, "*m r d_in"], rank: int
) -> tuple[Float[Tensor, "*m d_out k"], Float[Tensor, "*m k d_in"]]:
    r"""Factors of the best rank-`rank` approximation of :math:`BA` in the Frobenius norm (Eckart-Young).

    With :math:`B = Q_b R_b`, :math:`A^\top = Q_a R_a` and :math:`R_b R_a^\top = U \Sigma V^\top`, the result is
    :math:`B' = Q_b U_k \Sigma_k^{1/2}` and :math:`A' = \Sigma_k^{1/2} V_k^\top Q_a^\top`: balanced factors whose
    components are ordered by singular value.  Computed in float64, returned in the dtype of the input.

    Args:
        B: left factors, leading dimensions are batches.
        A: right factors.
        rank: components kept, 1..r.  Where d_out or d_in is smaller than `rank`, the rest is zero.

    Raises:
        ConfigurationError: `rank` out of range.
        NonFiniteError: NaN or infinity in a factor.

    >>> B, A = truncate(torch.diag(torch.tensor([4.0, 1.0])), torch.eye(2), 1)
    >>> (B @ A).abs()
    tensor([[4., 0.],
            [0., 0.]])
    """
    out = truncation(B, A, rank)
    return out.B.to(B.dtype), out.A.to(A.dtype)


def truncate_with_values(
    B: Float[Tensor, "*m d_out r"], A: Float[Tensor, "*m r d_in"], rank: int
) -> tuple[Float[Tensor, "*m d_out k"], Float[Tensor, "*m k d_in"], Float[Tensor, "*m r"]]:
    r"""What `truncate` returns, in float64, and all r singular values of :math:`BA`, decreasing.

    Raises:
        ConfigurationError, NonFiniteError: as `truncate` does.

    >>> truncate_with_values(torch.diag(torch.tensor([4.0, 1.0])), torch.eye(2), 1)[2]
    tensor([4., 1.], dtype=torch.float64)
    """
    out = truncation(B, A, rank)
    return out.B, out.A, out.values


@dataclass(frozen=True)
class Truncation:
    """Factors of lower rank, in float64.

    Attributes:
        B: the left one.
        A: the right one.
        values: all r singular values, decreasing, of BA or of what takes its place in a metric.
        basis: P and Q with ``B' = B P`` and ``A' = Q A``, where they came up on the way.
    """

    B: Float[Tensor, "*m d_out k"]
    A: Float[Tensor, "*m k d_in"]
    values: Float[Tensor, "*m r"]
    basis: tuple[Float[Tensor, "*m r k"], Float[Tensor, "*m k r"]] | None


def truncation(
    B: Float[Tensor, "*m d_out r"],
    A: Float[Tensor, "*m r d_in"],
    rank: int,
    precision: torch.dtype | None = None,
) -> Truncation:
    """What `truncate` returns, with singular values and basis, as exact as rounding to `precision` asks for.

    The precision is by default that of the dtype of B and A.

    Raises:
        ConfigurationError, NonFiniteError: as `truncate` does.

    >>> truncation(torch.eye(2), torch.diag(torch.tensor([4.0, 1.0])), 1).basis[0].abs()
    tensor([[2.],
            [0.]], dtype=torch.float64)
    """
    check_truncation(B, A, rank)
    # The SVD of BA is that of the small product of the two triangles.
    b = orthogonal(B, precision, "B")
    a = orthogonal(A.mT, precision, "A")
    U, S, Vh = core_svd(b.R @ a.R.mT)
    # Both factors get the root of the singular values, so that they are balanced.
    root = S[..., :rank].sqrt().unsqueeze(-2)
    U = U[..., :rank] * root
    V = Vh.mT[..., :rank] * root
    # Q of the decompositions is not formed: Q_b U = B (R_b^-1 U).
    P, Q = b.coordinates(U), a.coordinates(V)
    left = b.apply(U) if P is None else B.double() @ P
    right = (a.apply(V) if Q is None else A.mT.double() @ Q).mT
    r = B.shape[-1]
    if S.shape[-1] == r:
        return Truncation(left, right, S, None if P is None or Q is None else (P, Q.mT))
    # A module narrower than its rank has fewer singular values than components: zeros for the rest.
    pad = torch.nn.functional.pad
    missing = rank - root.shape[-1]
    left, right = pad(left, (0, missing)), pad(right, (0, 0, 0, missing))
    return Truncation(left, right, pad(S, (0, r - S.shape[-1])), None)


def core_svd(
    C: Float[Tensor, "*m p q"],
) -> tuple[Float[Tensor, "*m p s"], Float[Tensor, "*m s"], Float[Tensor, "*m s q"]]:
    r"""Singular value decomposition of a small matrix, :math:`C = U \Sigma V^\top`, s = min(p, q).

    By the eigenvectors V of :math:`C^\top C`, in a half to a tenth of the time: :math:`CV = U \Sigma` then has
    orthogonal columns but for rounding, which grows with the square of the condition number.  The product
    is :math:`C` to the last digit in any case, and where the columns of U are orthogonal up to `SKEW`, singular values
    are too, relative to the largest.  Where they are not, as where C is singular, it is torch's own.

    >>> core_svd(torch.tensor([[0.0, 2.0], [3.0, 0.0]], dtype=torch.float64))[1]
    tensor([3., 2.], dtype=torch.float64)
    """
    if C.shape[-2] == C.shape[-1] > 1 and not (torch.is_grad_enabled() and C.requires_grad):
        _, V = torch.linalg.eigh(C.mT @ C)
        image = C @ V
        values = torch.linalg.vector_norm(image, dim=-2)
        # The order of the eigenvalues is that of the lengths but for the last digits.
        values, order = values.sort(dim=-1, descending=True)
        U = _columns(image, order) / values.unsqueeze(-2)
        eye = torch.eye(C.shape[-1], dtype=C.dtype, device=C.device)
        if fits((U.mT @ U - eye).abs() < SKEW, "core: eigenvectors"):
            return U, values, _columns(V, order).mT
    U, S, Vh = torch.linalg.svd(C, full_matrices=False)
    return U, S, Vh


def _columns(X: Tensor, order: Tensor) -> Tensor:
    return X.gather(-1, order.unsqueeze(-2).expand_as(X))


def balanced(
    B: Float[Tensor, "*m d_out k"], A: Float[Tensor, "*m k d_in"], dtype: torch.dtype
) -> tuple[Float[Tensor, "*m d_out k"], Float[Tensor, "*m k d_in"]]:
    r"""The factors :math:`B'`, :math:`A'` of the same product with :math:`B'^\top B' = A' A'^\top` diagonal.

    >>> B, A = balanced(torch.tensor([[100.0]]), torch.tensor([[0.01]]), torch.float32)
    >>> (B * A).item(), B.abs().item()
    (1.0, 1.0)
    """
    out = truncation(B, A, B.shape[-1], dtype)
    return out.B.to(dtype), out.A.to(dtype)


def rank_for_energy(values: Float[Tensor, "*m r"], energy: float) -> Int[Tensor, "*m"]:
    r"""Smallest rank that retains the share `energy` of :math:`\sum \sigma_i^2`, at least 1.

    Args:
        values: singular values, decreasing.
        energy: share to retain, in (0, 1].

    Raises:
        ConfigurationError: `energy` out of range.

    >>> rank_for_energy(torch.tensor([3.0, 1.0, 0.0]), 0.95).item()
    2
    """
    if not 0 < energy <= 1:
        raise ConfigurationError(f"energy must be in (0, 1], not {energy}")
    kept = values.double().square().cumsum(dim=-1)
    short = kept < energy * kept[..., -1:] * (1 - 1e-12)
    return (short.sum(dim=-1) + 1).clamp(max=values.shape[-1])


def check_truncation(B: Tensor, A: Tensor, rank: int) -> None:
    """Refuse a rank that there is not, with a ConfigurationError, and NaN or infinity, with a NonFiniteError."""
    r = B.shape[-1]
    if not 1 <= rank <= r:
        raise ConfigurationError(
            f"rank must be between 1 and {r}, the rank of the adapter, not {rank}"
        )
    if not (is_finite(B) and is_finite(A)):
        raise NonFiniteError("the adapter's weights hold NaN or infinity; nothing can be truncated")
