"""One-shot pruning on a tiny encoder: what each variant does to the factors."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import PeftModel

from experiments.finetuning.calibration import calibrate
from experiments.finetuning.models import load_base
from experiments.jobs import one_shot
from experiments.jobs.one_shot import Variant, reduced, variants
from experiments.jobs.run import run
from experiments.settings.preset import load_preset, one_shot_runs
from experiments.tasks import TASKS
from prunedlora.criteria import available_criteria

PRESET = load_preset("smoke")
RUN = replace(one_shot_runs(PRESET, "tiny_bert")[0], steps=6, learning_rate=0.02, test_examples=32)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_shot") / "adapter"
    run(RUN, folder)
    return folder


@pytest.fixture(scope="module")
def candidates(adapter):
    base, tokenizer = load_base(RUN)
    model = PeftModel.from_pretrained(base, adapter, is_trainable=True)
    before = {name: p.clone() for name, p in model.named_parameters()}
    found = calibrate(model, tokenizer, RUN, TASKS[RUN.task].train(24, 0), seed=0)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())
    return found


def test_every_registered_criterion_has_a_variant():
    assert {v.criterion for v in variants()} == set(available_criteria()) - set(one_shot.NOT_HERE)
    assert len(set(variants())) == len(list(variants()))


def test_masking_keeps_the_rest_and_recovery_changes_only_B(candidates):
    for candidate, masked in reduced(candidates, Variant("wanda2024", "none"), 3):
        alive = masked.A.any(dim=1)
        assert alive.sum() == 3
        assert torch.equal(masked.A[alive], candidate.factors.A[alive])
        assert torch.equal(masked.B[:, alive], candidate.factors.B[:, alive])
        assert not masked.B[:, ~alive].any()


def test_recovery_lowers_the_output_error_that_it_minimises(candidates):
    def error(candidate, factors):
        change = (candidate.factors.B - factors.B).double()
        return (change @ candidate.statistics.C_z * change).sum().item()

    pairs = [reduced(candidates, Variant("magnitude", kind), 3) for kind in ("none", "C_z")]
    for (candidate, masked), (_, recovered) in zip(*pairs, strict=True):
        assert error(candidate, recovered) <= error(candidate, masked) * (1 + 1e-5)


def test_sparsegpt_has_the_recovery_that_the_others_are_given(candidates):
    for candidate, factors in reduced(candidates, Variant("sparsegpt2023", "own"), 2):
        gone = ~factors.A.any(dim=1)
        assert gone.sum() == candidate.factors.A.shape[0] - 2
    own = {c.module.name: f.B for c, f in reduced(candidates, Variant("sparsegpt2023", "own"), 2)}
    given = {c.module.name: f.B for c, f in reduced(candidates, Variant("sparsegpt2023", "C_z"), 2)}
    for name in own:
        torch.testing.assert_close(own[name], given[name], rtol=1e-4, atol=1e-6)


def test_all_variants_are_measured_and_nothing_pruned_loses_nothing(adapter, monkeypatch):
    config = replace(
        PRESET.one_shot["tiny_bert"], ranks=(2,), truncation_ranks=(8, 2), calibration_examples=16
    )
    monkeypatch.setattr(
        one_shot, "variants", lambda: [Variant("svd", "own"), Variant("magnitude", "none")]
    )
    result = one_shot.measure(config, RUN, adapter)
    by = {(row["criterion"], row["rank"]): row for row in result["rows"]}
    assert set(by) == {("svd", 8), ("svd", 2), ("magnitude", 2)}
    assert by["svd", 8]["test_increase"] == pytest.approx(0, abs=1e-6)
    assert by["magnitude", 2]["test_increase"] != pytest.approx(0, abs=1e-6)
    assert by["svd", 2]["test_increase"] == pytest.approx(
        np.mean(by["svd", 2]["test_increases"]), abs=1e-5
    )
