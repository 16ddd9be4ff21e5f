r"""S13: moving both factors to make up for the same removal makes up for it twice.

Equation (11) of arXiv:2510.00192 moves B as if A stayed, and A as if B stayed, and applies both.  Let the
components :math:`M` go and :math:`K` stay, so that :math:`BA = B_K A_K + B_M A_M`.  Every recovery of B through its
kept columns is :math:`B_K + B_M X` for some :math:`X` (:math:`|M| \times |K|`), every recovery of A is :math:`A_K + Y
A_M` for some :math:`Y` (:math:`|K| \times |M|`).  Let each factor make the share :math:`t` of its recovery:

.. math:: B_t = B_K + t\, B_M X, \qquad A_t = A_K + t\, Y A_M.

:math:`t = 0` only removes, :math:`t = 1` is (11) as printed.  The errors of recovering by one factor alone are
:math:`E_B = B_M (X A_K - A_M)` (B moves by all, A not at all) and :math:`E_A = (B_K Y - B_M) A_M`.

**Statement (a).**  For all :math:`X`, :math:`Y` and :math:`t`,

.. math:: B_t A_t - BA = t\,(E_B + E_A) + B_M \big((2t - 1) I + t^2 X Y\big) A_M.

**Proof.**  The left side is :math:`t B_M X A_K + t B_K Y A_M + t^2 B_M X Y A_M - B_M A_M`, and :math:`B_M X A_K =
E_B + B_M A_M`, :math:`B_K Y A_M = E_A + B_M A_M`.  ∎

So where each recovery alone is exact, :math:`E_B = E_A = 0`, leaving the components out changes the product by
:math:`-B_M A_M`, and the printed form changes it by :math:`+B_M (I + XY) A_M`: the same error with the other sign, or
worse.  Half of each, :math:`t = \tfrac12`, leaves :math:`\tfrac14 B_M X Y A_M`; one factor alone leaves nothing.

**Statement (b).**  Let :math:`G = \partial L / \partial (BA)`, :math:`G_B = G A^\top`, :math:`G_A = B^\top G`, and
let X and Y be those of (11): with :math:`H_B = G_B^\top G_B` and :math:`H_A = G_A G_A^\top` they are the least-squares
regressions of the removed components' gradients on the kept ones', with residuals

.. math:: R_B = (G_B)_M - (G_B)_K X^\top, \qquad R_A = (G_A)_M - Y^\top (G_A)_K.

Then to first order in the loss the change is that of the last term of (a), up to what the regressions leave:

.. math:: \big| \langle G, B_t A_t - BA \rangle - \langle G, B_M ((2t-1) I + t^2 XY) A_M \rangle \big|
   \le t\, \big( \|B_M\|_F \|R_B\|_F + \|A_M\|_F \|R_A\|_F \big).

**Proof.**  By (a) the left side is :math:`t\,|\langle G, E_B \rangle + \langle G, E_A \rangle|`.  Moving factors to the
other side, :math:`\langle G, B_M (X A_K - A_M) \rangle = \langle B_M, G A_K^\top X^\top - G A_M^\top \rangle =
-\langle B_M, R_B \rangle`, and :math:`\langle G, (B_K Y - B_M) A_M \rangle = \langle Y^\top B_K^\top G - B_M^\top G,
A_M \rangle = -\langle R_A, A_M \rangle`.  Cauchy and Schwarz.  ∎  Attained where the residuals are parallel to
the removed weights (:func:`independent_components`).

**Refuted (c).**  That the printed recovery changes the product at most as much as leaving the components out,
:math:`\|B_1 A_1 - BA\|_F \le \|B_M A_M\|_F`: with two components that are nearly alike X and Y are nearly one, and the
change is nearly twice as large (:func:`twin_components`).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from prunedlora.linalg.elimination import block_solution
from theory.checking import instances
from theory.checking.numerics import allowance, condition, frobenius, usable
from theory.checking.registry import Statement, register
from theory.checking.result import Result, compare


@dataclass(frozen=True)
class Recoveries:
    """An adapter whose first components go, any weights X and Y of a recovery, and the share t of it."""

    B: Float[Tensor, "*n d_out r"]
    A: Float[Tensor, "*n r d_in"]
    X: Float[Tensor, "*n gone kept"]
    Y: Float[Tensor, "*n kept gone"]
    share: Float[Tensor, "*n"]


@dataclass(frozen=True)
class Event:
    """An adapter, the gradient of the loss with respect to BA, which components go, and the share t."""

    B: Float[Tensor, "*n d_out r"]
    A: Float[Tensor, "*n r d_in"]
    G: Float[Tensor, "*n d_out d_in"]
    removed: Int[Tensor, "*n gone"]
    share: Float[Tensor, "*n"]


def split(instance: Recoveries) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """B_M, B_K, A_M and A_K."""
    gone = instance.X.shape[-2]
    B, A = instance.B, instance.A
    return B[..., :gone], B[..., gone:], A[..., :gone, :], A[..., gone:, :]


def change(instance: Recoveries) -> Float[Tensor, "*n d_out d_in"]:
    """``B_t A_t - B A``, by multiplying out."""
    B_M, B_K, A_M, A_K = split(instance)
    t = instance.share[..., None, None]
    return (B_K + t * B_M @ instance.X) @ (A_K + t * instance.Y @ A_M) - instance.B @ instance.A


def left_over(instance: Recoveries) -> Float[Tensor, "*n d_out d_in"]:
    """``B_M ((2t - 1) I + t² X Y) A_M``."""
    B_M, _, A_M, _ = split(instance)
    t = instance.share[..., None, None]
    X, Y = instance.X, instance.Y
    eye = torch.eye(X.shape[-2], dtype=X.dtype, device=X.device)
    return B_M @ ((2 * t - 1) * eye + t**2 * X @ Y) @ A_M


def one_sided_errors(instance: Recoveries) -> tuple[Tensor, Tensor]:
    """E_B and E_A, of recovering by B alone and by A alone."""
    B_M, B_K, A_M, A_K = split(instance)
    return B_M @ (instance.X @ A_K - A_M), (B_K @ instance.Y - B_M) @ A_M


def size(instance: Recoveries) -> Float[Tensor, "*n"]:
    """An upper bound of the norms of all products in (a), on which rounding depends."""
    B_M, B_K, A_M, A_K = split(instance)
    X, Y = frobenius(instance.X), frobenius(instance.Y)
    left = frobenius(B_K) + frobenius(B_M) * (1 + X)
    right = frobenius(A_K) + frobenius(A_M) * (1 + Y)
    return left * right


def check_identity(instance: Recoveries) -> Result:
    """Both sides of (a)."""
    E_B, E_A = one_sided_errors(instance)
    predicted = instance.share[..., None, None] * (E_B + E_A) + left_over(instance)
    scale = size(instance)
    error = torch.where(scale > 0, frobenius(change(instance) - predicted) / scale, 0.0)
    r = instance.B.shape[-1]
    return compare(error, allowance(torch.ones_like(error), r), {"finite": torch.isfinite(scale)})


def gradients(instance: Event) -> tuple[Tensor, Tensor]:
    """G_B and the transpose of G_A: a column for each component in both."""
    return instance.G @ instance.A.mT, instance.G.mT @ instance.B


def recoveries(instance: Event) -> Recoveries:
    """The instance with its removed components first, and the X and Y of (11)."""
    r = instance.B.shape[-1]
    order = _removed_first(instance.removed, r)
    B = torch.take_along_dim(instance.B, order.unsqueeze(-2), dim=-1)
    A = torch.take_along_dim(instance.A, order.unsqueeze(-1), dim=-2)
    gone = instance.removed.shape[-1]
    X, Y = (
        _regression(torch.take_along_dim(G, order.unsqueeze(-2), dim=-1), gone)
        for G in gradients(instance)
    )
    return Recoveries(B, A, X, Y.mT, instance.share)


def recovered(instance: Event) -> tuple[Tensor, Tensor]:
    """B_t and A_t as the library computes them: the closed form of (7) for each factor, and the share t of it."""
    t = instance.share[..., None, None]
    G_B, G_A = gradients(instance)
    moved = []
    for W, G in ((instance.B, G_B), (instance.A.mT, G_A)):
        delta, _ = block_solution(W, G.mT @ G, instance.removed)
        index = instance.removed.unsqueeze(-2).expand(*W.shape[:-1], -1)
        masked = W.scatter(-1, index, 0.0)
        moved.append(masked + t * (W + delta - masked))
    return moved[0], moved[1].mT


def check_loss(instance: Event) -> Result:
    """The bound (b), with the factors that the library computes."""
    B_t, A_t = recovered(instance)
    changed = B_t @ A_t - instance.B @ instance.A
    form = recoveries(instance)
    lhs = (_inner(instance.G, changed) - _inner(instance.G, left_over(form))).abs()
    rhs = instance.share * _residual_bound(instance, form)
    kappa = _condition(instance)
    rounding = allowance(kappa, instance.B.shape[-1]) * frobenius(instance.G) * size(form)
    return compare(lhs, rhs, {"Gram matrices positive definite": usable(kappa)}, rounding.detach())


def check_printed(instance: Event) -> Result:
    """The refuted claim (c)."""
    B_t, A_t = recovered(instance)
    changed = frobenius(B_t @ A_t - instance.B @ instance.A)
    B_M, _, A_M, _ = split(recoveries(instance))
    kappa = _condition(instance)
    assumptions = {
        "Gram matrices positive definite": usable(kappa),
        "both factors recover by all": instance.share == 1,
    }
    rounding = allowance(kappa, instance.B.shape[-1]) * size(recoveries(instance))
    return compare(changed, frobenius(B_M @ A_M), assumptions, rounding.detach())


def sample_recoveries(
    generator: Generator, n: int, *, d_out: int, d_in: int, r: int, gone: int
) -> Recoveries:
    """Random factors and random weights of recovery, shares from 0 to 1."""
    return Recoveries(
        instances.matrices(generator, n, d_out, r),
        instances.matrices(generator, n, r, d_in),
        instances.matrices(generator, n, gone, r - gone),
        instances.matrices(generator, n, r - gone, gone),
        instances.uniform(generator, n),
    )


def sample(generator: Generator, n: int, *, d_out: int, d_in: int, r: int, gone: int) -> Event:
    """Random adapters and gradients; the share is 1, that of (11), in half of them."""
    share = instances.uniform(generator, n)
    printed = instances.uniform(generator, n) < 0.5
    return Event(
        _dense(generator, n, d_out, r),
        _dense(generator, n, d_in, r).mT,
        instances.normal(generator, n, d_out, d_in),
        instances.subsets(generator, n, r, gone),
        torch.where(printed, torch.ones_like(share), share),
    )


def _dense(generator: Generator, n: int, d: int, r: int) -> Float[Tensor, "n d r"]:
    """Matrices without zeros whose columns differ in scale by up to 10^2: every component has a gradient."""
    scales = 10 ** (2 * instances.uniform(generator, n, 1, r) - 1)
    return instances.normal(generator, n, d, r) * scales


def independent_components() -> Event:
    """Two components whose gradients have nothing in common: the regressions explain nothing, (b) is an equality.

    >>> round(check_loss(independent_components()).ratio.item(), 12)
    1.0
    """
    eye = torch.eye(2, dtype=torch.float64).unsqueeze(0)
    return Event(eye, eye, eye, torch.tensor([[0]]), torch.ones(1, dtype=torch.float64))


def twin_components(apart: float = 1e-2) -> Event:
    """Two components that are nearly alike, of which one goes: the printed recovery doubles the error of masking.

    >>> round(check_printed(twin_components()).ratio.item(), 2)
    2.0
    """
    A = torch.tensor([[[1.0, 0.0], [1.0, apart]]], dtype=torch.float64)
    G = torch.eye(2, dtype=torch.float64).unsqueeze(0)
    return Event(A.mT, A, G, torch.tensor([[0]]), torch.ones(1, dtype=torch.float64))


def _removed_first(removed: Int[Tensor, "*n gone"], r: int) -> Int[Tensor, "*n r"]:
    """All components, the removed ones first, in their order."""
    kept = torch.ones((*removed.shape[:-1], r), dtype=torch.bool, device=removed.device)
    kept = kept.scatter(-1, removed, False)
    return kept.to(torch.int8).argsort(dim=-1, stable=True)


def _regression(G: Float[Tensor, "*n d r"], gone: int) -> Float[Tensor, "*n gone kept"]:
    """Weights with which the kept columns' combination comes closest to the removed ones, which stand first."""
    H = G.mT @ G
    # Without an error where H is singular: the statement says nothing there.
    return torch.linalg.solve_ex(H[..., gone:, gone:], H[..., gone:, :gone])[0].mT


