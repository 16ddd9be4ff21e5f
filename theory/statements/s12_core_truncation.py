r"""S12, second part: truncation under the core Fisher matrix against weighted truncation (S11).

With :math:`g_n` the core gradient of sample n (:mod:`theory.statements.s12_core_fisher`),
:math:`M_b = E[u u^\top]`, :math:`M_a = E[z z^\top]` and :math:`X = PQ - I`, the truncation minimises
:math:`\tfrac12 \operatorname{mean}_n \langle g_n, X \rangle^2 + \tfrac{\mu c}{2} \|M_b^{1/2} X M_a^{1/2}\|_F^2 +
\tfrac{\lambda c'}{2} \|B X A\|_F^2`.

**Statement (c).**  The solution of :func:`prunedlora.linalg.fisher_truncation.truncate_core_fisher` is never worse in
its objective than the Kronecker solution (S11).  **Proof.**  The descent starts there and returns the start unless it
ends lower.  ∎  The objective is evaluated here again, from the factors returned.

**Statement (d).**  If :math:`g = u z^\top` with independent :math:`u` and :math:`z`, and :math:`\lambda = 0`, the two
solutions have the same objective.  **Proof.**  :math:`E\langle u z^\top, X\rangle^2 = E (u^\top X z)^2 =
\operatorname{tr}(E[u u^\top] X E[z z^\top] X^\top) = \|M_b^{1/2} X M_a^{1/2}\|_F^2`.  Both remaining terms of the
objective are multiples of this one, which S11 minimises.  ∎ Checked without sampling error: all pairs of finitely
many values of u and z.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from prunedlora.linalg.fisher_truncation import truncate_core_fisher
from prunedlora.linalg.weighted_truncation import truncate_weighted
from theory.checking import instances
from theory.checking.numerics import allowance, condition, gram
from theory.checking.registry import Statement, register
from theory.checking.result import Result, compare

#: Weights of the two regularisers in the checks of the truncation.
MU, LAM = 0.1, 0.05
#: Condition number beyond which the library floors eigenvalues, so that the objectives are no longer comparable.
LARGEST = 1e8


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


def core_change(
    instance: Core, left: Float[Tensor, "d_out k"], right: Float[Tensor, "k d_in"]
) -> Float[Tensor, "r r"]:
    """``PQ - I`` of an adapter ``left @ right`` inside the column and row spaces of B and A."""
    P = torch.linalg.lstsq(instance.B, left).solution
    Q = torch.linalg.lstsq(instance.A.mT, right.mT).solution.mT
    return P @ Q - torch.eye(P.shape[0], dtype=P.dtype, device=P.device)


def objectives(
    instance: Core, gradients: Float[Tensor, "samples r r"], lam: float
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Objective of the core Fisher solution and of the Kronecker solution, both at half the rank; one instance."""
    (M_b, M_a) = moments(instance)
    k = instance.B.shape[-1] // 2
    out = truncate_core_fisher(
        instance.B, instance.A, k, gradients, M_b, M_a, mu=MU, lam=lam, max_iter=30
    )
    start = truncate_weighted(instance.B, instance.A, k, M_b, M_a)
    fisher = objective(instance, gradients, core_change(instance, out.B, out.A), lam)
    return fisher, objective(instance, gradients, core_change(instance, *start), lam)


def one_by_one(
    instance: Core, gradients: Float[Tensor, "n samples r r"], lam: float
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """`objectives` of each instance."""
    rows = [Core(*row) for row in zip(instance.B, instance.A, instance.u, instance.z, strict=True)]
    fisher, kronecker = zip(
        *(objectives(row, g, lam) for row, g in zip(rows, gradients, strict=True)), strict=True
    )
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
    return compare(
        fisher, kronecker, {"moments and factors of full rank": kappa <= LARGEST}, rounding
    )


def check_independent(instance: Core) -> Result:
    """(d): relative difference of the two objectives without the Frobenius term; all pairs of u and z are samples."""
    fisher, kronecker = one_by_one(instance, instance.combined, 0.0)
    kappa = conditions(instance)
    error = (fisher - kronecker).abs() / kronecker
    return compare(
        error,
        allowance(kappa, instance.B.shape[-1]),
        {"moments and factors of full rank": kappa <= LARGEST},
    )


def sample_core(generator: Generator, n: int, *, d: int, r: int, samples: int) -> Core:
    """Random adapters; u and z of uneven directions, correlated in pairs."""
    spread = [10 ** -instances.uniform(generator, n, 1, r) for _ in range(2)]
    u = instances.normal(generator, n, samples, r) * spread[0]
    z = (0.5 * u + instances.normal(generator, n, samples, r)) * spread[1]
    scale = instances.log_uniform(generator, n, -3.0, 3.0)
    B = instances.scaled(instances.normal(generator, n, d, r), scale)
    return Core(B, instances.normal(generator, n, r, d), u, z)


register(
    Statement(
        key="S12.descent",
        title="Truncation under the core Fisher matrix is never worse in its objective than weighted truncation",
        formula="objective(S12) ≤ objective(S11)",
        claim="bound",
        sample=sample_core,
        check=check_descent,
        shapes=(
            {"d": 6, "r": 2, "samples": 16},
            {"d": 8, "r": 4, "samples": 32},
            {"d": 12, "r": 6, "samples": 64},
        ),
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
