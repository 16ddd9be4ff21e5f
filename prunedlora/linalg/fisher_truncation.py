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
basis.  All in float64, in coordinates where the second term is the identity and its optimum for every rank is diagonal.

P and Q are made of the best `CORE` times k components under the second term, at least `LEAST_CORE`; the objective is
that of the whole X.  Core gradients may be given within such a smaller space only: see `Subspace`.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from prunedlora.errors import ConfigurationError, NonFiniteError
from prunedlora.linalg.curvature import inverse, square_root
from prunedlora.linalg.product_descent import Quadratic, descend
from prunedlora.linalg.truncation import balanced, core_svd

#: (μ, λ) among which the held-out loss chooses.
GRID = ((10.0, 0.0), (1.0, 0.0), (1.0, 0.1), (0.1, 0.1), (0.1, 0.0), (0.01, 0.01))
#: Fewer samples than this cannot choose anything: the Kronecker solution stays.
MIN_SAMPLES = 8
#: Components of the Kronecker solution that P and Q are made of: a multiple of those kept, and no fewer than this.
CORE = 4
LEAST_CORE = 64
#: Bytes of core gradients, in float64, that are fitted at once; on a CPU what its caches hold.
AT_ONCE = 2**29
AT_ONCE_ON_CPU = 2**23


@dataclass(frozen=True)
class Subspace:
    r"""A space of cores, :math:`\{C Y R\}`, within which core gradients are known, as :math:`C^\top g_n R^\top`.

    Attributes:
        columns: C.
        rows: R.
        traces: :math:`\langle g_n, I\rangle`, which the gradients within the space do not give.
    """

    columns: Float[Tensor, "*m r c"]
    rows: Float[Tensor, "*m c r"]
    traces: Float[Tensor, "*m n"]


@dataclass(frozen=True)
class CoreFisherTruncation:
    """Outcome of :func:`truncate_core_fisher`, for each entry of the batch.

    Attributes:
        B: left factor, (d_out, k), in the dtype of the input, balanced with A.
        A: right factor, (k, d_in).
        objective: value of the objective at the solution, unit of the loss.
        start: its value at the Kronecker solution; never smaller than `objective`.
        mu: weight of the Kronecker term; infinite where that solution was kept.
        lam: weight of the Frobenius term.
    """

    B: Float[Tensor, "*m d_out k"]
    A: Float[Tensor, "*m k d_in"]
    objective: Float[Tensor, "*m"]
    start: Float[Tensor, "*m"]
    mu: Float[Tensor, "*m"]
    lam: Float[Tensor, "*m"]


