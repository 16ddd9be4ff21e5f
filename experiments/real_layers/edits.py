"""Changes of one layer's adapter, what each rule predicts of them, and a model that has one of them for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from prunedlora.adapters.surgery import write_factors
from prunedlora.criteria import get_criterion
from prunedlora.criteria.sparsegpt2023 import recovered
from prunedlora.factors import Factors
from prunedlora.ranks.reduction import Candidate
from prunedlora.statistics.data import Statistics
from theory.checking.numerics import kronecker_loss, trace_form

#: Rules whose prediction is the sum of their scores over the removed components.
SCORES = ("magnitude", "wanda2024", "llmpruner2023", "adalora2023")


@contextmanager
def changed(candidate: Candidate, factors: Factors) -> Iterator[None]:
    """The model with other factors in one layer; the old ones come back at the end."""
    write_factors(candidate.module, candidate.live, factors.B, factors.A)
    try:
        yield
    finally:
        write_factors(candidate.module, candidate.live, candidate.factors.B, candidate.factors.A)


def without(candidate: Candidate, removed: Tensor, *, recover: bool) -> Factors:
    """The factors without some components; with `recover`, B makes up for them through C_z."""
    if recover:
        return recovered(candidate.factors, candidate.statistics.require("C_z"), removed)
    return candidate.factors.without(removed)


def core_change(old: Factors, new: Factors) -> Float[Tensor, "r r"]:
    """X with ``B' A' = B (I + X) A``, for new factors within the spaces of the old.

    >>> old = Factors(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.eye(2))
    >>> core_change(old, Factors(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.eye(2))).abs()
    tensor([[0., 0.],
            [0., 1.]], dtype=torch.float64)
    """
    left = torch.linalg.pinv(old.B.double()) @ new.B.double()
    right = new.A.double() @ torch.linalg.pinv(old.A.double())
    return left @ right - torch.eye(old.rank, dtype=torch.float64)


def reflected(old: Factors, new: Factors) -> Factors:
    """Factors whose product is as far from the old one as the new one's, on the other side: ``B (I - X) A``.

    >>> old = Factors(torch.tensor([[2.0]]), torch.tensor([[1.0]]))
    >>> reflected(old, Factors(torch.tensor([[0.5]]), torch.tensor([[1.0]]))).B
    tensor([[3.5000]])
    """
    X = core_change(old, new)
    return Factors((old.B.double() - old.B.double() @ X).to(old.B.dtype), old.A)


def quadratic_predictions(old: Factors, statistics: Statistics, new: Factors) -> dict[str, float]:
    """The quadratic form that each rule minimises, and Taylor models of the loss, at one change of the adapter.

    With X the change in the core: ``energy`` ½‖s B X z‖², ``frobenius`` ‖BXA‖², ``gradient`` ½tr(U X AAᵀ Xᵀ),
    ``kronecker`` ½tr(U X C_z Xᵀ), ``core_fisher`` ½ E<g, X>², ``first_order`` <∂L/∂S, X>, and ``second_order``, the
    sum of the last two: the Taylor model with the Fisher matrix for the Hessian.
    """
    X = core_change(old, new)
    B, A = old.B.double(), old.A.double()
    C_z = statistics.require("C_z").double()
    U = statistics.require("U").double()
    g = statistics.require("core_gradients").double()
    core = 0.5 * torch.einsum("nij,ij->n", g, X).square().mean()
    slope = (B.mT @ statistics.require("gradient_B").double() * X).sum()
    values = {
        "energy": 0.5 * trace_form(B @ X, C_z),
        "frobenius": trace_form(B @ X, A @ A.mT),
        "gradient": kronecker_loss(X, A @ A.mT, U),
        "kronecker": kronecker_loss(X, C_z, U),
        "core_fisher": core,
        "first_order": slope,
        "second_order": slope + core,
    }
    return {name: value.item() for name, value in values.items()}


def predictions(candidate: Candidate, new: Factors, removed: Tensor) -> dict[str, float]:
    """What every rule says of the removal of components: `quadratic_predictions`, sums of scores, factor by factor."""
    old = candidate.factors
    statistics = candidate.statistics
    predicted = quadratic_predictions(old, statistics, new)
    for name in SCORES:
        predicted[name] = get_criterion(name).score(old, statistics)[removed].sum().item()
    # The two factors apart, each with a second moment of its own gradient.
    delta_B = (new.B - old.B).double()
    delta_A = (new.A - old.A).double().mT
    for name, kind in (("prunedlora2025", "gram"), ("fisher", "fisher")):
        H_B, H_A = (statistics.require(f"{kind}_{x}").double() for x in "BA")
        predicted[name] = 0.5 * (trace_form(delta_B, H_B) + trace_form(delta_A, H_A)).item()
    return predicted