def _residual_bound(instance: Event, form: Recoveries) -> Float[Tensor, "*n"]:
    """``‖B_M‖ ‖R_B‖ + ‖A_M‖ ‖R_A‖``."""
    B_M, _, A_M, _ = split(form)
    order = _removed_first(instance.removed, instance.B.shape[-1])
    gone = instance.removed.shape[-1]
    residuals = []
    for G, weights in zip(gradients(instance), (form.X, form.Y.mT), strict=True):
        ordered = torch.take_along_dim(G, order.unsqueeze(-2), dim=-1)
        residuals.append(frobenius(ordered[..., :gone] - ordered[..., gone:] @ weights.mT))
    return frobenius(B_M) * residuals[0] + frobenius(A_M) * residuals[1]


def _condition(instance: Event) -> Float[Tensor, "*n"]:
    """Condition number of the worse of the two Gram matrices."""
    return torch.stack([condition(G.mT @ G) for G in gradients(instance)]).amax(dim=0)


def _inner(G: Tensor, change: Tensor) -> Float[Tensor, "*n"]:
    return (G * change).sum(dim=(-2, -1))


SHAPES = (
    {"d_out": 4, "d_in": 3, "r": 3, "gone": 1},
    {"d_out": 6, "d_in": 7, "r": 5, "gone": 3},
    {"d_out": 12, "d_in": 9, "r": 8, "gone": 2},
)

