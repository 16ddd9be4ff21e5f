"""Runs of Table 8 on the tiny model."""

from dataclasses import replace

import pytest

from experiments.jobs import pretrained
from experiments.jobs.pretrained import measure
from experiments.pretrained.corpus import load_corpus
from experiments.settings.preset import load_preset

TABLE = load_preset("smoke").table8
CONFIG = replace(TABLE.run, patterns=("50%", "2:4"))


@pytest.fixture(autouse=True)
def _short_text(monkeypatch):
    """Few documents: splitting all of them into tokens takes seconds."""
    corpus = load_corpus("sotu")
    short = replace(corpus, calibration=corpus.calibration[:5], test=corpus.test[:3])
    monkeypatch.setattr(pretrained, "load_corpus", lambda _: short)


@pytest.mark.parametrize("method", ["dense", "random", "sparsegpt"])
def test_a_run_is_the_same_each_time(method):
    config = replace(CONFIG, method=method)
    first, again = measure(config), measure(config)
    assert first["rows"] == again["rows"]
    assert [row["pattern"] for row in first["rows"]] == (
        ["dense"] if method == "dense" else ["50%", "2:4"]
    )
    assert all(row["removed"] == (0 if method == "dense" else 0.5) for row in first["rows"])
    assert all(len(row["losses"]) == config.test_sequences for row in first["rows"])


def test_the_seed_draws_other_calibration_sequences_and_the_test_text_stays():
    first, other = (measure(replace(CONFIG, method="random", seed=seed)) for seed in (0, 1))
    assert first["sha256"] == other["sha256"]
    assert first["rows"] != other["rows"]
