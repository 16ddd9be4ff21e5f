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

**Statement (c).**  The solution of :func:`prunedlora.core_fisher.truncate_core_fisher` is never worse in its objective
than the Kronecker solution (S11).  **Proof.**  The descent starts there and returns the start unless it ends lower.  ∎
The objective is evaluated here anew, from the factors returned.

**Statement (d).**  If :math:`g = u z^\top` with independent :math:`u` and :math:`z`, the two solutions have the
same objective.  **Proof.**  :math:`E\langle u z^\top, X\rangle^2 = E (u^\top X z)^2 = \operatorname{tr}(E[u
u^\top] X E[z z^\top] X^\top) = \|M_b^{1/2} X M_a^{1/2}\|_F^2`.  Both terms of the objective are multiples of
this one, which S11 minimises.  ∎ Checked without sampling error: all pairs of finitely many values of u and z.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.func import jvp

from prunedlora.core_fisher import truncate_core_fisher
from prunedlora.truncation import truncate_weighted
from theory import instances
from theory.numerics import allowance, condition, gram
from theory.registry import Statement, register
from theory.result import Result, compare

#: Weights of the two regularisers in the checks of the truncation.
MU, LAM = 0.1, 0.05
#: Condition number beyond which the library floors eigenvalues, so that the objectives are no longer comparable.
LARGEST = 1e8


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


@dataclass(frozen=True)
class Core:
    """An adapter and the core gradients ``u z^T``: of token pairs (`paired`) or of all combinations of u and z."""

    B: Float[Tensor, "*n d_out r"]
    A: Float[Tensor, "*n r d_in"]
    u: Float[Tensor, "*n values_u r"]
    z: Float[Tensor, "*n values_z r"]

    @property
    def paired(self) -> Float[Tensor, "*n values_u r r"]:
        """One sample for each row of u and the same row of z."""
        return self.u.unsqueeze(-1) * self.z.unsqueeze(-2)

    @property
    def combined(self) -> Float[Tensor, "*n samples r r"]:
        """One sample for each combination: u and z are independent."""
        return torch.einsum("...ir,...jq->...ijrq", self.u, self.z).flatten(-4, -3)


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
    return torch.eye(instance.A.shape[-2], dtype=torch.float64, device=instance.A.device).expand_as(instance.direction)


def along(
    instance: Sequence, function: Callable[..., Tensor]
) -> tuple[Float[Tensor, "*n classes"], Float[Tensor, "*n classes"]]:
    """First and second derivative along `direction` of a function of S, by forward mode: neither u nor z enters."""
    S, start = core_at_rest(instance), torch.zeros_like(instance.scaling)
    one = torch.ones_like(start)

    def moved(t: Tensor) -> Tensor:
        return function(instance, S + t[..., None, None] * instance.direction)

    return jvp(lambda t: jvp(moved, (t,), (one,))[1], (start,), (one,))


def bottleneck(instance: Sequence) -> tuple[Float[Tensor, "classes *n T r"], Float[Tensor, "*n T r"]]:
    """What passes through the bottleneck: u backward, for every label, and z forward."""
    z = instance.x @ instance.A.mT
    noise = torch.zeros_like(z).requires_grad_()
    losses = -log_probabilities(instance, core_at_rest(instance), noise)
    u = [torch.autograd.grad(loss.sum(), noise, retain_graph=True)[0] for loss in losses.unbind(dim=-1)]
    return torch.stack(u), z


def check_gradients(instance: Sequence) -> Result:
    """(a): ``<sum_t u_t z_t^T, X>`` against the derivative along X, by forward mode.

    Relative to the terms of the sum and to the slopes of the logits: the softmax subtracts these from each other.
    """
    u, z = bottleneck(instance)
    inner = (u.mT @ z * instance.direction).sum(dim=(-2, -1)).movedim(0, -1)
    terms = (u.norm(dim=-1) * z.norm(dim=-1)).sum(dim=-1).amax(dim=0) * instance.direction.norm(dim=(-2, -1))
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


def objective(
    instance: Core, gradients: Float[Tensor, "samples r r"], X: Float[Tensor, "r r"], lam: float
) -> Float[Tensor, ""]:
    """The objective of the truncation at ``X = PQ - I``, from its definition; one instance."""
    M_b, M_a = moments(instance)
    kronecker = _term(gradients, X, M_b, M_a)
    frobenius = _term(gradients, X, gram(instance.B), gram(instance.A.mT))
    fisher = (gradients * X).sum(dim=(-2, -1)).square().mean()
    return 0.5 * (fisher + MU * kronecker + lam * frobenius)


def _term(g: Tensor, X: Tensor, M_b: Tensor, M_a: Tensor) -> Tensor:
    """``c ||M_b^{1/2} X M_a^{1/2}||²`` with c the mean eigenvalue of the Fisher matrix in that metric."""
    whitened = torch.linalg.solve(M_b, g) * torch.linalg.solve(M_a, g.mT).mT
    level = whitened.sum(dim=(-2, -1)).mean() / X.numel()
    return level * ((M_b @ X @ M_a) * X).sum()


