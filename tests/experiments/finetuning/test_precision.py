"""Precision: what is multiplied in which, and that nothing of it stays behind."""

import json
from dataclasses import asdict, replace

import pytest
import torch

from experiments.finetuning.calibration import batches_of, statistics_of
from experiments.finetuning.methods import prepare
from experiments.finetuning.models import load_base
from experiments.finetuning.precision import forward, products
from experiments.jobs.run import run
from experiments.settings.jobs import RunConfig
from experiments.tasks import TASKS
from prunedlora import find_lora_modules, measure_statistics
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


def test_calibration_is_in_the_precision_of_the_run():
    config = replace(BASE, initial_rank=4, target_rank=4)
    base, tokenizer = load_base(config)
    model = prepare(base, config)
    for module in find_lora_modules(model):
        torch.nn.init.normal_(module.B, std=0.1)
    batches = batches_of(tokenizer, config, TASKS[config.task].train(8, 0), CPU)
    needs = ("C_z", "U", "gram_B")
    measured = {
        p: statistics_of(model, replace(config, precision=p), needs, batches, seed=0)
        for p in ("float32", "bf16_autocast")
    }
    plain = measure_statistics(model, needs, batches, seed=0)
    for name, expected in plain.items():
        for need in needs:
            own, lower = (getattr(found[name], need) for found in measured.values())
            assert torch.equal(own, getattr(expected, need))
            assert not torch.equal(lower, own)
            assert (lower - own).norm() < 0.1 * own.norm()
