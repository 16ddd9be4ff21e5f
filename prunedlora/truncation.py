r"""Best approximation of an adapter by one of lower rank, through its factors.

The product :math:`BA` is never formed: a QR decomposition of each factor leaves an :math:`r \times r` problem.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from prunedlora.errors import ConfigurationError, NonFiniteError


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
    r = B.shape[-1]
    if not 1 <= rank <= r:
        raise ConfigurationError(f"rank must be between 1 and {r}, the rank of the adapter, not {rank}")
    if not (torch.isfinite(B).all() and torch.isfinite(A).all()):
        raise NonFiniteError("the adapter's weights hold NaN or infinity; nothing can be truncated")
    Q_b, R_b = torch.linalg.qr(B.double())
    Q_a, R_a = torch.linalg.qr(A.mT.double())
    U, S, Vh = torch.linalg.svd(R_b @ R_a.mT, full_matrices=False)
    root = S[..., :rank].sqrt()
    left = Q_b @ (U[..., :rank] * root.unsqueeze(-2))
    right = (root.unsqueeze(-1) * Vh[..., :rank, :]) @ Q_a.mT
    missing = rank - root.shape[-1]
    left = torch.nn.functional.pad(left, (0, missing))
    right = torch.nn.functional.pad(right, (0, 0, 0, missing))
    return left.to(B.dtype), right.to(A.dtype)
