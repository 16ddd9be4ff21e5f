r"""S6: Proposition 2 of arXiv:2510.00192, gradient side, is false as printed; along a path it is true.

**Claim (false).**  If changing each of the modules :math:`W_Q, W_K, W_V` alone changes the loss by at most
:math:`\varepsilon`, then changing all three changes it by at most :math:`3 \varepsilon`.

**Counterexample** (:func:`silent_modules`).  :math:`W_Q = W_K = 0`.  Then :math:`Q K^\top = 0` whenever only one of
:math:`W_Q, W_K` has changed: the attention stays uniform and the loss does not move, :math:`\varepsilon = 0`.  When
both have changed, :math:`Q K^\top \ne 0` and the loss moves by any amount: the ratio is infinite.  The loss is not
additive over modules, and the single differences know nothing of the cross terms.

**Corrected statement.**  Let :math:`\theta_0, \theta_1, \theta_2, \theta_3` be the parameters after 0, 1, 2, 3 of the
changes, in any order.  If :math:`|L(\theta_i) - L(\theta_{i-1})| \le \varepsilon_i`, then :math:`|L(\theta_3) -
L(\theta_0)| \le \sum_i \varepsilon_i`.  **Proof.**  Triangle inequality.  Equality whenever the differences have one
sign.  ∎

So the ε-condition has to hold for each module *at the point reached after the earlier ones*; and it is a definition,
not a property of a rule that selects what to prune.  S7 to S10 are about rules.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from theory.checking import instances
from theory.checking.registry import Statement, register
from theory.checking.result import Result, compare
from theory.statements.attention import head_output


@dataclass(frozen=True)
class Modules:
    """An attention head on input `X` with squared loss against `T`, and a change of each of its modules."""

    X: Float[Tensor, "*n N D"]
    W_Q: Float[Tensor, "*n D d"]
    W_K: Float[Tensor, "*n D d"]
    W_V: Float[Tensor, "*n D d"]
    T: Float[Tensor, "*n N d"]
    delta_Q: Float[Tensor, "*n D d"]
    delta_K: Float[Tensor, "*n D d"]
    delta_V: Float[Tensor, "*n D d"]

    def changed(self, *names: str) -> "Modules":
        """The modules `names` (of Q, K, V) with their change applied."""
        return replace(
            self, **{f"W_{x}": getattr(self, f"W_{x}") + getattr(self, f"delta_{x}") for x in names}
        )

    @property
    def finite(self) -> Tensor:
        """Where the loss is finite before and after."""
        return torch.isfinite(loss(self)) & torch.isfinite(loss(self.changed("Q", "K", "V")))


def loss(instance: Modules) -> Float[Tensor, "*n"]:
    """``½ ||Z - T||_F²``."""
    X = instance.X
    Z = head_output(X @ instance.W_Q, X @ instance.W_K, X @ instance.W_V)
    return 0.5 * (Z - instance.T).square().sum(dim=(-2, -1))


def single_errors(instance: Modules) -> Float[Tensor, "3 *n"]:
    """Loss change when one module alone is changed."""
    start = loss(instance)
    return torch.stack([(loss(instance.changed(x)) - start).abs() for x in "QKV"])


def path_errors(instance: Modules) -> Float[Tensor, "3 *n"]:
    """Loss change of each module at the point reached after the earlier ones."""
    losses = torch.stack([loss(instance.changed(*"QKV"[:i])) for i in range(4)])
    return losses.diff(dim=0).abs()


def joint_error(instance: Modules) -> Float[Tensor, "*n"]:
    """Loss change when all modules are changed."""
    return (loss(instance.changed(*"QKV")) - loss(instance)).abs()


def rounding(instance: Modules) -> Float[Tensor, "*n"]:
    """Rounding error of a difference of losses."""
    largest = torch.stack([loss(instance.changed(*"QKV"[:i])) for i in range(4)]).amax(dim=0)
    return (64 * torch.finfo(largest.dtype).eps * largest).detach()


def check_printed(instance: Modules) -> Result:
    """The printed claim: the joint error against three times the largest single one."""
    bound = 3 * single_errors(instance).amax(dim=0)
    return compare(
        joint_error(instance), bound, {"finite loss": instance.finite}, rounding(instance)
    )


def check_path(instance: Modules) -> Result:
    """The corrected statement: the joint error against the sum of the errors along the path."""
    bound = path_errors(instance).sum(dim=0)
    return compare(
        joint_error(instance), bound, {"finite loss": instance.finite}, rounding(instance)
    )


def sample(generator: Generator, n: int, *, N: int, D: int, d: int) -> Modules:
    """Random heads; the modules and their changes range over four decades of scale."""

    def module() -> Tensor:
        return instances.matrices(generator, n, D, d, low=-2.0, high=1.0)

    X = instances.normal(generator, n, N, D)
    T = instances.matrices(generator, n, N, d, low=-1.0, high=1.0)
    return Modules(X, module(), module(), module(), T, module(), module(), module())


def silent_modules() -> Modules:
    """The counterexample: with W_Q = W_K = 0, changing either alone does nothing.

    >>> single_errors(silent_modules()).flatten(), round(joint_error(silent_modules()).item(), 1)
    (tensor([0., 0., 0.], dtype=torch.float64), 8.0)
    """
    eye = torch.eye(2, dtype=torch.float64).unsqueeze(0)
    zero = torch.zeros_like(eye)
    V = torch.diag(torch.tensor([4.0, -4.0], dtype=torch.float64)).unsqueeze(0)
    return Modules(eye, zero, zero, V, zero, 10 * eye, 10 * eye, zero)


SHAPES = ({"N": 4, "D": 3, "d": 2}, {"N": 8, "D": 8, "d": 4}, {"N": 16, "D": 6, "d": 6})

register(
    Statement(
        key="S6.printed",
        title="False as printed: Proposition 2, gradient side",
        formula="|ΔL(Q,K,V)| ≤ 3·max(|ΔL(Q)|, |ΔL(K)|, |ΔL(V)|)",
        claim="refuted",
        sample=sample,
        check=check_printed,
        shapes=SHAPES,
        extremal=silent_modules,
        adversary_shapes=({"N": 4, "D": 3, "d": 2},),
    )
)
register(
    Statement(
        key="S6.path",
        title="Corrected: the loss change is at most the sum of the changes along a path",
        formula="|L(θ₃)−L(θ₀)| ≤ Σ|L(θᵢ)−L(θᵢ₋₁)|",
        claim="bound",
        sample=sample,
        check=check_path,
        shapes=SHAPES,
        extremal=silent_modules,
        attained=True,
        adversary_shapes=({"N": 4, "D": 3, "d": 2},),
    )
)
