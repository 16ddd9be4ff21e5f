import pytest

from experiments.real_layers import curvature


def test_both_rules_of_a_pair_are_measured_on_the_same_examples(measured):
    rows = curvature.prices(measured)
    assert len(rows) == len(measured.layers) * len(curvature.PAIRS)
    for row in rows:
        assert row["test_difference"] == pytest.approx(
            row["activation"]["test"] - row["loss"]["test"], abs=1e-12
        )
        if row["pair"].startswith("svd"):  # the optimum of that model, up to damping
            assert row["loss"]["kronecker"] <= row["activation"]["kronecker"] * 1.05


def test_kappa_is_the_same_from_dense_matrices_and_from_the_core(measured):
    for row in curvature.spectra(measured):
        if row["kappa"] < 1e8:
            assert row["kappa_from_core"] == pytest.approx(row["kappa"], rel=1e-3)
        assert 1 - 1e-9 <= row["S7_price_of_one"] <= row["S7_bound"] * (1 + 1e-9)
        assert not row["S10_violated"]
