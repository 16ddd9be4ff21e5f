"""Precision: what is multiplied in which, and that nothing of it stays behind."""

import json
from dataclasses import asdict, replace

import pytest
import torch

from experiments.finetuning.precision import forward, products
from experiments.jobs.run import run
from experiments.settings.jobs import RunConfig
from tests.experiments.finetuning.runs import BASE

CPU = torch.device("cpu")


def test_tf32_holds_inside_only():
    before = torch.get_float32_matmul_precision()
    with products("tf32"):
        assert torch.get_float32_matmul_precision() == "high"
    with pytest.raises(RuntimeError), products("tf32"):
        raise RuntimeError
    assert torch.get_float32_matmul_precision() == before
    for other in ("float32", "bf16_autocast"):
        with products(other):
            assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("float32", torch.float32),
        ("tf32", torch.float32),
        ("bf16_autocast", torch.bfloat16),
    ],
)
def test_autocast_holds_in_forward_passes(precision, dtype):
    A = torch.ones(2, 2)
    with forward(precision, CPU):
        assert (A @ A).dtype == dtype
    assert (A @ A).dtype == torch.float32


def test_the_default_does_not_change_a_name_and_others_do():
    run = RunConfig("tiny", "arithmetic")
    old = {k: v for k, v in asdict(run).items() if k != "precision"}
    assert RunConfig(**json.loads(json.dumps(old))).key == run.key
    keys = {replace(run, precision=p).key for p in ("float32", "tf32", "bf16_autocast")}
    assert len(keys) == 3


def test_a_run_in_lower_precision_learns_about_the_same_and_prunes_in_full_precision(tmp_path):
    config = replace(BASE, method="prune", criterion="kfac", initial_rank=8, target_rank=4, seed=1)
    results = {
        p: run(replace(config, precision=p), tmp_path / p) for p in ("float32", "bf16_autocast")
    }
    plain, lower = (r["train_loss"] for r in results.values())
    assert plain != lower
    assert lower == pytest.approx(plain, rel=1e-2)
    assert results["bf16_autocast"]["rank"] == 4