def truncate_core_fisher(
    B: Float[Tensor, "*m d_out r"],
    A: Float[Tensor, "*m r d_in"],
    rank: int,
    core_gradients: Float[Tensor, "*m n c c"],
    M_b: Float[Tensor, "*m r r"],
    M_a: Float[Tensor, "*m r r"],
    *,
    subspace: Subspace | None = None,
    mu: float | None = None,
    lam: float | None = None,
    max_iter: int = 100,
) -> CoreFisherTruncation:
    r"""Rank-`rank` adapter of least estimated loss increase, under the exact Fisher matrix of the core.

    Args:
        B: left factors, leading dimensions are batches.
        A: right factors.
        rank: components kept, 1..r, or 1..c with a `subspace`.
        core_gradients: :math:`g_n`, one per sample, of that sample's own loss; r x r, or as `subspace` says.
        M_b: moments of the output side, :math:`E[u u^\top]`; damp them where they may be singular, see
            `prunedlora.linalg.weighted_truncation.damped_moment`.
        M_a: moments of the input side, :math:`E[z z^\top]`.
        subspace: where core gradients are known; everywhere by default.
        mu: weight of the Kronecker term.  By default `mu` and `lam` are chosen from `GRID` by the held-out half
            of the samples (each half once), and the Kronecker solution stays where none beats it there.
        lam: weight of the Frobenius term; give both or neither.
        max_iter: steps of L-BFGS for the fit, and for each of those that choose `mu` and `lam`.

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
    # One batch dimension, a part of it at a time: fits need several copies of the core gradients in float64.
    shape = core_gradients.shape[:-3]
    tensors = [B, A, core_gradients, M_b, M_a]
    if subspace is not None:
        tensors += [subspace.columns, subspace.rows, subspace.traces]
    flat = [t.reshape((-1, *t.shape[len(shape) :])) for t in tensors]
    bytes_of_one = 8 * math.prod(core_gradients.shape[-3:])
    at_once = AT_ONCE_ON_CPU if B.device.type == "cpu" else AT_ONCE
    chunk = max(1, at_once // bytes_of_one)
    given = None if mu is None or lam is None else (mu, lam)
    parts = [
        _truncate(*(t[i : i + chunk] for t in flat), rank=rank, given=given, max_iter=max_iter)
        for i in range(0, flat[0].shape[0], chunk)
    ]
    whole = [torch.cat(part) for part in zip(*parts, strict=True)]
    return CoreFisherTruncation(*(t.reshape((*shape, *t.shape[1:])) for t in whole))


def _truncate(
    B: Tensor,
    A: Tensor,
    g: Tensor,
    M_b: Tensor,
    M_a: Tensor,
    *subspace: Tensor,
    rank: int,
    given: tuple[float, float] | None,
    max_iter: int,
) -> tuple[Tensor, ...]:
    """The fields of the outcome, for one batch dimension."""
    # Coordinates in which the Kronecker solution of every rank is diagonal.
    inner, values, size = _coordinates(M_b, M_a, subspace, rank)
    white = inner[0].mT.unsqueeze(1) @ (g.double() @ inner[1].unsqueeze(1))
    # The same in the coordinates of all cores, and what the gradients say along the identity.
    left, right = inner
    traces = g.diagonal(dim1=-2, dim2=-1).double().sum(dim=-1)
    if subspace:
        left, right = subspace[0].double() @ left, subspace[1].double().mT @ right
        traces = subspace[2].double()
    halves, levels = _quadratic(B, A, white, traces, left, right, values, size)
    problem = _together(halves)
    P, Q = _kronecker_solution(values, rank)
    # The weights that were given, or those that held-out samples choose.
    m = B.shape[0]
    chosen = halves.offsets.new_tensor(given or (1.0, 0.0)).unsqueeze(1).expand(2, m)
    kept = torch.zeros(m, dtype=torch.bool, device=B.device)
    if given is None:
        kept = ~kept
        if g.shape[1] >= MIN_SAMPLES:
            chosen, kept = _choose(halves, levels, P, Q, max_iter)
    # Descent from the Kronecker solution, which stays where nothing beat it.
    weighted = problem.weighted((chosen * levels).unsqueeze(-1))
    target = weighted.target.unsqueeze(1)
    start = weighted.value(P @ Q - target).squeeze(1)
    P, Q = descend(weighted, P, Q, max_iter, solved=kept.unsqueeze(1))
    objective = weighted.value(P @ Q - target).squeeze(1)
    # Back to the factors' own coordinates.
    new_B, new_A = balanced(
        B.double() @ (left @ P.squeeze(1)), Q.squeeze(1) @ right.mT @ A.double(), B.dtype
    )
    return (
        new_B,
        new_A,
        objective,
        start,
        chosen[0].where(~kept, torch.inf),
        chosen[1].where(~kept, 0.0),
    )


def _coordinates(
    M_b: Tensor, M_a: Tensor, subspace: tuple[Tensor, ...], rank: int
) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
    r"""L_b and L_a with X = L_b Y L_aᵀ, in whose Y the Kronecker term is the identity and its optimum diagonal.

    In a subspace X = C L_b Y L_aᵀ R.  Further the singular values, of which the best rank-k Y has the first k, and the
    squared length of the whole target.
    """
    R_b, back_b = square_root(M_b, "M_b")
    R_a, back_a = square_root(M_a, "M_a")
    target = R_b @ R_a.mT
    size = target.square().sum(dim=(-2, -1))
    if subspace:
        # Orthonormal bases of the two spaces in the whitened coordinates.
        E_b, T_b = torch.linalg.qr(R_b @ subspace[0].double())
        E_a, T_a = torch.linalg.qr(R_a @ subspace[1].double().mT)
        target = E_b.mT @ target @ E_a
        back_b = torch.linalg.inv(T_b)
        back_a = torch.linalg.inv(T_a)
    U, S, Vh = core_svd(target)
    c = min(S.shape[-1], max(CORE * rank, LEAST_CORE))
    return (back_b @ U[..., :c], back_a @ Vh[..., :c, :].mT), S[..., :c], size


def _quadratic(
    B: Tensor,
    A: Tensor,
    white: Tensor,
    traces: Tensor,
    left: Tensor,
    right: Tensor,
    values: Tensor,
    size: Tensor,
) -> tuple[Quadratic, Tensor]:
    """The objective on each half of the samples, (m * 2) sets of samples; and c and c', (2, m)."""
    m = B.shape[0]
    target = torch.diag_embed(values)
    # What the best Y leaves of -I; nothing where the coordinates are all of them.
    left_over = torch.eye(B.shape[-1], dtype=left.dtype, device=B.device) - left @ target @ right.mT
    new_B = B.double() @ left
    new_A = A.double().mT @ right
    metric_b = new_B.mT @ new_B
    metric_a = new_A.mT @ new_A
    rest_of_B = B.double().mT @ (B.double() @ left_over)
    bent = rest_of_B @ A.double() @ A.double().mT
    # The core gradients along what is left over.
    offsets = traces - (white.diagonal(dim1=-2, dim2=-1) * values.unsqueeze(1)).sum(dim=-1)
    # Mean eigenvalues of the Fisher matrix in both metrics.
    dual = inverse(metric_b).unsqueeze(1) @ white * (white @ inverse(metric_a).unsqueeze(1))
    levels = torch.stack(
        [white.square().mean(dim=(1, 2, 3)), dual.mean(dim=(1, 2, 3)).clamp(min=0)]
    )
    del dual
    rows, offsets, count = _halves(white.flatten(2), offsets)
    rest = torch.stack(
        [
            (size - values.square().sum(dim=-1)).clamp(min=0.0),
            (bent * left_over).sum(dim=(-2, -1)).clamp(min=0.0),
        ]
    )
    both = [t.repeat_interleave(2, dim=0) for t in (target, metric_b, metric_a)]
    quadratic = Quadratic(
        rows=rows.flatten(0, 1),
        offsets=offsets.flatten(0, 1),
        count=count.repeat(m),
        target=both[0],
        metric_b=both[1],
        metric_a=both[2],
        cross=(-left.mT @ bent @ right).repeat_interleave(2, dim=0),
        rest=rest.repeat_interleave(2, dim=1),
        weights=rows.new_zeros(2, 2 * m, 1),
    )
    return quadratic, levels


