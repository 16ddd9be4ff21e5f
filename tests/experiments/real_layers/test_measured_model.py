"""Measurements on real layers, tried on tiny random models whose adapters are random too."""

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from experiments.finetuning.models import load_base
from experiments.jobs.one_shot import without
from experiments.real_layers import attention, curvature, noise, prediction
from experiments.real_layers.edits import changed, core_change, predictions, quadratic_predictions
from experiments.real_layers.measured_model import measure
from experiments.real_layers.settings import BERT, BERT_HEADS, LLAMA, LLAMA_HEADS, Settings
from experiments.settings.jobs import RunConfig
from prunedlora import find_lora_modules
from prunedlora.criteria import get_criterion
from prunedlora.factors import Factors
from theory.report import real_summary as summary
from theory.statements.attention import head_output

SETTINGS = {
    "tiny": Settings(
        run=RunConfig(model="tiny", task="arithmetic", batch_size=4),
        depths=(0, 1),
        kinds=LLAMA,
        heads=LLAMA_HEADS,
        calibration=8,
        ranks=(2,),
        joint_ranks=(2,),
        sentences=2,
        removals=1,
        draws=1,
    ),
    "tiny_bert": Settings(
        run=RunConfig(model="tiny_bert", task="movie_reviews", batch_size=4, max_length=32),
        depths=(0, 1),
        kinds=BERT,
        heads=BERT_HEADS,
        calibration=8,
        ranks=(2,),
        joint_ranks=(2,),
        sentences=2,
        removals=1,
        draws=1,
    ),
}


@pytest.fixture(scope="module", params=list(SETTINGS))
def subject(request):
    settings = SETTINGS[request.param]
    base, tokenizer = load_base(settings.run)
    torch.manual_seed(0)
    kind = "SEQ_CLS" if request.param == "tiny_bert" else "CAUSAL_LM"
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type=kind))
    for module in find_lora_modules(model):
        torch.nn.init.normal_(module.B, std=0.1)
    return measure(settings, model, tokenizer)


def test_statistics_from_dense_moments_are_those_that_the_library_collects(subject):
    for place, candidate in subject.layers:
        found = subject.moments[place].statistics(candidate.factors)
        for name in ("C_z", "gradient_B", "gradient_A", "gram_B", "gram_A"):
            expected = getattr(candidate.statistics, name).to(getattr(found, name))
            torch.testing.assert_close(getattr(found, name), expected, rtol=1e-3, atol=1e-7, msg=f"{place} {name}")
        torch.testing.assert_close(found.U, candidate.statistics.U, rtol=1e-3, atol=1e-9)


def test_a_pass_from_a_later_block_gives_the_loss_of_a_whole_pass(subject):
    candidate = next(c for p, c in subject.layers if p.depth == 1)
    B = candidate.factors.B
    with changed(candidate, Factors(2 * B, candidate.factors.A)):
        whole, part = subject.scorer.increase(0), subject.scorer.increase(1)
    assert whole == pytest.approx(part, abs=1e-12)
    assert whole["test"] != 0
    assert subject.scorer.increase(0) == {"calibration": 0.0, "test": 0.0}
    assert torch.equal(candidate.module.B, B)


def test_the_core_fisher_prediction_is_half_the_mean_square_of_what_samples_see(subject):
    _, candidate = subject.layers[0]
    new = get_criterion("svd_kfac").reduce(candidate.factors, candidate.statistics, 2).factors
    found = quadratic_predictions(candidate.factors, candidate.statistics, new)
    X = core_change(candidate.factors, new)
    old = candidate.factors
    torch.testing.assert_close(
        old.B.double() @ (torch.eye(4) + X) @ old.A.double(), new.B.double() @ new.A.double(), rtol=1e-4, atol=1e-6
    )
    costs = get_criterion("svd_kfac").reduce(old, candidate.statistics, 2, damping=0.0)
    undamped = quadratic_predictions(old, candidate.statistics, costs.factors)
    assert undamped["kronecker"] == pytest.approx(costs.cost.sum().item(), rel=1e-3)
    assert undamped["kronecker"] <= found["kronecker"] * (1 + 1e-6)
    assert found["second_order"] == pytest.approx(found["first_order"] + found["core_fisher"])


def test_first_order_prediction_is_the_derivative_of_the_measured_loss(subject):
    place, candidate = subject.layers[0]
    new = without(candidate, torch.tensor([1]), recover=False)
    found = prediction.removal(subject, place.depth, candidate, torch.tensor([1]), recover=False, taylor=True)
    predicted = predictions(candidate, new, torch.tensor([1]))["first_order"]
    measured = found["taylor"]["calibration"]["first_order"]
    assert measured == pytest.approx(predicted, rel=0.05, abs=3e-6)


class Parabola:
    """A scorer whose loss is exactly quadratic in one layer's B."""

    def __init__(self, candidate):
        self.candidate = candidate
        generator = torch.Generator().manual_seed(3)
        self.slope = torch.randn(candidate.factors.B.shape, generator=generator).double()

    def increase(self, depth):
        delta = (self.candidate.module.B - self.candidate.factors.B).detach().double()
        value = (self.slope * delta).sum() + 0.5 * delta.square().sum()
        return {"calibration": (value + 0.5 * delta.sum() ** 2).item()}


