from prunedlora.criteria import (
    get_criterion,
)
from prunedlora.statistics.data import Statistics


def test_newton_forms_of_prunedlora(layer):
    factors, statistics, _, _ = layer
    changes = {}
    for newton in ("off", "capped", "literal"):
        out = get_criterion("prunedlora2025").reduce(
            factors, statistics, 0, newton=newton, trust=0.05
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
        .reduce(factors, small, 1, newton=newton)
        .factors.B.norm()
        for newton in ("off", "capped", "literal")
    }
    assert norms["literal"] > 100 * norms["off"]
    assert norms["capped"] < 2 * norms["off"]
