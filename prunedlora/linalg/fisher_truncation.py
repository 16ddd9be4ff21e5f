r"""Truncation under the exact Fisher matrix of the adapter's core.

Write :math:`\Delta W = s\,B S A` with :math:`S = I_r` now.  The gradient of sample n with respect to S is
:math:`g_n = \sum_t u_t z_t^\top`, with :math:`z = Ax` and :math:`u = \partial L/\partial z`.  The Fisher matrix of
every adapter whose column and row spaces stay inside those of B and A is then :math:`E[\operatorname{vec} g
\operatorname{vec} g^\top]`, with no independence assumption.  The truncation to rank k minimises, over
:math:`P \in R^{r\times k}` and :math:`Q \in R^{k\times r}` with :math:`X = PQ - I`,

.. math:: \tfrac12 \operatorname{mean}_n \langle g_n, X\rangle^2
          + \tfrac{\mu c}{2} \|M_b^{1/2} X M_a^{1/2}\|_F^2 + \tfrac{\lambda c'}{2} \|B X A\|_F^2

by L-BFGS, started at the optimum of the second term alone (`prunedlora.linalg.weighted_truncation.core_maps`), then
:math:`B \leftarrow BP`, :math:`A \leftarrow QA`.  :math:`c` and :math:`c'` are the mean eigenvalues of the Fisher
matrix in the metric of each term, so that :math:`\mu` and :math:`\lambda` have no unit and nothing depends on the
basis.  All in float64, in coordinates where the second term is the identity.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from prunedlora.errors import ConfigurationError, NonFiniteError
from prunedlora.linalg.curvature import inverse, square_root
from prunedlora.linalg.truncation import balanced

#: (μ, λ) among which the held-out loss chooses; from strong to weak, so that each fit starts at the one before.
GRID = ((10.0, 0.0), (1.0, 0.0), (1.0, 0.1), (0.1, 0.1), (0.1, 0.0), (0.01, 0.01))
#: Steps of L-BFGS for each fit of that choice: each starts where the one before ended.
CHOICE_STEPS = 20
#: Fewer samples than this cannot choose anything: the Kronecker solution stays.
MIN_SAMPLES = 8


@dataclass(frozen=True)
class CoreFisherTruncation:
    """Outcome of :func:`truncate_core_fisher`.

    Attributes:
        B: left factor, (d_out, k), in the dtype of the input, balanced with A.
        A: right factor, (k, d_in).
        objective: value of the objective at the solution, unit of the loss.
        start: its value at the Kronecker solution; never smaller than `objective`.
        mu: weight of the Kronecker term; infinite where that solution was kept.
        lam: weight of the Frobenius term.
    """

    B: Float[Tensor, "d_out k"]
    A: Float[Tensor, "k d_in"]
    objective: float
    start: float
    mu: float
    lam: float


@dataclass(frozen=True)
class _Problem:
    """The quadratic in whitened coordinates, X ↦ R_b X R_aᵀ, and the way back."""

    g: Tensor  # (n, r, r)
    target: Tensor  # R_b R_aᵀ, the whitened I
    back_b: Tensor  # R_b⁻¹
    back_a: Tensor  # R_a⁻¹
    metric_b: Tensor  # BᵀB in whitened coordinates
    metric_a: Tensor
    levels: tuple[float, float]  # c, c'
    kronecker: float = 0.0  # μ c
    frobenius: float = 0.0  # λ c'

    def weighted(self, mu: float, lam: float) -> "_Problem":
        """The same problem with other weights of the two regularisers."""
        return replace(self, kronecker=mu * self.levels[0], frobenius=lam * self.levels[1])

    def only(self, samples: Tensor) -> "_Problem":
        """The same problem on some of the samples."""
        return replace(self, g=self.g[samples])

    def gradient(self, X: Tensor) -> Tensor:
        """Derivative with respect to X; the objective is half its inner product with X."""
        along = self.g.flatten(1) @ X.flatten()
        fisher = (along @ self.g.flatten(1)).view_as(X) / self.g.shape[0]
        return fisher + self.kronecker * X + self.frobenius * self.metric_b @ X @ self.metric_a

    def value(self, P: Tensor, Q: Tensor) -> float:
        """The objective at X = PQ - I."""
        X = P @ Q - self.target
        return 0.5 * float((X * self.gradient(X)).sum())


def truncate_core_fisher(
    B: Float[Tensor, "d_out r"],
    A: Float[Tensor, "r d_in"],
    rank: int,
    core_gradients: Float[Tensor, "n r r"],
    M_b: Float[Tensor, "r r"],
    M_a: Float[Tensor, "r r"],
    *,
    mu: float | None = None,
    lam: float | None = None,
    max_iter: int = 100,
) -> CoreFisherTruncation:
    r"""Rank-`rank` adapter of least estimated loss increase, under the exact Fisher matrix of the core.

    Args:
        B: left factor.
        A: right factor.
        rank: components kept, 1..r.
        core_gradients: :math:`g_n`, one per sample, of that sample's own loss.
        M_b: moment of the output side, :math:`E[u u^\top]`; damp it where it may be singular, see
            `prunedlora.linalg.weighted_truncation.damped_moment`.
        M_a: moment of the input side, :math:`E[z z^\top]`.
        mu: weight of the Kronecker term.  By default `mu` and `lam` are chosen from `GRID` by the held-out half
            of the samples (each half once), and the Kronecker solution stays where none beats it there.
        lam: weight of the Frobenius term; give both or neither.
        max_iter: steps of L-BFGS for the fit.

    Raises:
        ConfigurationError: `rank` out of range, negative weights, only one of them given, or no sample.
        NonFiniteError: NaN or infinity in an argument.
        SingularCurvatureError: a moment with a negative eigenvalue.

    >>> g = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 2.0]]])
    >>> M_b = torch.diag(torch.tensor([0.5, 2.0]))
    >>> out = truncate_core_fisher(torch.eye(2), torch.eye(2), 1, g, M_b, torch.eye(2), mu=0.1, lam=0.0)
    >>> (out.B @ out.A).abs().round(decimals=3)
    tensor([[0., 0.],
            [0., 1.]])
    """
    _check(B, A, rank, core_gradients, mu, lam)
    # Coordinates in which the Kronecker solution is an ordinary SVD.
    problem = _whiten(B, A, core_gradients, M_b, M_a)
    start = _kronecker_solution(problem.target, rank)
    # The weights that were given, or those that held-out samples choose.
    given = None if mu is None or lam is None else (mu, lam)
    chosen = given or _choose(problem, start, min(max_iter, CHOICE_STEPS))
    # Descent from the Kronecker solution, which stays where nothing beat it.
    P, Q = start
    weighted = problem.weighted(*(chosen or (1.0, 0.0)))
    before = weighted.value(*start)
    if chosen is not None:
        P, Q = _descend(weighted, start, max_iter)
    # Back to the factors' own coordinates.
    new_B, new_A = balanced(
        B.double() @ problem.back_b @ P, Q @ problem.back_a.mT @ A.double(), B.dtype
    )
    return CoreFisherTruncation(
        B=new_B,
        A=new_A,
        objective=weighted.value(P, Q),
        start=before,
        mu=chosen[0] if chosen else float("inf"),
        lam=chosen[1] if chosen else 0.0,
    )


def _choose(
    problem: _Problem, start: tuple[Tensor, Tensor], max_iter: int
) -> tuple[float, float] | None:
    """The weights of least held-out loss; None where the Kronecker solution is at least as good."""
    n = problem.g.shape[0]
    if n < MIN_SAMPLES:
        return None
    # Each half of the samples judges what was fitted on the other; the last entry is the Kronecker solution.
    losses = torch.zeros(len(GRID) + 1, dtype=torch.float64)
    for fold in range(2):
        held_out = torch.arange(n, device=problem.g.device) % 2 == fold
        judge = problem.only(held_out)
        fitted = start
        losses[-1] += judge.value(*start)
        # From weights to weights the last fit is the next start.
        for i, weights in enumerate(GRID):
            fitted = _descend(problem.only(~held_out).weighted(*weights), fitted, max_iter)
            losses[i] += judge.value(*fitted)
    best = int(losses.argmin())
    return GRID[best] if losses[best] < losses[-1] else None


def _descend(
    problem: _Problem, start: tuple[Tensor, Tensor], max_iter: int
) -> tuple[Tensor, Tensor]:
    """L-BFGS from `start`; the start itself where that is lower."""
    P, Q = (t.clone().requires_grad_() for t in start)
    optimizer = torch.optim.LBFGS(
        [P, Q],
        max_iter=max_iter,
        history_size=20,
        tolerance_grad=1e-8,
        tolerance_change=1e-10,
        line_search_fn="strong_wolfe",
    )
    # Relative to the start, so that the tolerances mean the same in every module.
    scale = max(problem.value(*start), torch.finfo(torch.float64).tiny)

    # The gradient is known in closed form; autograd would keep a graph for nothing.
    def closure() -> float:
        with torch.no_grad():
            X = P @ Q - problem.target
            slope = problem.gradient(X) / scale
            P.grad = slope @ Q.mT
            Q.grad = P.mT @ slope
            return 0.5 * float((X * slope).sum())

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    end = P.detach(), Q.detach()
    return end if problem.value(*end) <= problem.value(*start) else start


def _whiten(B: Tensor, A: Tensor, g: Tensor, M_b: Tensor, M_a: Tensor) -> _Problem:
    (R_b, back_b), (R_a, back_a) = square_root(M_b, "M_b"), square_root(M_a, "M_a")
    gram_b = B.double().mT @ B.double()
    gram_a = A.double() @ A.double().mT
    g = g.double()
    # The core gradients in whitened coordinates, and their mean square in the metric of the weights.
    white = back_b.mT @ g @ back_a
    dual = (inverse(gram_b) @ g * (g @ inverse(gram_a))).sum().clamp(min=0.0)
    return _Problem(
        g=white,
        target=R_b @ R_a.mT,
        back_b=back_b,
        back_a=back_a,
        metric_b=back_b.mT @ gram_b @ back_b,
        metric_a=back_a.mT @ gram_a @ back_a,
        levels=(float(white.square().mean()), float(dual) / g.numel()),
    )


def _kronecker_solution(target: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    U, S, Vh = torch.linalg.svd(target)
    root = S[:rank].sqrt()
    return U[:, :rank] * root, root.unsqueeze(-1) * Vh[:rank]


def _check(B: Tensor, A: Tensor, rank: int, g: Tensor, mu: float | None, lam: float | None) -> None:
    if not 1 <= rank <= B.shape[-1]:
        raise ConfigurationError(
            f"rank must be between 1 and {B.shape[-1]}, the rank of the adapter, not {rank}"
        )
    if (mu is None) != (lam is None) or (mu or 0.0) < 0 or (lam or 0.0) < 0:
        raise ConfigurationError(f"give both mu and lam, >= 0, or neither; not mu={mu}, lam={lam}")
    if g.shape[0] == 0:
        raise ConfigurationError("no core gradients were collected; run at least one backward pass")
    if not all(torch.isfinite(t).all() for t in (B, A, g)):
        raise NonFiniteError(
            "factors or core gradients hold NaN or infinity; nothing can be truncated"
        )