def test_the_taylor_model_of_an_exactly_quadratic_loss_leaves_no_remainder(subject):
    place, candidate = subject.layers[0]
    fake = replace(subject, scorer=Parabola(candidate))
    found = prediction.removal(fake, place.depth, candidate, torch.tensor([0, 2]), recover=True, taylor=True)
    assert found["taylor"]["calibration"]["second_order"] == pytest.approx(found["true"]["calibration"], rel=1e-3)
    assert found["taylor"]["calibration"]["first_order"] != pytest.approx(found["true"]["calibration"], rel=1e-3)


def test_the_even_part_of_an_exactly_quadratic_loss_is_its_quadratic_part(subject):
    place, candidate = subject.layers[0]
    scorer = Parabola(candidate)
    new = without(candidate, torch.tensor([0, 2]), recover=True)
    found = prediction.removal(
        replace(subject, scorer=scorer), place.depth, candidate, torch.tensor([0, 2]), recover=True, taylor=False
    )
    # without recovery of A the reflected factors are 2 B - B' with the old A
    delta = (new.B - candidate.factors.B).double()
    quadratic = 0.5 * (delta.square().sum() + delta.sum() ** 2).item()
    assert found["even"]["calibration"] == pytest.approx(quadratic, rel=1e-3)
    assert found["true"]["calibration"] != pytest.approx(quadratic, rel=1e-3)


def test_correlations_of_the_summary_are_those_of_the_rows():
    def row(layer, predicted, true):
        values = {"depth": layer, "kind": "q", "count": 1, "recover": False}
        both = {name: {"calibration": true, "test": -true} for name in ("true", "even")}
        return {**values, "predicted": {"score": predicted, "constant": 1.0}, **both}

    rows = [row(i // 2, float(i), float(i) ** 3) for i in range(8)]
    found = {r["prediction"]: r for r in summary.removals(rows)["correlations"]}
    assert found["score"]["true_calibration"] == pytest.approx(1)
    assert found["score"]["even_test"] == pytest.approx(-1)
    assert found["constant"]["true_test"] == 0
    assert found["score"]["true_calibration_interval"][0] <= 1


def test_no_noise_never_changes_a_choice_and_costs_nothing(subject, monkeypatch):
    monkeypatch.setattr(noise, "SIZES", (0.0, 10.0))
    rows = noise.choices_under_noise(subject)
    still = [row for row in rows if row["noise"] == "0"]
    assert still
    assert all(row["changed"] == 0 and row["predicted_cost"] == 0 for row in still)
    assert any(row["changed"] > 0 for row in rows if row["noise"] == "10")


def test_relative_noise_changes_choices_alike_at_every_magnitude(subject):
    rows = noise.magnitudes_under_noise(subject)
    for row in rows:
        same = [r for r in rows if all(r[k] == row[k] for k in ("depth", "kind", "rule"))]
        assert len({r["relative"] for r in same}) == 1


def test_both_rules_of_a_pair_are_measured_on_the_same_examples(subject):
    rows = curvature.prices(subject)
    assert len(rows) == len(subject.layers) * len(curvature.PAIRS)
    for row in rows:
        assert row["test_difference"] == pytest.approx(row["activation"]["test"] - row["loss"]["test"], abs=1e-12)
        if row["pair"].startswith("svd"):  # the optimum of that model, up to damping
            assert row["loss"]["kronecker"] <= row["activation"]["kronecker"] * 1.05


def test_kappa_is_the_same_from_dense_matrices_and_from_the_core(subject):
    for row in curvature.spectra(subject):
        if row["kappa"] < 1e8:
            assert row["kappa_from_core"] == pytest.approx(row["kappa"], rel=1e-3)
        assert 1 - 1e-9 <= row["S7_price_of_one"] <= row["S7_bound"] * (1 + 1e-9)
        assert not row["S10_violated"]


def test_recorded_heads_give_the_models_own_attention_output(subject):
    batch = attention.sentences(subject)
    with attention.recorded(subject.model.get_base_model()):
        Q, K, V, mask = attention.heads_of(subject.model, batch, (0,))[0]
    kind = "self_attn.o_proj" if subject.settings.run.model == "tiny" else "attention.output.dense"
    layer = next(c.module.layer for p, c in subject.candidates.items() if p.depth == 0 and p.kind == kind)
    seen = []
    handle = layer.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    with torch.no_grad():
        subject.model(**batch)
    handle.remove()
    allowed = None if mask is None else (mask >= 0).expand(*Q.shape[:2], *mask.shape[-2:])
    Z = head_output(Q, K, V, allowed).transpose(1, 2).flatten(2)
    torch.testing.assert_close(Z, seen[0].double(), rtol=1e-4, atol=1e-6)


def test_the_corrected_bound_holds_on_every_head(subject):
    for row in attention.bounds(subject):
        assert row["corrected_violated"] == 0
        assert 0 < row["error_over_corrected_max"] <= 1
