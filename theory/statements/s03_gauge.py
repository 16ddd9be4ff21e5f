r"""S3: what survives a change of basis of the adapter, :math:`B \to B R^{-1}`, :math:`A \to R A`.

**Statement.**  :math:`BA` does not change under :math:`B \to B R^{-1}`, :math:`A \to R A`; the gradients change as
:math:`G_B \to G_B R^\top`, :math:`G_A \to R^{-\top} G_A`.

(a) *Marquardt damping.*  Let :math:`R = \operatorname{diag}(c)`, all :math:`c_j \neq 0`.  The elimination costs of
Algorithm 1 with curvature :math:`H + \lambda \operatorname{diag}(H)`, and the product :math:`B'A'` that it keeps, do
not change.

(b) *Absolute damping.*  With :math:`H + \lambda I` they do: the chosen mask can flip.

(c) *General R.*  Removing components of the given basis is not invariant, whatever the damping.

(d) Truncation through the singular value decomposition of :math:`BA` is invariant under every invertible :math:`R`.

**Proof.**  (a) :math:`H_B = G_B^\top G_B \to R H_B R`, and :math:`\operatorname{diag}(H_B) \to R
\operatorname{diag}(H_B) R`, so the damped curvature is :math:`R H R` too, and its inverse :math:`R^{-1} H^{-1}
R^{-1}`.  A column of :math:`B` becomes :math:`B_{:,j} / c_j`, and the score :math:`\|B_{:,j}\|^2 / (H^{-1})_{jj}` is
multiplied by :math:`c_j^{-2} / c_j^{-2} = 1`.  The step :math:`W - W_{:,j} (H^{-1})_{j,:} / (H^{-1})_{jj}` becomes
itself times :math:`R^{-1}`, and the down-dated inverse keeps the form :math:`R^{-1} K R^{-1}`; so by induction every
cost is unchanged and the final :math:`B'` is multiplied by :math:`R^{-1}`.  The same with :math:`R^{-1}` for
:math:`A`, and :math:`B' R^{-1} R A' = B' A'`.

(b) :func:`flip`: :math:`B = A = I_2`, gradients with second moment diag(1, 2) for both factors, :math:`\lambda = 1`,
:math:`c = (10, 1)`.  The costs :math:`\tfrac12 (h_B + 1) b^2 + \tfrac12 (h_A + 1) a^2` of the two components are
(2, 3) before; after, the first is :math:`\tfrac12 \cdot 101 \cdot 0.01 + \tfrac12 \cdot 1.01 \cdot 100 = 51.005`, so
the other component is removed.

(c) :func:`rotation`: two orthogonal components of sizes 2 and 1, unit curvature.  In the given basis the small one is
removed and the large one is kept; rotated by 45° both components are as large, and what is kept is neither.

(d) The singular value decomposition is a function of :math:`BA` alone.  ∎
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from prunedlora.criteria.prunedlora2025 import prunedlora2025
from prunedlora.factors import Factors
from prunedlora.linalg.elimination import eliminate
from prunedlora.linalg.truncation import truncate
from prunedlora.statistics.data import Statistics
from theory.checking import instances
from theory.checking.numerics import allowance, condition, frobenius, spectral, usable
from theory.checking.registry import Statement, register
from theory.checking.result import Result, compare

#: Relative damping of the rule under test; bounds the condition of the correlation by (r + damping) / damping.
DAMPING = 1e-2


@dataclass(frozen=True)
class Gauge:
    """An adapter, the gradients of its factors, and a change of basis `R`; `kept` components are to stay."""

    B: Float[Tensor, "*n d_out r"]
    A: Float[Tensor, "*n r d_in"]
    G_B: Float[Tensor, "*n d_out r"]
    G_A: Float[Tensor, "*n r d_in"]
    R: Float[Tensor, "*n r r"]

    def transformed(self) -> "Gauge":
        """The same adapter in the new basis."""
        inverse = torch.linalg.inv(self.R)
        return Gauge(
            self.B @ inverse, self.R @ self.A, self.G_B @ self.R.mT, inverse.mT @ self.G_A, self.R
        )


def sample(generator: Generator, n: int, *, d_out: int, d_in: int, r: int) -> Gauge:
    """Random adapters, with a rescaling of the components over six decades and either sign."""
    sign = torch.where(instances.uniform(generator, n, r) < 0.5, -1.0, 1.0)
    scales = instances.log_uniform(generator, n * r, -3.0, 3.0).view(n, r) * sign
    return Gauge(
        B=instances.matrices(generator, n, d_out, r),
        A=instances.matrices(generator, n, r, d_in),
        G_B=instances.matrices(generator, n, d_out, r),
        G_A=instances.matrices(generator, n, r, d_in),
        R=torch.diag_embed(scales),
    )


def sample_general(generator: Generator, n: int, *, d_out: int, d_in: int, r: int) -> Gauge:
    """Random adapters, with a general invertible change of basis."""
    start = sample(generator, n, d_out=d_out, d_in=d_in, r=r)
    R = (
        instances.factors(generator, n, r, condition=4.0)
        @ torch.linalg.qr(instances.normal(generator, n, r, r)).Q
    )
    return Gauge(start.B, start.A, start.G_B, start.G_A, R)


def component_size(instance: Gauge) -> Float[Tensor, "*n"]:
    """Sum of ``||B[:, j]|| ||A[j, :]||``, at least the norm of BA and the same in every rescaled basis."""
    return (instance.B.norm(dim=-2) * instance.A.norm(dim=-1)).sum(dim=-1)


def relative(
    change: Float[Tensor, "*n d_out d_in"], size: Float[Tensor, "*n"]
) -> Float[Tensor, "*n"]:
    """Norm of a change relative to a size; 0 where both vanish."""
    return torch.where(size > 0, frobenius(change) / size, 0.0)


def kept_by_rule(
    instance: Gauge,
) -> tuple[Float[Tensor, "*n d_out d_in"], Float[Tensor, "*n count"]]:
    """Product kept by Algorithm 1 (half of the components removed), and the cost of each removal."""
    statistics = Statistics(
        gram_B=instance.G_B.mT @ instance.G_B, gram_A=instance.G_A @ instance.G_A.mT
    )
    out = prunedlora2025(
        Factors(instance.B, instance.A),
        statistics,
        instance.R.shape[-1] // 2,
        damping=DAMPING,
        recovery="both",
    )
    return out.factors.B @ out.factors.A, out.cost


def kept_with_absolute_damping(instance: Gauge) -> Float[Tensor, "*n d_out d_in"]:
    """Product kept when ``H + I`` is used instead of Marquardt damping."""
    eye = torch.eye(instance.R.shape[-1], dtype=instance.B.dtype, device=instance.B.device)
    H_B = instance.G_B.mT @ instance.G_B + eye
    H_A = instance.G_A @ instance.G_A.mT + eye
    out = eliminate((instance.B, instance.A.mT), (H_B, H_A), eye.shape[-1] // 2, damping=0.0)
    return out.matrices[0] @ out.matrices[1].mT


def kept_by_truncation(instance: Gauge) -> Float[Tensor, "*n d_out d_in"]:
    """Product kept by truncation to half the rank."""
    B, A = truncate(instance.B, instance.A, max(instance.R.shape[-1] // 2, 1))
    return B @ A


def check_marquardt(instance: Gauge) -> Result:
    """Kept product and costs before and after a rescaling of the components."""
    (product, cost) = kept_by_rule(instance)
    (product_after, cost_after) = kept_by_rule(instance.transformed())
    total = cost.sum(dim=-1).clamp(min=torch.finfo(cost.dtype).tiny)
    error = torch.maximum(
        relative(product - product_after, component_size(instance)),
        (cost - cost_after).abs().amax(dim=-1) / total,
    )
    curved = (instance.G_B.norm(dim=-2) > 0) & (instance.G_A.norm(dim=-1) > 0)
    r = instance.R.shape[-1]
    kappa = torch.full_like(error, (r + DAMPING) / DAMPING)
    return compare(
        error, allowance(kappa, r), {"every component has curvature": curved.all(dim=-1)}
    )


def check_absolute(instance: Gauge) -> Result:
    """The (false) claim that absolute damping is invariant too."""
    before = kept_with_absolute_damping(instance)
    after = kept_with_absolute_damping(instance.transformed())
    error = relative(before - after, component_size(instance))
    return compare(error, torch.full_like(error, 1e-6), {})


def check_general_basis(instance: Gauge) -> Result:
    """The (false) claim that removal of components does not depend on the basis."""
    before = kept_by_rule(instance)[0]
    after = kept_by_rule(instance.transformed())[0]
    error = relative(before - after, component_size(instance))
    return compare(error, torch.full_like(error, 1e-6), {})


def check_truncation(instance: Gauge) -> Result:
    """Product kept by truncation in both bases; assumes a gap between the singular values kept and dropped."""
    other = instance.transformed()
    k = max(instance.R.shape[-1] // 2, 1)
    change = frobenius(kept_by_truncation(instance) - kept_by_truncation(other))
    singular = torch.linalg.svdvals(instance.B @ instance.A)
    gap = (singular[..., k - 1] - singular[..., k]) / singular[..., 0]
    size = torch.maximum(
        spectral(instance.B) * spectral(instance.A), spectral(other.B) * spectral(other.A)
    )
    amplification = condition(instance.R.mT @ instance.R).sqrt() * size / (singular[..., 0] * gap)
    error = torch.where(singular[..., 0] > 0, change / singular[..., 0], 0.0)
    return compare(
        error,
        allowance(amplification, instance.R.shape[-1]),
        {"gap in the spectrum": usable(amplification)},
    )


def flip() -> Gauge:
    """Instance of (b): the mask chosen under absolute damping changes with a rescaling.

    >>> kept_with_absolute_damping(flip())[0], kept_with_absolute_damping(flip().transformed())[0].abs().round()
    (tensor([[0., 0.],
            [0., 1.]], dtype=torch.float64), tensor([[1., 0.],
            [0., 0.]], dtype=torch.float64))
    """
    eye = torch.eye(2, dtype=torch.float64).unsqueeze(0)
    G = torch.diag(torch.tensor([1.0, 2.0], dtype=torch.float64).sqrt()).unsqueeze(0)
    R = torch.diag(torch.tensor([10.0, 1.0], dtype=torch.float64)).unsqueeze(0)
    return Gauge(eye, eye, G, G, R)


def rotation() -> Gauge:
    """Instance of (c): two components of sizes 2 and 1, and a rotation by 45 degrees."""
    eye = torch.eye(2, dtype=torch.float64).unsqueeze(0)
    B = torch.diag(torch.tensor([2.0, 1.0], dtype=torch.float64)).unsqueeze(0)
    R = torch.tensor([[[1.0, -1.0], [1.0, 1.0]]], dtype=torch.float64) / 2**0.5
    return Gauge(B, eye, eye, eye, R)


SHAPES = (
    {"d_out": 6, "d_in": 5, "r": 2},
    {"d_out": 12, "d_in": 8, "r": 4},
    {"d_out": 9, "d_in": 24, "r": 8},
)

register(
    Statement(
        key="S3.marquardt",
        title="Elimination with Marquardt damping does not see the scale of the components",
        formula="scores and kept B'A' unchanged under B[:,j]→B[:,j]/c_j, A[j,:]→c_j·A[j,:] (damping λ·diag(H))",
        claim="identity",
        sample=sample,
        check=check_marquardt,
        shapes=SHAPES,
    )
)
register(
    Statement(
        key="S3.absolute",
        title="False: elimination with absolute damping λI does not see the scale of the components",
        formula="kept B'A' unchanged under B[:,j]→B[:,j]/c_j, A[j,:]→c_j·A[j,:] (damping λI)",
        claim="refuted",
        sample=sample,
        check=check_absolute,
        shapes=SHAPES,
        extremal=flip,
    )
)
register(
    Statement(
        key="S3.basis",
        title="False: removal of components does not see the basis of the adapter",
        formula="kept B'A' unchanged under B→BR⁻¹, A→RA for general R",
        claim="refuted",
        sample=sample_general,
        check=check_general_basis,
        shapes=SHAPES,
        extremal=rotation,
    )
)
register(
    Statement(
        key="S3.truncation",
        title="Truncation through the singular value decomposition of BA does not see the basis",
        formula="truncate(BR⁻¹, RA, k) = truncate(B, A, k) as products, for every invertible R",
        claim="identity",
        sample=sample_general,
        check=check_truncation,
        shapes=SHAPES,
    )
)
