"""Curvature matrices of size r x r: damping, inverse and square root, robust to singular ones, in float64."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prunedlora.errors import ConfigurationError, NonFiniteError, SingularCurvatureError
from prunedlora.linalg.numerics import holds, is_finite

#: Relative damping tried, in this order, where a matrix is not positive definite to working precision.
DAMPING_LADDER = (1e-10, 1e-8, 1e-6, 1e-4, 1e-2)
#: Smallest eigenvalue kept, relative to the largest, when damping alone does not help.
EIGENVALUE_FLOOR = 1e-8
#: Smallest eigenvalue of a square root's correlation matrix, relative to the largest.
ROOT_FLOOR = 1e-12


def damped(H: Float[Tensor, "*m r r"], damping: float) -> Float[Tensor, "*m r r"]:
    r"""Marquardt damping, :math:`H + \lambda \operatorname{diag}(H)`, in float64.

    Proportional to the diagonal, so that scores do not change under ``B[:, j] -> c B[:, j]``,
    ``A[j, :] -> A[j, :] / c``.  A zero on the diagonal (a component without curvature) becomes the smallest
    number that keeps the matrix invertible: its removal is free and moves nothing else.

    >>> damped(torch.tensor([[2.0, 0.0], [0.0, 4.0]]), 0.5)
    tensor([[3., 0.],
            [0., 6.]], dtype=torch.float64)
    """
    H = H.double()
    diagonal = H.diagonal(dim1=-2, dim2=-1)
    largest = diagonal.amax(dim=-1, keepdim=True)
    floor = torch.where(largest > 0, largest, torch.ones_like(largest)) * torch.finfo(H.dtype).eps
    return H + torch.diag_embed(damping * diagonal + torch.where(diagonal > 0, 0.0, floor))


def inverse(
    H: Float[Tensor, "*m r r"], damping: float = 0.0, name: str = "H"
) -> Float[Tensor, "*m r r"]:
    """Inverse of a positive (semi-)definite matrix in float64, after Marquardt damping; see `inverse_root`.

    Raises:
        ConfigurationError, NonFiniteError, SingularCurvatureError: as `inverse_root` does.

    >>> inverse(torch.tensor([[2.0, 1.0], [1.0, 2.0]]))
    tensor([[ 0.6667, -0.3333],
            [-0.3333,  0.6667]], dtype=torch.float64)
    """
    root = inverse_root(H, damping, name)
    return root.mT @ root


def inverse_root(
    H: Float[Tensor, "*m r r"], damping: float = 0.0, name: str = "H"
) -> Float[Tensor, "*m r r"]:
    r"""A root :math:`X` of the inverse, :math:`X^\top X = (H + \lambda \operatorname{diag} H)^{-1}`, in float64.

    Single rows, the diagonal and quadratic forms of the inverse take no more than that.  The matrix is first scaled
    to unit diagonal, so that the scale of single components costs no digits.  Where it is still singular, the
    damping is raised along `DAMPING_LADDER`, then eigenvalues are floored.

    Args:
        H: symmetric matrices, one per batch entry.
        damping: relative damping, >= 0.
        name: what to call the matrix in an error.

    Raises:
        ConfigurationError: negative damping.
        NonFiniteError: NaN or infinity in `H`.
        SingularCurvatureError: an eigenvalue so negative that `H` is not a curvature matrix.

    >>> inverse_root(torch.tensor([[4.0, 0.0], [0.0, 16.0]]))
    tensor([[0.5000, 0.0000],
            [0.0000, 0.2500]], dtype=torch.float64)
    """
    if damping < 0:
        raise ConfigurationError(f"damping must be >= 0, not {damping}")
    if not is_finite(H):
        raise NonFiniteError(
            f"{name} holds NaN or infinity; check the loss and the gradients before pruning"
        )
    # To unit diagonal, so that the condition number is that of the correlations.
    H = damped(H, damping)
    scale = H.diagonal(dim1=-2, dim2=-1).rsqrt()
    if not holds(torch.isfinite(scale)):
        raise SingularCurvatureError(f"{name} has a negative diagonal; a curvature matrix has none")
    correlation = scale.unsqueeze(-1) * H * scale.unsqueeze(-2)
    return _root_of_inverse_correlation(correlation, name) * scale.unsqueeze(-2)


def _root_of_inverse_correlation(R: Float[Tensor, "*m r r"], name: str) -> Float[Tensor, "*m r r"]:
    """The inverse of a Cholesky factor of matrices of unit diagonal, climbing the ladder only where needed."""
    eye = torch.eye(R.shape[-1], dtype=R.dtype, device=R.device)
    tolerance = R.shape[-1] * torch.finfo(R.dtype).eps
    # Cholesky, with more damping only for the batch entries that need it.
    factor, failed = _cholesky(R, tolerance)
    for level in DAMPING_LADDER:
        if holds(~failed):
            break
        better, still = _cholesky(R + level * eye, tolerance)
        factor = torch.where(failed[..., None, None], better, factor)
        failed = failed & still
    if holds(~failed):
        return torch.linalg.solve_triangular(factor, eye.expand_as(R), upper=False)
    # What no damping saved goes through its eigenvalues, if they are negative by rounding only.
    eigenvalues, vectors = torch.linalg.eigh(R)
    smallest = eigenvalues[..., 0]
    largest = eigenvalues[..., -1]
    if not holds(~failed | (smallest >= -DAMPING_LADDER[-1] * largest)):
        worst = (smallest / largest).min().item()
        raise SingularCurvatureError(
            f"{name} is indefinite (eigenvalues of its correlation matrix: smallest over largest {worst:.1e}, "
            f"condition number {1 / abs(worst):.1e}); use a Gram or Fisher matrix, or raise `damping`"
        )
    # The root from floored eigenvalues, put in where Cholesky failed.
    floored = eigenvalues.clamp(min=EIGENVALUE_FLOOR * largest.unsqueeze(-1))
    by_eigenvalues = vectors.mT / floored.sqrt().unsqueeze(-1)
    safe = torch.where(failed[..., None, None], eye, factor)
    by_cholesky = torch.linalg.solve_triangular(safe, eye.expand_as(R), upper=False)
    return torch.where(failed[..., None, None], by_eigenvalues, by_cholesky)


def _cholesky(
    R: Float[Tensor, "*m r r"], tolerance: float
) -> tuple[Float[Tensor, "*m r r"], Bool[Tensor, "*m"]]:
    """Cholesky factor and where it failed or lost all its digits."""
    factor, info = torch.linalg.cholesky_ex(R)
    return factor, (info != 0) | (
        factor.diagonal(dim1=-2, dim2=-1).square().amin(dim=-1) < tolerance
    )


def square_root(
    M: Float[Tensor, "*m r r"], name: str = "M"
) -> tuple[Float[Tensor, "*m r r"], Float[Tensor, "*m r r"]]:
    r"""A square root :math:`R` of a positive semi-definite matrix, :math:`R^\top R = M`, and its inverse.

    By eigenvalues of the matrix scaled to unit diagonal, floored at `ROOT_FLOOR` of the largest, so that a
    direction without weight keeps a tiny one and the inverse exists.  In float64.

    Raises:
        NonFiniteError: NaN or infinity in `M`.
        SingularCurvatureError: an eigenvalue so negative that `M` is not a second moment.

    >>> R, R_inverse = square_root(torch.tensor([[4.0, 0.0], [0.0, 9.0]]))
    >>> R.mT @ R, (R @ R_inverse).round(decimals=12)
    (tensor([[4., 0.],
            [0., 9.]], dtype=torch.float64), tensor([[1., 0.],
            [0., 1.]], dtype=torch.float64))
    """
    if not is_finite(M):
        raise NonFiniteError(
            f"{name} holds NaN or infinity; check the loss and the gradients before pruning"
        )
    # To unit diagonal; a component without weight gets a scale that can be divided by.
    diagonal = M.double().diagonal(dim1=-2, dim2=-1)
    largest = diagonal.amax(dim=-1, keepdim=True)
    floor = (
        torch.where(largest > 0, largest, torch.ones_like(largest)) * torch.finfo(torch.float64).eps
    )
    scale = torch.where(diagonal > 0, diagonal, floor).sqrt()
    eigenvalues, vectors = torch.linalg.eigh(M.double() / scale.unsqueeze(-1) / scale.unsqueeze(-2))
    # Negative eigenvalues are rounding or an error; what remains is floored and scaled back.
    top = eigenvalues[..., -1:].clamp(min=torch.finfo(torch.float64).eps)
    if not holds(eigenvalues[..., :1] >= -DAMPING_LADDER[3] * top):
        raise SingularCurvatureError(
            f"{name} is indefinite; a second moment has no negative eigenvalue"
        )
    root = torch.maximum(eigenvalues, ROOT_FLOOR * top).sqrt()
    return root.unsqueeze(-1) * vectors.mT * scale.unsqueeze(-2), vectors / root.unsqueeze(
        -2
    ) / scale.unsqueeze(-1)
