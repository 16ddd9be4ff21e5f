r"""S12: the exact Fisher matrix of the adapter's core, without any independence assumption.

**Setting.**  :math:`\Delta W = s\, B S A` with :math:`S = I_r` now.  One sample has tokens :math:`x_t`; :math:`z_t = A
x_t`, and :math:`u_t = \partial L / \partial z_t = s B^\top \partial L / \partial y_t`.

**Statement (a).**  :math:`\partial L / \partial S = \sum_t u_t z_t^\top =: g`.
**Proof.**  :math:`y_t = W x_t + s B S z_t`; the derivative in direction :math:`X` is :math:`\sum_t \langle \partial L /
\partial y_t, s B X z_t \rangle = \sum_t u_t^\top X z_t = \langle \sum_t u_t z_t^\top, X \rangle`.  ∎

**Statement (b).**  With labels drawn from the model, :math:`E\langle g, X \rangle^2` is the second derivative at 0 of
:math:`t \mapsto KL(p_S \,\|\, p_{S + tX})`: the Fisher matrix of every adapter whose column and row space stay inside
those of B and A is the :math:`r^2 \times r^2` matrix :math:`E[\operatorname{vec} g \operatorname{vec} g^\top]`.
**Proof.**  :math:`KL(t) = -\sum_y p_y (\log p_y(t) - \log p_y)`, so :math:`KL''(0) = -\sum_y p_y (\log p_y)''`.  From
:math:`\sum_y p_y(t) = 1`: :math:`\sum_y p_y [(\log p_y)'' + ((\log p_y)')^2] = 0`.  Hence :math:`KL''(0) = \sum_y p_y
((\log p_y)')^2`, and :math:`(\log p_y)' = -\langle g_y, X \rangle`.  ∎
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.func import jvp

from theory.checking import instances
from theory.checking.numerics import allowance
from theory.checking.registry import Statement, register
from theory.checking.result import Result, compare


@dataclass(frozen=True)
class Sequence:
    """One sample: tokens `x`, logits from the mean over tokens of ``readout tanh(W x + s B S A x)``."""

    x: Float[Tensor, "*n T d_in"]
    W: Float[Tensor, "*n d_out d_in"]
    B: Float[Tensor, "*n d_out r"]
    A: Float[Tensor, "*n r d_in"]
    readout: Float[Tensor, "*n classes d_out"]
    scaling: Float[Tensor, "*n"]
    direction: Float[Tensor, "*n r r"]


def class_scores(
    instance: Sequence, S: Float[Tensor, "*n r r"], noise: Float[Tensor, "*n T r"] | float = 0.0
) -> Float[Tensor, "*n classes"]:
    """Logits with core S; `noise` is added to ``S z``, so that u is the derivative in it."""
    through = (instance.x @ instance.A.mT) @ S.mT + noise
    y = instance.x @ instance.W.mT + instance.scaling[..., None, None] * through @ instance.B.mT
    return torch.einsum("...d,...cd->...c", y.tanh().mean(dim=-2), instance.readout)


def log_probabilities(
    instance: Sequence, S: Float[Tensor, "*n r r"], noise: Float[Tensor, "*n T r"] | float = 0.0
) -> Float[Tensor, "*n classes"]:
    """Log of the class probabilities."""
    return torch.log_softmax(class_scores(instance, S, noise), dim=-1)


def core_at_rest(instance: Sequence) -> Float[Tensor, "*n r r"]:
    """``S = I``."""
    return torch.eye(instance.A.shape[-2], dtype=torch.float64, device=instance.A.device).expand_as(
        instance.direction
    )


def along(
    instance: Sequence, function: Callable[..., Tensor]
) -> tuple[Float[Tensor, "*n classes"], Float[Tensor, "*n classes"]]:
    """First and second derivative along `direction` of a function of S, by forward mode: neither u nor z enters."""
    S = core_at_rest(instance)
    start = torch.zeros_like(instance.scaling)
    one = torch.ones_like(start)

    def moved(t: Tensor) -> Tensor:
        return function(instance, S + t[..., None, None] * instance.direction)

    both = jvp(lambda t: jvp(moved, (t,), (one,))[1], (start,), (one,))
    return both[0], both[1]


def bottleneck(
    instance: Sequence,
) -> tuple[Float[Tensor, "classes *n T r"], Float[Tensor, "*n T r"]]:
    """What passes through the bottleneck: u backward, for every label, and z forward."""
    z = instance.x @ instance.A.mT
    noise = torch.zeros_like(z).requires_grad_()
    losses = -log_probabilities(instance, core_at_rest(instance), noise)
    u = [
        torch.autograd.grad(loss.sum(), noise, retain_graph=True)[0]
        for loss in losses.unbind(dim=-1)
    ]
    return torch.stack(u), z


def check_gradients(instance: Sequence) -> Result:
    """(a): ``<sum_t u_t z_t^T, X>`` against the derivative along X, by forward mode.

    Relative to the terms of the sum and to the slopes of the logits: the softmax subtracts these from each other.
    """
    u, z = bottleneck(instance)
    inner = (u.mT @ z * instance.direction).sum(dim=(-2, -1)).movedim(0, -1)
    terms = (u.norm(dim=-1) * z.norm(dim=-1)).sum(dim=-1).amax(dim=0) * instance.direction.norm(
        dim=(-2, -1)
    )
    size = terms + along(instance, class_scores)[0].abs().amax(dim=-1)
    difference = (inner + along(instance, log_probabilities)[0]).abs().amax(dim=-1)
    return _relative_to(difference, size, instance)


def check_expansion(instance: Sequence) -> Result:
    """(b): second derivative of the divergence along `direction` against the expectation over the model's labels.

    Relative to the derivatives of the logits, which cancel in the log probabilities.
    """
    p = log_probabilities(instance, core_at_rest(instance)).exp()
    u, z = bottleneck(instance)
    inner = (u.mT @ z * instance.direction).sum(dim=(-2, -1)).movedim(0, -1)
    fisher = (p * inner.square()).sum(dim=-1)
    second = -(p * along(instance, log_probabilities)[1]).sum(dim=-1)
    slope, bend = along(instance, class_scores)
    size = bend.abs().amax(dim=-1) + slope.square().amax(dim=-1) + fisher
    return _relative_to((second - fisher).abs(), size, instance)


def _relative_to(difference: Tensor, size: Tensor, instance: Sequence) -> Result:
    error = torch.where(size > 0, difference / size, 0.0)
    terms = 64 * instance.x.shape[-2] * instance.W.shape[-1]
    return compare(error, allowance(torch.ones_like(error), terms), {"adapter not zero": size > 0})


def sample_sequence(
    generator: Generator, n: int, *, d: int, r: int, T: int, classes: int
) -> Sequence:
    """Random sequences and adapters."""
    return Sequence(
        x=instances.normal(generator, n, T, d),
        W=instances.matrices(generator, n, d, d, low=-2.0, high=0.0),
        B=instances.matrices(generator, n, d, r, low=-2.0, high=0.0),
        A=instances.matrices(generator, n, r, d, low=-2.0, high=0.0),
        readout=instances.matrices(generator, n, classes, d, low=-2.0, high=1.0),
        scaling=instances.log_uniform(generator, n, -1.0, 0.5),
        direction=instances.normal(generator, n, r, r),
    )


SEQUENCES = ({"d": 4, "r": 2, "T": 1, "classes": 2}, {"d": 6, "r": 3, "T": 5, "classes": 4})

register(
    Statement(
        key="S12.gradients",
        title="Gradient of the core: outer products of what passes through the bottleneck",
        formula="∂L/∂S = Σ_t u_t z_tᵀ",
        claim="identity",
        sample=sample_sequence,
        check=check_gradients,
        shapes=SEQUENCES,
    )
)
register(
    Statement(
        key="S12.expansion",
        title="The core Fisher matrix is the curvature of the divergence",
        formula="d²/dt² KL(p_S ‖ p_(S+tX)) = E⟨g, X⟩² at t = 0, labels drawn from the model",
        claim="identity",
        sample=sample_sequence,
        check=check_expansion,
        shapes=SEQUENCES,
    )
)
