import pytest

from theory.report import real_summary


def test_correlations_of_the_summary_are_those_of_the_rows():
    def row(layer, predicted, true):
        values = {"depth": layer, "kind": "q", "count": 1, "recover": False}
        both = {name: {"calibration": true, "test": -true} for name in ("true", "even")}
        return {**values, "predicted": {"score": predicted, "constant": 1.0}, **both}

    rows = [row(i // 2, float(i), float(i) ** 3) for i in range(8)]
    found = {r["prediction"]: r for r in real_summary.removals(rows)["correlations"]}
    assert found["score"]["true_calibration"] == pytest.approx(1)
    assert found["score"]["even_test"] == pytest.approx(-1)
    assert found["constant"]["true_test"] == 0
    assert found["score"]["true_calibration_interval"][0] <= 1
