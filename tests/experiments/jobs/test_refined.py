"""Refining the adapter of a planted task on a tiny encoder."""

from dataclasses import replace

import pytest

from experiments.jobs import refined
from experiments.jobs.run import run
from experiments.settings.jobs import Refined
from experiments.settings.preset import load_preset

SETTINGS = Refined(("svd", "svd_kfac"), (1,), 32, 8, 40)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    shared = load_preset("smoke").run
    config = replace(
        shared,
        model="tiny_bert",
        task="planted_flat",
        method="lora",
        initial_rank=8,
        target_rank=8,
        target_modules=("query", "value"),
        steps=20,
        learning_rate=0.01,
        max_length=16,
    )
    folder = tmp_path_factory.mktemp("refined") / "adapter"
    run(config, folder)
    return refined.measure(SETTINGS, config, folder)


def test_both_criteria_come_nearer_to_the_larger_adapter(result):
    assert [row["criterion"] for row in result["rows"]] == ["svd", "svd_kfac"]
    for row in result["rows"]:
        assert row["rank"] == 1
        assert row["held_out_after"] < row["held_out_before"]
        assert 0 < row["step"] <= SETTINGS.steps


def test_coming_nearer_on_held_out_examples_is_seen_on_the_test_examples(result):
    for row in result["rows"]:
        assert row["refined_increase"] < row["cut_increase"]
