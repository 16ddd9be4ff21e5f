r"""Many small problems at once: quadratics of a product, :math:`f(PQ)`, minimised over P and Q by L-BFGS.

Along a direction :math:`(\delta P, \delta Q)` the product is :math:`PQ + \alpha (\delta P\,Q + P\,\delta Q) +
\alpha^2 \delta P\,\delta Q`, so that a quadratic of it is a polynomial of degree 4 in :math:`\alpha`.  Its five
coefficients take one pass over the samples, and its first minimum is known in closed form: the line search is exact,
needs no further evaluation, and is the same sequence of operations for every problem of a batch.  An exact step along
a direction of descent has :math:`s^\top y > 0`, as L-BFGS asks for.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

#: Pairs of steps and changes of the gradient that a direction is made from.
HISTORY = 20
#: Largest entry of the gradient, and decrease of a step, at which a problem counts as solved; relative to its start.
FLAT = 1e-8
NO_DECREASE = 1e-10
#: Steps after which it is asked whether all problems are solved, which waits for the device.
ASKED_EVERY = 5


@dataclass(frozen=True)
class Quadratic:
    r"""A quadratic of c x c matrices, for each of m sets of samples with each of w pairs of weights.

    With E = X - `target`,

    .. math:: \tfrac12\Bigl(\tfrac1n\sum_i (\langle g_i, E\rangle - o_i)^2 + \kappa(\|E\|_F^2 + \rho)
              + \varphi(\langle E, G_b E G_a + 2K\rangle + \rho')\Bigr)

    Attributes:
        rows: the :math:`g_i`, flattened, (m, n, c²).
        offsets: the :math:`o_i`, (m, n).
        count: how many samples the rows stand for, (m,).
        target: T, (m, c, c).
        metric_b: G_b, (m, c, c).
        metric_a: G_a.
        cross: K.
        rest: what no X changes, :math:`\rho` and :math:`\rho'`, (2, m).
        weights: :math:`\kappa` and :math:`\varphi`, (2, m, w).
    """

    rows: Tensor
    offsets: Tensor
    count: Tensor
    target: Tensor
    metric_b: Tensor
    metric_a: Tensor
    cross: Tensor
    rest: Tensor
    weights: Tensor

    def weighted(self, weights: Float[Tensor, "2 m w"]) -> "Quadratic":
        """The same samples with other weights."""
        return replace(self, weights=weights)

    def residuals(self, E: Float[Tensor, "m w c c"]) -> Float[Tensor, "m w n"]:
        r""":math:`\langle g_i, E\rangle - o_i`."""
        return self.along(E) - self.offsets.unsqueeze(1)

    def along(self, E: Float[Tensor, "m w c c"]) -> Float[Tensor, "m w n"]:
        r""":math:`\langle g_i, E\rangle`."""
        return E.flatten(2) @ self.rows.mT

    def fisher(self, residuals: Float[Tensor, "m w n"]) -> Float[Tensor, "m w"]:
        """The first term."""
        return 0.5 * residuals.square().sum(dim=-1) / self.count.unsqueeze(1)

    def value(self, E: Float[Tensor, "m w c c"]) -> Float[Tensor, "m w"]:
        """The whole quadratic."""
        kappa, phi = self.weights
        near = E.square().sum(dim=(-2, -1)) + self.rest[0].unsqueeze(1)
        bent = (E * (self._bent(E) + 2 * self.cross.unsqueeze(1))).sum(dim=(-2, -1))
        regular = kappa * near + phi * (bent + self.rest[1].unsqueeze(1))
        return self.fisher(self.residuals(E)) + 0.5 * regular

    def gradient(
        self, E: Float[Tensor, "m w c c"], residuals: Float[Tensor, "m w n"]
    ) -> Float[Tensor, "m w c c"]:
        """Derivative with respect to X."""
        kappa, phi = self.weights[..., None, None]
        fisher = (residuals / self.count[:, None, None] @ self.rows).view_as(E)
        return fisher + kappa * E + phi * (self._bent(E) + self.cross.unsqueeze(1))

    def forms(
        self, D: Float[Tensor, "m w c c"], D2: Float[Tensor, "m w c c"]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Of two changes of X: ⟨g_i, ·⟩ of each, and the second derivative's values (1,1), (1,2) and (2,2)."""
        m, w = D.shape[:2]
        both = self.along(torch.cat([D, D2], dim=1))
        a, a2 = both.view(m, 2, w, -1).unbind(1)
        kappa, phi = self.weights
        values = []
        for left, right, l_along, r_along in ((D, D, a, a), (D, D2, a, a2), (D2, D2, a2, a2)):
            regular = left * (
                kappa[..., None, None] * right + phi[..., None, None] * self._bent(right)
            )
            values.append(
                (l_along * r_along).sum(dim=-1) / self.count.unsqueeze(1)
                + regular.sum(dim=(-2, -1))
            )
        return [a, a2], values

    def _bent(self, E: Float[Tensor, "m w c c"]) -> Float[Tensor, "m w c c"]:
        return self.metric_b.unsqueeze(1) @ E @ self.metric_a.unsqueeze(1)


@torch.no_grad()
def descend(
    problem: Quadratic,
    P: Float[Tensor, "m w c k"],
    Q: Float[Tensor, "m w k c"],
    max_iter: int,
    solved: Bool[Tensor, "m w"] | None = None,
) -> tuple[Float[Tensor, "m w c k"], Float[Tensor, "m w k c"]]:
    """P and Q of least value, by at most `max_iter` steps from those given; never above them.

    Args:
        problem: the quadratics.
        P: left factors at the start.
        Q: right factors at the start.
        max_iter: steps of L-BFGS.
        solved: problems that are left as they are.
    """
    start = P, Q
    target = problem.target.unsqueeze(1)
    before = problem.value(P @ Q - target)
    # Relative to the start, so that the tolerances mean the same in every problem.
    scale = before.clamp(min=torch.finfo(before.dtype).tiny)
    solved = torch.zeros_like(before, dtype=torch.bool) if solved is None else solved
    residuals = problem.residuals(P @ Q - target)
    slope = problem.gradient(P @ Q - target, residuals)
    gradient = _joined(slope @ Q.mT, P.mT @ slope) / scale.unsqueeze(-1)
    memory = _Memory()
    for step in range(max_iter):
        solved = solved | (gradient.abs().amax(dim=-1) <= FLAT)
        if step % ASKED_EVERY == 0 and bool(solved.all()):
            break
        # The polynomial along the direction, and its first minimum.
        dP, dQ = _parted(memory.direction(gradient), P, Q)
        first = dP @ Q + P @ dQ
        second = dP @ dQ
        (a, a2), (q11, q12, q22) = problem.forms(first, second)
        slopes = [(slope * D).sum(dim=(-2, -1)) for D in (first, second)]
        coefficients = slopes[0], slopes[1] + 0.5 * q11, q12, 0.5 * q22
        length = first_minimum(*coefficients)
        decrease = -_polynomial(length, *coefficients)
        # A step that lowers nothing is not made, and ends the problem.
        length = length.where((decrease > 0) & ~solved, 0.0)
        solved = solved | ~(decrease > NO_DECREASE * scale)
        along = length[..., None, None]
        P = P + along * dP
        Q = Q + along * dQ
        residuals = residuals + along.squeeze(-1) * (a + along.squeeze(-1) * a2)
        slope = problem.gradient(P @ Q - target, residuals)
        new = _joined(slope @ Q.mT, P.mT @ slope) / scale.unsqueeze(-1)
        memory.add(length.unsqueeze(-1) * _joined(dP, dQ), new - gradient)
        gradient = new
    kept = (problem.value(P @ Q - target) <= before)[..., None, None]
    return P.where(kept, start[0]), Q.where(kept, start[1])


class _Memory:
    """The last steps and changes of the gradient, of every problem."""

    def __init__(self) -> None:
        self._pairs: list[tuple[Tensor, Tensor, Tensor]] = []
        self._scale: Tensor | None = None

    def add(self, step: Float[Tensor, "m w d"], change: Float[Tensor, "m w d"]) -> None:
        """Keep a pair; one without curvature, as of a problem that is solved, stays without effect."""
        product = (step * change).sum(dim=-1, keepdim=True)
        squared = change.square().sum(dim=-1, keepdim=True)
        bends = product > torch.finfo(step.dtype).eps * squared
        self._pairs.append((step, change, torch.where(bends, 1 / product, 0.0)))
        self._pairs = self._pairs[-HISTORY:]
        last = torch.ones_like(product) if self._scale is None else self._scale
        self._scale = torch.where(bends, product / squared, last)

    def direction(self, gradient: Float[Tensor, "m w d"]) -> Float[Tensor, "m w d"]:
        """The quasi-Newton direction (the two loops of Nocedal, 1980)."""
        q = -gradient
        shares = []
        for step, change, inverse in reversed(self._pairs):
            share = inverse * (step * q).sum(dim=-1, keepdim=True)
            q = torch.addcmul(q, share, change, value=-1)
            shares.append(share)
        if self._scale is not None:
            q = q * self._scale
        for (step, change, inverse), share in zip(self._pairs, reversed(shares), strict=True):
            back = inverse * (change * q).sum(dim=-1, keepdim=True)
            q = torch.addcmul(q, share - back, step)
        return q


def first_minimum(
    c1: Float[Tensor, "*m"],
    c2: Float[Tensor, "*m"],
    c3: Float[Tensor, "*m"],
    c4: Float[Tensor, "*m"],
) -> Float[Tensor, "*m"]:
    r"""The smallest :math:`\alpha > 0` at which :math:`c_1\alpha + c_2\alpha^2 + c_3\alpha^3 + c_4\alpha^4` is flat.

    0 where :math:`c_1` is not negative, or where there is none.

    >>> one = torch.ones((), dtype=torch.float64)
    >>> first_minimum(-2 * one, one, 0 * one, 0 * one).item()
    1.0
    """
    # The inverse is the largest root of a cubic whose leading coefficient is 1, however flat the polynomial is.
    falls = c1 < 0
    c1 = c1.where(falls, -1.0)
    a, b, c = 2 * c2 / c1, 3 * c3 / c1, 4 * c4 / c1
    size = torch.stack([a.abs(), b.abs().sqrt(), c.abs().pow(1 / 3)]).amax(dim=0)
    size = size.where(size > 0, 1.0)
    root = _largest_root(a / size, b / size**2, c / size**3) * size
    return (1 / root).where(falls & (root > 0), 0.0)


def _largest_root(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    r"""The largest real root of :math:`x^3 + ax^2 + bx + c`, entries of a, b and c of at most 1 in absolute value."""
    q = (a.square() - 3 * b) / 9
    r = (2 * a**3 - 9 * a * b + 27 * c) / 54
    # Three real roots, by the angle; else one, by Cardano.
    cube = q.clamp(min=0.0) ** 3
    angle = torch.acos((r / cube.sqrt().clamp(min=1e-300)).clamp(-1.0, 1.0))
    several = -2 * q.clamp(min=0.0).sqrt() * torch.cos((angle + 2 * math.pi) / 3) - a / 3
    larger = (r.abs() + (r.square() - q**3).clamp(min=0.0).sqrt()).pow(1 / 3)
    larger = larger.where(r < 0, -larger)
    single = larger + torch.where(larger == 0, 0.0, q / larger) - a / 3
    x = several.where(r.square() < q**3, single)
    # Two steps of Newton for the digits that cancelled.
    for _ in range(2):
        slope = (3 * x + 2 * a) * x + b
        x = x - torch.where(slope > 0, (((x + a) * x + b) * x + c) / slope, 0.0)
    return x


def _polynomial(x: Tensor, c1: Tensor, c2: Tensor, c3: Tensor, c4: Tensor) -> Tensor:
    return x * (c1 + x * (c2 + x * (c3 + x * c4)))


def _joined(P: Tensor, Q: Tensor) -> Tensor:
    return torch.cat([P.flatten(2), Q.flatten(2)], dim=-1)


def _parted(x: Tensor, P: Tensor, Q: Tensor) -> tuple[Tensor, Tensor]:
    size = P.shape[-2] * P.shape[-1]
    return x[..., :size].view_as(P), x[..., size:].view_as(Q)
