import pytest
import torch

from prunedlora import PruneConfig
from prunedlora.criteria import get_criterion
from prunedlora.errors import ConfigurationError
from prunedlora.linalg.elimination import block_solution
from prunedlora.statistics.data import Statistics


def test_newton_forms_of_prunedlora(layer):
    factors, statistics, _, _ = layer
    changes = {}
    for newton in ("off", "capped", "literal"):
        out = get_criterion("prunedlora2025").reduce(
            factors, statistics, 0, newton=newton, trust=0.05, recovery="both"
        )
        changes[newton] = float((out.factors.B - factors.B).norm() / factors.B.norm())
    assert changes["off"] == 0
    assert 0 < changes["capped"] <= 0.05 * (1 + 1e-9)
    assert changes["literal"] > 0


def test_the_literal_newton_term_explodes_as_gradients_vanish_and_the_capped_does_not(layer):
    factors, s, _, _ = layer
    small = Statistics(
        gradient_B=1e-5 * s.gradient_B,
        gradient_A=1e-5 * s.gradient_A,
        gram_B=1e-10 * s.gram_B,
        gram_A=1e-10 * s.gram_A,
    )
    norms = {
        newton: get_criterion("prunedlora2025")
        .reduce(factors, small, 1, newton=newton, recovery="both")
        .factors.B.norm()
        for newton in ("off", "capped", "literal")
    }
    assert norms["literal"] > 100 * norms["off"]
    assert norms["capped"] < 2 * norms["off"]


@pytest.mark.parametrize(
    ("recovery", "share_B", "share_A"),
    [("both", 1.0, 1.0), ("half", 0.5, 0.5), ("B", 1.0, 0.0), ("A", 0.0, 1.0), ("none", 0.0, 0.0)],
)
def test_each_factor_makes_its_share_of_the_closed_form(layer, recovery, share_B, share_A):
    factors, s, _, _ = layer
    out = get_criterion("prunedlora2025").reduce(factors, s, 2, damping=0.0, recovery=recovery)
    masked = factors.without(out.removed)
    for own, W, kept, H, share in (
        (out.factors.B, factors.B, masked.B, s.gram_B, share_B),
        (out.factors.A.mT, factors.A.mT, masked.A.mT, s.gram_A, share_A),
    ):
        full = W + block_solution(W, H, out.removed)[0]
        torch.testing.assert_close(own, kept + share * (full - kept))
    assert not out.factors.B[:, out.removed].any()
    assert not out.factors.A[out.removed].any()


def test_the_recovery_changes_neither_the_choice_nor_its_cost(layer):
    factors, statistics, _, _ = layer
    reduce = get_criterion("prunedlora2025").reduce
    printed = reduce(factors, statistics, 3, recovery="both")
    for recovery in ("half", "B", "A", "none"):
        out = reduce(factors, statistics, 3, recovery=recovery)
        assert torch.equal(out.removed, printed.removed)
        assert torch.equal(out.cost, printed.cost)


def test_half_of_each_is_the_default_and_the_printed_form_must_be_asked_for(layer):
    factors, statistics, _, _ = layer
    for name in ("prunedlora2025", "fisher"):
        reduce = get_criterion(name).reduce
        default, half, both = (
            reduce(factors, statistics, 2, **options).factors
            for options in ({}, {"recovery": "half"}, {"recovery": "both"})
        )
        assert torch.equal(default.B, half.B)
        assert not torch.equal(default.B, both.B)


def test_what_both_leave_is_what_the_identity_says(layer):
    """S13 in terms of the library: both = B alone + A alone - none + the product of what the two add."""
    factors, statistics, _, _ = layer
    out = {
        recovery: get_criterion("prunedlora2025")
        .reduce(factors, statistics, 2, recovery=recovery)
        .factors
        for recovery in ("both", "B", "A", "none")
    }
    change = {name: new.B @ new.A - factors.B @ factors.A for name, new in out.items()}
    crossed = (out["both"].B - out["none"].B) @ (out["both"].A - out["none"].A)
    torch.testing.assert_close(change["both"], change["B"] + change["A"] - change["none"] + crossed)


def test_a_newton_step_goes_with_the_printed_recovery_only(layer):
    factors, statistics, _, _ = layer
    with pytest.raises(ConfigurationError, match="recovery"):
        get_criterion("prunedlora2025").reduce(
            factors, statistics, 1, recovery="half", newton="capped"
        )


@pytest.mark.parametrize("option", ["recovery", "newton"])
def test_a_word_that_an_option_does_not_know_is_refused_with_the_settings(option):
    with pytest.raises(ConfigurationError, match=rf"option {option} must be one of .*not 'twice'"):
        PruneConfig(target_rank=2, criterion="prunedlora2025", options={option: "twice"})