register(
    Statement(
        key="S13.identity",
        title="What recovery by both factors leaves of a removal",
        formula="B_t A_t − BA = t(E_B + E_A) + B_M((2t−1)I + t²XY)A_M",
        claim="identity",
        sample=sample_recoveries,
        check=check_identity,
        shapes=SHAPES,
    )
)
register(
    Statement(
        key="S13.loss",
        title="To first order the printed recovery changes the loss as removal does, with the other sign",
        formula="|⟨G, B_t A_t − BA⟩ − ⟨G, B_M((2t−1)I + t²XY)A_M⟩| ≤ t(‖B_M‖‖R_B‖ + ‖A_M‖‖R_A‖)",
        claim="bound",
        sample=sample,
        check=check_loss,
        shapes=SHAPES,
        extremal=independent_components,
        attained=True,
        adversary_shapes=({"d_out": 4, "d_in": 3, "r": 3, "gone": 1},),
    )
)
register(
    Statement(
        key="S13.printed",
        title="False: recovery by both factors changes the product at most as much as no recovery",
        formula="‖B₁A₁ − BA‖ ≤ ‖B_M A_M‖",
        claim="refuted",
        sample=sample,
        check=check_printed,
        shapes=SHAPES,
        extremal=twin_components,
        adversary_shapes=({"d_out": 4, "d_in": 3, "r": 3, "gone": 1},),
    )
)
