"""The rules of the study: the paper's recovery of random choice, and a rebalancing that changes nothing else."""

from dataclasses import replace

import pytest
import torch

from experiments.finetuning.controls import (
    CANCELLING,
    KFAC_TWO_SIDED,
    RANDOM_RECOVERED,
    REBALANCED,
    register_controls,
)
from prunedlora.criteria import Statistics, get_criterion
from prunedlora.factors import Factors

R = 6


@pytest.fixture
def case():
    register_controls()
    g = torch.Generator().manual_seed(0)
    factors = Factors(torch.randn(9, R, generator=g), torch.randn(R, 7, generator=g))
    G_B, G_A = torch.randn(9, R, generator=g), torch.randn(R, 7, generator=g)
    z = torch.randn(20, R, generator=g)
    return factors, Statistics(
        gradient_B=G_B,
        gradient_A=G_A,
        gram_B=G_B.mT @ G_B,
        gram_A=G_A @ G_A.mT,
        noise=torch.rand(R, generator=g),
        C_z=z.mT @ z / 20,
        U=torch.eye(R),
    )


@pytest.mark.parametrize("recovery", ["both", "half", "B", "A", "none"])
def test_for_the_papers_choice_the_recovery_is_the_papers(case, recovery):
    factors, statistics = case
    paper = get_criterion("prunedlora2025").reduce(factors, statistics, 3, recovery=recovery)
    # Noise that makes the random choice that of the paper.
    noise = torch.ones(R).scatter(0, paper.removed, torch.tensor([0.1, 0.2, 0.3]))
    made = get_criterion(RANDOM_RECOVERED).reduce(
        factors, replace(statistics, noise=noise), 3, recovery=recovery
    )
    assert made.removed.tolist() == paper.removed.tolist()
    torch.testing.assert_close(made.factors.B, paper.factors.B)
    torch.testing.assert_close(made.factors.A, paper.factors.A)


@pytest.mark.parametrize("rule", ["random", "prunedlora2025", "kfac", "sparsegpt2023"])
def test_rebalancing_keeps_the_product_and_makes_the_norms_equal(case, rule):
    factors, statistics = case
    options = {"recovery": "half"} if rule == "prunedlora2025" else {}
    plain = get_criterion(rule).reduce(factors, statistics, 3, **options)
    made = get_criterion(REBALANCED).reduce(factors, statistics, 3, rule=rule)
    B, A = made.factors.B, made.factors.A
    torch.testing.assert_close(B @ A, plain.factors.B @ plain.factors.A)
    torch.testing.assert_close(B.norm(dim=0), A.norm(dim=1))
    assert (B[:, made.removed] == 0).all()
    # Its basis is that of the rebalancing alone.
    P, Q = made.basis
    torch.testing.assert_close(plain.factors.B.double() @ P, B.double())
    torch.testing.assert_close(Q @ plain.factors.A.double(), A.double())


@pytest.mark.parametrize("first", ["neither", "B"])
def test_after_a_cancelling_recovery_the_loss_changes_by_nothing_to_first_order(case, first):
    """Gradients of two directions: the regressions behind (11) leave little of three removed components."""
    factors, statistics = case
    G = torch.randn(9, 2, dtype=torch.float64) @ torch.randn(2, 7, dtype=torch.float64)
    G_B, G_A = G @ factors.A.mT.double(), factors.B.mT.double() @ G
    statistics = replace(
        statistics,
        gradient_B=G_B.float(),
        gradient_A=G_A.float(),
        gram_B=(G_B.mT @ G_B).float(),
        gram_A=(G_A @ G_A.mT).float(),
    )
    made = get_criterion(CANCELLING).reduce(factors, statistics, 2, first=first)
    paper = get_criterion("prunedlora2025")
    masked = paper.reduce(factors, statistics, 2, recovery="none").factors

    def change(new):
        return ((new.B - factors.B) * G_B).sum() + ((new.A - factors.A) * G_A).sum()

    # Each factor's own loss counts the removed components once, both together twice.
    x = -((masked.B - factors.B) * G_B).sum()
    assert abs(change(made.factors) + x) < 0.05 * abs(x)
    assert (made.factors.B[:, made.removed] == 0).all()


def test_the_second_side_lowers_the_cost_under_the_kronecker_factored_curvature(case):
    factors, statistics = case
    g = torch.Generator().manual_seed(1)
    C = torch.cov(torch.randn(7, 40, generator=g).double())
    D = torch.cov(torch.randn(9, 40, generator=g).double())
    B, A = factors.B.double(), factors.A.double()
    statistics = replace(statistics, C_z=(A @ C @ A.mT).float(), U=(B.mT @ D @ B).float())

    def cost(new):
        error = new.B.double() @ new.A.double() - B @ A
        return float((error.mT @ D @ error @ C).diagonal().sum())

    one = get_criterion("kfac").reduce(factors, statistics, 3)
    two = get_criterion(KFAC_TWO_SIDED).reduce(factors, statistics, 3)
    assert two.removed.tolist() == one.removed.tolist()
    assert cost(two.factors) < 0.97 * cost(one.factors)
    assert (two.factors.A[two.removed] == 0).all()
    torch.testing.assert_close(two.factors.B, one.factors.B)