def _halves(
    rows: Float[Tensor, "m n d"], offsets: Float[Tensor, "m n"]
) -> tuple[Float[Tensor, "m 2 p d"], Float[Tensor, "m 2 p"], Float[Tensor, "2"]]:
    """Every second sample, and the others; sums of squares of residuals stay what they are."""
    m, n, d = rows.shape
    both = torch.cat([rows, offsets.unsqueeze(-1)], dim=-1)
    if n % 2:  # a sample of zeros adds nothing
        both = torch.nn.functional.pad(both, (0, 0, 0, 1))
    both = both.view(m, -1, 2, d + 1).transpose(1, 2)
    # Many samples of a small core: the triangle of a QR decomposition has the same squares in fewer rows.
    if both.shape[2] > d + 1:
        both = torch.linalg.qr(both, mode="r").R
    count = rows.new_tensor([(n + 1) // 2, n // 2])
    return both[..., :-1].contiguous(), both[..., -1], count


def _together(halves: Quadratic) -> Quadratic:
    """The problem on all samples, from that on both halves."""
    m = halves.rows.shape[0] // 2
    return Quadratic(
        rows=halves.rows.view(m, -1, halves.rows.shape[-1]),
        offsets=halves.offsets.reshape(m, -1),
        count=halves.count.view(m, 2).sum(dim=1),
        target=halves.target[::2],
        metric_b=halves.metric_b[::2],
        metric_a=halves.metric_a[::2],
        cross=halves.cross[::2],
        rest=halves.rest[:, ::2],
        weights=halves.weights[:, ::2],
    )


def _choose(
    halves: Quadratic, levels: Tensor, P: Tensor, Q: Tensor, max_iter: int
) -> tuple[Float[Tensor, "2 m"], Tensor]:
    """The weights of least held-out loss, and where the Kronecker solution is at least as good."""
    # All weights at once on each half, which share its samples; as many steps as the fit takes, since fewer steps
    # act as stronger weights.
    grid = levels.new_tensor(GRID).mT
    w = len(GRID)
    weights = (levels.unsqueeze(-1) * grid.unsqueeze(1)).repeat_interleave(2, dim=1)
    first_P = P.repeat_interleave(2, dim=0)
    first_Q = Q.repeat_interleave(2, dim=0)
    starts = first_P.expand(-1, w, -1, -1), first_Q.expand(-1, w, -1, -1)
    fitted = descend(halves.weighted(weights), *starts, max_iter)
    # Each half of the samples judges what was fitted on the other; the last is the Kronecker solution.
    X = torch.cat([fitted[0] @ fitted[1], first_P @ first_Q], dim=1)
    E = X - halves.target.unsqueeze(1)
    other = E.view(-1, 2, *E.shape[1:]).flip(1).flatten(0, 1)
    losses = halves.fisher(halves.residuals(other)).view(-1, 2, w + 1).sum(dim=1)
    least, best = losses[:, :-1].min(dim=1)
    return grid[:, best], ~(least < losses[:, -1])


def _kronecker_solution(values: Float[Tensor, "m c"], rank: int) -> tuple[Tensor, Tensor]:
    """The factors P and Q of the best rank-k diagonal, (m, 1, c, k) and (m, 1, k, c)."""
    P = torch.diag_embed(values.sqrt())[..., :rank].unsqueeze(1)
    return P, P.mT


def _check(B: Tensor, A: Tensor, rank: int, g: Tensor, mu: float | None, lam: float | None) -> None:
    if not 1 <= rank <= g.shape[-1]:
        raise ConfigurationError(
            f"rank must be between 1 and {g.shape[-1]}, the rank of the core, not {rank}"
        )
    if (mu is None) != (lam is None) or (mu or 0.0) < 0 or (lam or 0.0) < 0:
        raise ConfigurationError(f"give both mu and lam, >= 0, or neither; not mu={mu}, lam={lam}")
    if g.shape[-3] == 0:
        raise ConfigurationError("no core gradients were collected; run at least one backward pass")
    if not all(torch.isfinite(t).all() for t in (B, A, g)):
        raise NonFiniteError(
            "factors or core gradients hold NaN or infinity; nothing can be truncated"
        )
