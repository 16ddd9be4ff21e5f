"""Summaries of what was measured on real layers."""

import numpy as np
import pytest

from theory.report import real_layers, real_summary


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


def test_layers_are_resampled_with_all_their_rows():
    """Two rows of a layer that say the same are no more evidence than one."""
    rng = np.random.default_rng(0)
    once = [
        {"depth": i, "kind": "q", "predicted": {"score": x}, "true": {"test": x + y}}
        for i, (x, y) in enumerate(rng.standard_normal((12, 2)))
    ]
    middle, ends = real_summary.correlation(once, "score", "true", "test")
    again = real_summary.correlation([*once, *once], "score", "true", "test")
    assert again[0] == pytest.approx(middle)
    assert again[1] == pytest.approx(ends)


def leaves(value):
    """All that a nested structure holds, in order; names of keys included."""
    if isinstance(value, dict):
        return [leaf for key, entry in value.items() for leaf in (key, *leaves(entry))]
    if isinstance(value, list | tuple):
        return [leaf for entry in value for leaf in leaves(entry)]
    return [value]


@pytest.mark.parametrize("model", real_layers.read())
def test_the_committed_summaries_are_those_of_the_committed_rows(model):
    record = real_layers.read()[model]
    found, committed = leaves(real_summary.summarise(record["result"])), leaves(record["summary"])
    numbers = [(a, b) for a, b in zip(found, committed, strict=True) if isinstance(a, float)]
    assert [a for a in found if not isinstance(a, float)] == [
        b for b in committed if not isinstance(b, float)
    ]
    assert [a for a, _ in numbers] == pytest.approx([b for _, b in numbers], rel=1e-4, abs=1e-9)
