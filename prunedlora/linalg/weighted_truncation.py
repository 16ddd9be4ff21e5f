r"""Best approximation of an adapter by one of lower rank, in the metric of a Kronecker-factored curvature.

Under :math:`\|D^{1/2}(X - BA)C^{1/2}\|_F` only the :math:`r \times r` moments :math:`M_b = B^\top D B` and
:math:`M_a = A C A^\top` enter: with :math:`R_b^\top R_b = M_b`, :math:`R_a^\top R_a = M_a` and
:math:`R_b R_a^\top = U \Sigma V^\top`, the optimum is :math:`X = (B R_b^{-1} U_k \Sigma_k)(V_k^\top R_a^{-\top} A)`.
Both moments pass through the bottleneck: with :math:`z = Ax` and :math:`u = \partial L / \partial z`,
:math:`M_a = E[z z^\top]` and :math:`s^2 M_b = E[u u^\top]`.

Activation-weighted SVD of full weights is that of SVD-LLM (arXiv:2403.07378), Kronecker Fisher-weighted that of
GFWSVD (arXiv:2505.17974); here they cost two r-dimensional moments.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from prunedlora.errors import ConfigurationError, NonFiniteError
from prunedlora.linalg.curvature import square_root
from prunedlora.linalg.numerics import fits, is_finite
from prunedlora.linalg.qr import triangle
from prunedlora.linalg.truncation import Truncation, check_truncation, core_svd, truncation

#: Relative damping of a measured moment by the metric of the weights.
DAMPING = 1e-2
#: Eigenvalues of a Gram matrix of unit diagonal below this share of the largest are rounding: moments are float32.
COLUMN_SPACE_FLOOR = 1e-7
#: Squares of condition numbers, of Gram matrices scaled to unit diagonal, up to which Cholesky takes their place.
WELL_CONDITIONED = 1e6


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
    check_truncation(B, A, rank)
    P, Q, values = _maps_and_values(M_b, M_a, rank)
    out = truncation(B.double() @ P, Q @ A.double(), rank, B.dtype)
    basis = None if out.basis is None else (P @ out.basis[0], out.basis[1] @ Q)
    return Truncation(out.B, out.A, values, basis)


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
    if fits(squared <= WELL_CONDITIONED, f"{name}: Cholesky"):
        return R, R_inverse
    return square_root(M, name)


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
    if fits(squared <= WELL_CONDITIONED, "Gram matrix: Cholesky"):
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