def moments(instance: Core) -> tuple[Float[Tensor, "*n r r"], Float[Tensor, "*n r r"]]:
    """``E[u u^T]`` and ``E[z z^T]``."""
    return gram(instance.u) / instance.u.shape[-2], gram(instance.z) / instance.z.shape[-2]


def core_change(instance: Core, left: Float[Tensor, "d_out k"], right: Float[Tensor, "k d_in"]) -> Float[Tensor, "r r"]:
    """``PQ - I`` of an adapter ``left @ right`` inside the column and row spaces of B and A."""
    P = torch.linalg.lstsq(instance.B, left).solution
    Q = torch.linalg.lstsq(instance.A.mT, right.mT).solution.mT
    return P @ Q - torch.eye(P.shape[0], dtype=P.dtype, device=P.device)


def objectives(
    instance: Core, gradients: Float[Tensor, "samples r r"], lam: float
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Objective of the core Fisher solution and of the Kronecker solution, both at half the rank; one instance."""
    (M_b, M_a), k = moments(instance), instance.B.shape[-1] // 2
    out = truncate_core_fisher(instance.B, instance.A, k, gradients, M_b, M_a, mu=MU, lam=lam, max_iter=30)
    start = truncate_weighted(instance.B, instance.A, k, M_b, M_a)
    fisher = objective(instance, gradients, core_change(instance, out.B, out.A), lam)
    return fisher, objective(instance, gradients, core_change(instance, *start), lam)


def one_by_one(
    instance: Core, gradients: Float[Tensor, "n samples r r"], lam: float
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """`objectives` of each instance; L-BFGS is not batched."""
    rows = [Core(*row) for row in zip(instance.B, instance.A, instance.u, instance.z, strict=True)]
    fisher, kronecker = zip(*(objectives(row, g, lam) for row, g in zip(rows, gradients, strict=True)), strict=True)
    return torch.stack(fisher), torch.stack(kronecker)


def conditions(instance: Core) -> Float[Tensor, "*n"]:
    """Largest condition number of the moments and Gram matrices."""
    matrices = (*moments(instance), gram(instance.B), gram(instance.A.mT))
    return torch.stack([condition(M) for M in matrices]).amax(dim=0)


def check_descent(instance: Core) -> Result:
    """(c): objective of the solution against that of the Kronecker solution."""
    fisher, kronecker = one_by_one(instance, instance.paired, LAM)
    kappa = conditions(instance)
    rounding = allowance(kappa.clamp(max=LARGEST), instance.B.shape[-1]) * kronecker
    return compare(fisher, kronecker, {"moments and factors of full rank": kappa <= LARGEST}, rounding)


def check_independent(instance: Core) -> Result:
    """(d): relative difference of the two objectives without the Frobenius term; all pairs of u and z are samples."""
    fisher, kronecker = one_by_one(instance, instance.combined, 0.0)
    kappa = conditions(instance)
    error = (fisher - kronecker).abs() / kronecker
    return compare(
        error, allowance(kappa, instance.B.shape[-1]), {"moments and factors of full rank": kappa <= LARGEST}
    )


def sample_sequence(generator: Generator, n: int, *, d: int, r: int, T: int, classes: int) -> Sequence:
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


def sample_core(generator: Generator, n: int, *, d: int, r: int, samples: int) -> Core:
    """Random adapters; u and z of uneven directions, correlated in pairs."""
    spread = [10 ** -instances.uniform(generator, n, 1, r) for _ in range(2)]
    u = instances.normal(generator, n, samples, r) * spread[0]
    z = (0.5 * u + instances.normal(generator, n, samples, r)) * spread[1]
    scale = instances.log_uniform(generator, n, -3.0, 3.0)
    B = instances.scaled(instances.normal(generator, n, d, r), scale)
    return Core(B, instances.normal(generator, n, r, d), u, z)


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
register(
    Statement(
        key="S12.descent",
        title="Truncation under the core Fisher matrix is never worse in its objective than weighted truncation",
        formula="objective(S12) ≤ objective(S11)",
        claim="bound",
        sample=sample_core,
        check=check_descent,
        shapes=({"d": 6, "r": 2, "samples": 16}, {"d": 8, "r": 4, "samples": 32}, {"d": 12, "r": 6, "samples": 64}),
        instances=1_000,
    )
)
register(
    Statement(
        key="S12.independent",
        title="With independent u and z, both truncations have the same objective",
        formula="objective(S12) = objective(S11) if g = u·zᵀ with u, z independent",
        claim="identity",
        sample=sample_core,
        check=check_independent,
        shapes=({"d": 6, "r": 2, "samples": 6}, {"d": 8, "r": 4, "samples": 12}),
        instances=1_000,
    )
)
