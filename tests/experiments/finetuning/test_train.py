"""Whole runs on the tiny models of the smoke preset."""

import itertools
from dataclasses import replace

import pytest

from experiments.finetuning.learning_rate import cosine_with_warmup
from experiments.jobs.run import run
from tests.experiments.finetuning.runs import BASE, ENCODER


def test_an_encoder_is_trained_pruned_and_scored_by_its_head(tmp_path):
    changes = {
        "model": "tiny_bert",
        "task": "tweets",
        "target_modules": ("all-linear",),
        "learning_rate": 0.01,
    }
    config = replace(
        BASE, method="prune", criterion="svd", initial_rank=8, target_rank=4, **changes
    )
    result = run(config, tmp_path / "adapter")
    losses = result["losses"]
    assert result["cross_entropy"] == pytest.approx(sum(losses) / len(losses), abs=1e-4)
    assert all(
        (right == "1") == (loss < 0.6931)
        for right, loss in zip(result["correct"], losses, strict=True)
    )


def test_the_learning_rate_rises_falls_and_ends_at_zero():
    factor = cosine_with_warmup(100)
    values = [factor(s) for s in range(100)]
    assert values[:3] == [pytest.approx(x / 3) for x in (1, 2, 3)]
    assert all(a >= b for a, b in itertools.pairwise(values[2:]))
    assert 0 < values[-1] < 1e-3


def test_the_same_seed_gives_the_same_result_and_pruning_takes_place(tmp_path):
    config = replace(
        BASE, method="prune", criterion="prunedlora2025", initial_rank=8, target_rank=4
    )
    one, two = (run(config, tmp_path / name) for name in ("one", "two"))
    timed = {"train_seconds", "evaluation_seconds", "peak_memory_bytes", "events"}
    assert {k: v for k, v in one.items() if k not in timed} == {
        k: v for k, v in two.items() if k not in timed
    }
    assert [e["removed"] for e in one["events"]] == [e["removed"] for e in two["events"]]
    assert [set(e["ranks"].values()) for e in one["events"]] == [{6}, {4}]
    assert one["rank"] == 4
    files = [
        (tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("one", "two")
    ]
    assert files[0] == files[1]


@pytest.mark.parametrize("method", ["dora", "adalora", "full"])
def test_the_training_loss_is_the_plain_cross_entropy_whatever_the_method_adds(tmp_path, method):
    config = replace(BASE, method=method, initial_rank=4, target_rank=4, **ENCODER)
    result = run(config, tmp_path / method)
    # at the first step every method is the base model: B (or AdaLoRA's E) is zero, and dropout alone differs
    assert result["train_loss"][0] == pytest.approx(0.693, abs=0.1)
    lora = run(replace(config, method="lora"), tmp_path / "lora")
    assert result["trainable_parameters"] > lora["trainable_parameters"]
