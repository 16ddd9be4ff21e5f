"""Truncation of what another run trained."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from experiments.finetuning.models import load_base
from experiments.finetuning.truncate import truncated
from experiments.jobs.run import run
from tests.experiments.finetuning.runs import BASE, ENCODER


def test_truncation_starts_from_the_adapter_it_is_given(tmp_path):
    config = replace(BASE, method="truncate", criterion="svd", initial_rank=8, target_rank=8)
    source = run(config.source, tmp_path / "source")
    same = run(config, tmp_path / "same", tmp_path / "source")
    less = run(replace(config, target_rank=1), tmp_path / "less", tmp_path / "source")
    assert same["cross_entropy"] == pytest.approx(source["cross_entropy"], rel=1e-6)
    assert less["rank"] == 1
    assert less["cross_entropy"] != pytest.approx(source["cross_entropy"], rel=1e-6)


def test_what_full_fine_tuning_changed_is_truncated_to_the_rank(tmp_path):
    config = replace(BASE, method="truncate_full", target_rank=2, **ENCODER)
    run(config.source, tmp_path / "full")
    base, tokenizer = load_base(config)
    before = {name: p.detach().clone() for name, p in base.named_parameters()}
    model = truncated(base, tokenizer, config, tmp_path / "full")
    tuned = load_file(tmp_path / "full" / "changes.safetensors")
    for name, p in model.named_parameters():
        if name.endswith(("query.weight", "value.weight")):
            change = p.detach() - before[name]
            assert torch.linalg.matrix_rank(change, rtol=1e-4) == 2
            best = torch.linalg.svdvals((tuned[name] - before[name]).double())[2:].norm()
            assert (tuned[name] - before[name] - change).norm().item() == pytest.approx(
                best.item(), rel=1e-3
            )
        elif name.startswith("classifier"):
            assert torch.equal(p, tuned[name])
        else:
            assert torch.equal(p, before[name])


def test_an_adapter_is_truncated_by_a_rule_that_needs_data_within_one_budget(tmp_path):
    config = replace(
        BASE, method="truncate", criterion="svd_kfac", scope="global", initial_rank=6, target_rank=3
    )
    config = replace(config, calibration_examples=16, **ENCODER)
    run(config.source, tmp_path / "source")
    result = run(config, tmp_path / "less", tmp_path / "source")
    assert result["rank"] <= 3
    assert result["train_loss"] == []
