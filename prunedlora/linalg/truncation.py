r"""Best approximation of an adapter by one of lower rank, through its factors.

The product :math:`BA` is never formed.  In the Frobenius norm a QR decomposition of each factor leaves an
:math:`r \times r` problem.  Under a Kronecker-factored curvature, :math:`\|D^{1/2}(X - BA)C^{1/2}\|_F`, only the
:math:`r \times r` moments :math:`M_b = B^\top D B` and :math:`M_a = A C A^\top` enter: with
:math:`R_b^\top R_b = M_b`, :math:`R_a^\top R_a = M_a` and :math:`R_b R_a^\top = U \Sigma V^\top`, the optimum is
:math:`X = (B R_b^{-1} U_k \Sigma_k)(V_k^\top R_a^{-\top} A)`.  Both moments pass through the bottleneck: with
:math:`z = Ax` and :math:`u = \partial L / \partial z`, :math:`M_a = E[z z^\top]` and
:math:`s^2 M_b = E[u u^\top]`.

Activation-weighted SVD of full weights is that of SVD-LLM (arXiv:2403.07378), Kronecker Fisher-weighted that of
GFWSVD (arXiv:2505.17974); here they cost two r-dimensional moments.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prunedlora.errors import ConfigurationError, NonFiniteError
from prunedlora.linalg.curvature import square_root
from prunedlora.linalg.numerics import is_finite
from prunedlora.linalg.qr import orthogonal, triangle

#: Eigenvalues of a Gram matrix of unit diagonal below this share of the largest are rounding: moments are float32.
COLUMN_SPACE_FLOOR = 1e-7
#: Squares of condition numbers, of Gram matrices scaled to unit diagonal, up to which Cholesky takes their place.
WELL_CONDITIONED = 1e6
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
    _check(B, A, rank)
    # The SVD of BA is that of the small product of the two triangles.
    b = orthogonal(B, precision)
    a = orthogonal(A.mT, precision)
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
        if ((U.mT @ U - eye).abs() < SKEW).all():
            return U, values, _columns(V, order).mT
    U, S, Vh = torch.linalg.svd(C, full_matrices=False)
    return U, S, Vh


def _columns(X: Tensor, order: Tensor) -> Tensor:
    return X.gather(-1, order.unsqueeze(-2).expand_as(X))


def truncate_weighted(
    B: Float[Tensor, "*m d_out r"],
    A: Float[Tensor, "*m r d_in"],
    rank: int,
    M_b: Float[Tensor, "*m r r"],
    M_a: Float[Tensor, "*m r r"],
) -> tuple[Float[Tensor, "*m d_out k"], Float[Tensor, "*m k d_in"]]:
    r"""Factors of the best rank-`rank` approximation of :math:`BA` in the metric of two moments.

    Minimises :math:`\|D^{1/2}(X - BA)C^{1/2}\|_F` given :math:`M_b = B^\top D B` and :math:`M_a = A C A^\top`;
    the scale of either does not matter.  ``M_b = B.mT @ B`` and ``M_a = A @ A.mT`` make it `truncate`.  The
    result depends on the product :math:`BA` only, not on how it is factored, up to rounding.  The factors are
    balanced as those of `truncate`, so that training can go on from them, whatever the units of the moments.

    Args:
        B: left factors, leading dimensions are batches.
        A: right factors.
        rank: components kept, 1..r.
        M_b: output-side moments; may be singular.
        M_a: input-side moments; may be singular.

    Raises:
        ConfigurationError: `rank` out of range.
        NonFiniteError: NaN or infinity in an argument.
        SingularCurvatureError: a moment with a negative eigenvalue.

    >>> B, A = torch.diag(torch.tensor([4.0, 1.0])), torch.eye(2)
    >>> M_b, M_a = torch.diag(torch.tensor([16.0, 1.0])), torch.diag(torch.tensor([0.01, 1.0]))
    >>> kept_B, kept_A = truncate_weighted(B, A, 1, M_b, M_a)
    >>> (kept_B @ kept_A).round(decimals=6).abs()
    tensor([[0., 0.],
            [0., 1.]])
    """
    out = weighted_truncation(B, A, rank, M_b, M_a)
    return out.B.to(B.dtype), out.A.to(A.dtype)


def weighted_truncation(
    B: Float[Tensor, "*m d_out r"],
    A: Float[Tensor, "*m r d_in"],
    rank: int,
    M_b: Float[Tensor, "*m r r"],
    M_a: Float[Tensor, "*m r r"],
) -> Truncation:
    """What `truncate_weighted` returns, with all singular values, those of `singular_values`, and basis.

    Raises:
        ConfigurationError, NonFiniteError, SingularCurvatureError: as `truncate_weighted` does.

    >>> weighted_truncation(torch.eye(2), torch.eye(2), 1, torch.eye(2), torch.eye(2)).values
    tensor([1., 1.], dtype=torch.float64)
    """
    _check(B, A, rank)
    P, Q, values = _maps_and_values(M_b, M_a, rank)
    out = truncation(B.double() @ P, Q @ A.double(), rank, B.dtype)
    basis = None if out.basis is None else (P @ out.basis[0], out.basis[1] @ Q)
    return Truncation(out.B, out.A, values, basis)


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


def core_maps(
    M_b: Float[Tensor, "*m r r"], M_a: Float[Tensor, "*m r r"], rank: int
) -> tuple[Float[Tensor, "*m r k"], Float[Tensor, "*m k r"]]:
    r"""The maps :math:`P`, :math:`Q` of `truncate_weighted` before balancing: :math:`B' = BP`, :math:`A' = QA`.

    >>> P, Q = core_maps(torch.diag(torch.tensor([9.0, 1.0])), torch.eye(2), 1)
    >>> (P @ Q).round(decimals=6).abs()
    tensor([[1., 0.],
            [0., 0.]], dtype=torch.float64)
    """
    P, Q, _ = _maps_and_values(M_b, M_a, rank)
    return P, Q


def _maps_and_values(
    M_b: Float[Tensor, "*m r r"], M_a: Float[Tensor, "*m r r"], rank: int
) -> tuple[Float[Tensor, "*m r k"], Float[Tensor, "*m k r"], Float[Tensor, "*m r"]]:
    R_b, R_b_inverse = _root(M_b, "M_b")
    R_a, R_a_inverse = _root(M_a, "M_a")
    U, S, Vh = core_svd(R_b @ R_a.mT)
    root = S[..., :rank].sqrt()
    P = R_b_inverse @ (U[..., :rank] * root.unsqueeze(-2))
    return P, (root.unsqueeze(-1) * Vh[..., :rank, :]) @ R_a_inverse.mT, S


def singular_values(
    M_b: Float[Tensor, "*m r r"], M_a: Float[Tensor, "*m r r"]
) -> Float[Tensor, "*m r"]:
    r"""Singular values of :math:`D^{1/2} B A C^{1/2}` from its moments, decreasing, float64.

    The squares of the last r - k add up to the squared error of `truncate_weighted` at rank k.

    >>> singular_values(torch.diag(torch.tensor([9.0, 1.0])), torch.eye(2))
    tensor([3., 1.], dtype=torch.float64)
    """
    R_b, _ = _root(M_b, "M_b")
    R_a, _ = _root(M_a, "M_a")
    return torch.linalg.svdvals(R_b @ R_a.mT)


def _root(
    M: Float[Tensor, "*m r r"], name: str
) -> tuple[Float[Tensor, "*m r r"], Float[Tensor, "*m r r"]]:
    """A square root and its inverse: by Cholesky where M is far from singular, else `square_root`."""
    R, R_inverse, squared = triangle(M.double())
    if (squared <= WELL_CONDITIONED).all():
        return R, R_inverse
    return square_root(M, name)


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


def damped_moment(
    M: Float[Tensor, "*m r r"], gram: Float[Tensor, "*m r r"], damping: float
) -> Float[Tensor, "*m r r"]:
    r"""Damping in the metric of the factor: :math:`B^\top D B + \lambda \bar d B^\top B`, float64.

    :math:`\bar d = \operatorname{tr}((B^\top B)^{+} B^\top D B)/\operatorname{rank} B` is the mean of `D` over the
    column space of `B`, so `damping` is relative and the outcome does not depend on the basis.

    Args:
        M: a moment, of B or of A.
        gram: ``B.mT @ B``, or ``A @ A.mT``.
        damping: relative weight, >= 0.

    Raises:
        ConfigurationError: negative damping.
        NonFiniteError: NaN or infinity in an argument.

    >>> damped_moment(torch.diag(torch.tensor([4.0, 2.0])), torch.eye(2), 0.5)
    tensor([[5.5000, 0.0000],
            [0.0000, 3.5000]], dtype=torch.float64)
    """
    if damping < 0:
        raise ConfigurationError(f"damping must be >= 0, not {damping}")
    if not (is_finite(M) and is_finite(gram)):
        raise NonFiniteError(
            "a moment holds NaN or infinity; check the adapter, the loss and the gradients first"
        )
    if damping == 0:
        return M.double()
    return M.double() + damping * _mean_over(M.double(), gram.double()) * gram.double()


def _mean_over(
    M: Float[Tensor, "*m r r"], gram: Float[Tensor, "*m r r"]
) -> Float[Tensor, "*m 1 1"]:
    """Mean of D over the column space of the factor, whose dimension may be below r, as where r exceeds d_out."""
    # Where the columns are independent beyond doubt, the mean is that over all r of them.
    _, R_inverse, squared = triangle(gram)
    if (squared <= WELL_CONDITIONED).all():
        trace = ((M @ R_inverse) * R_inverse).sum(dim=(-2, -1))
        return (trace / M.shape[-1]).clamp(min=0.0)[..., None, None]
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    scale = torch.where(diagonal > 0, diagonal.rsqrt(), 0.0)
    eigenvalues, vectors = torch.linalg.eigh(gram * scale.unsqueeze(-1) * scale.unsqueeze(-2))
    within = eigenvalues > COLUMN_SPACE_FLOOR * eigenvalues[..., -1:]
    vectors = vectors * scale.unsqueeze(-1)
    along = (vectors * (M @ vectors)).sum(dim=-2)
    shares = torch.where(within, along / eigenvalues.clamp(min=torch.finfo(gram.dtype).tiny), 0.0)
    return (shares.sum(dim=-1) / within.sum(dim=-1).clamp(min=1)).clamp(min=0.0)[..., None, None]


def _check(B: Tensor, A: Tensor, rank: int) -> None:
    r = B.shape[-1]
    if not 1 <= rank <= r:
        raise ConfigurationError(
            f"rank must be between 1 and {r}, the rank of the adapter, not {rank}"
        )
    if not (is_finite(B) and is_finite(A)):
        raise NonFiniteError("the adapter's weights hold NaN or infinity; nothing can be truncated")
