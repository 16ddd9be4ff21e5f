"""Table 8 on a tiny model: what is pruned, what is left alone, and what the text says."""

import math
from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import nn

from experiments.finetuning.models import load_model
from experiments.jobs import pretrained as table8
from experiments.jobs.pretrained import METHODS, measure, sequence_losses
from experiments.pretrained.corpus import Corpus, load_corpus, sequences
from experiments.pretrained.layerwise import collecting, gradient_moments, linear_layers, prune_layers, second_moment
from experiments.pretrained.pruning import Pattern
from experiments.running import dry_run
from experiments.settings.preset import load_preset
from experiments.tables import table8 as table8_table

TABLE = load_preset("smoke").table8
CONFIG = replace(TABLE.run, patterns=("50%", "2:4"))
METHOD_NAMES = [name for name in METHODS if name != "dense"]


@pytest.fixture(autouse=True)
def _short_text(monkeypatch):
    """Few documents: splitting all of them into tokens takes seconds."""
    corpus = load_corpus("sotu")
    short = replace(corpus, calibration=corpus.calibration[:5], test=corpus.test[:3])
    monkeypatch.setattr(table8, "load_corpus", lambda _: short)


@pytest.fixture(scope="module")
def tiny():
    model, tokenizer = load_model("tiny", torch.float32)
    batches = list(sequences(tokenizer, load_corpus("sotu").calibration[:5], 16, 6, 0).split(2))
    return model.eval(), batches


@pytest.fixture
def model(tiny):
    state = {name: p.detach().clone() for name, p in tiny[0].named_parameters()}
    yield tiny[0]
    tiny[0].load_state_dict(state, strict=False)


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


@pytest.mark.parametrize("method", METHOD_NAMES)
@pytest.mark.parametrize("pattern", ["50%", "2:4"])
def test_only_linear_layers_change_each_by_what_was_asked(model, tiny, method, pattern):
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    METHODS[method](model, tiny[1], CONFIG)(model, Pattern.parse(pattern))
    pruned = {id(linear.weight) for linear in linear_layers(model)}
    assert len(pruned) == 14
    for name, p in model.named_parameters():
        if id(p) in pruned:
            assert (p == 0).sum() == p.numel() // 2
            if pattern == "2:4":
                assert ((p == 0).view(len(p), -1, 4).sum(-1) == 2).all()
            assert method == "sparsegpt" or torch.equal(p[p != 0], before[name][p != 0])
        else:
            assert torch.equal(p, before[name])
        assert p.grad is None
        assert p.requires_grad
    assert hooks(model) == 0


def test_layers_are_pruned_from_what_the_pruned_ones_before_them_put_out(model, tiny):
    seen = []

    def prune(W, H):
        seen.append(H)
        return torch.zeros_like(W) if len(seen) <= 7 else W

    prune_layers(model, tiny[1], second_moment, prune)
    with collecting(linear_layers(model), second_moment) as sums, torch.no_grad():
        for batch in tiny[1]:
            model(input_ids=batch)
    assert len(seen) == 14
    for linear, H in list(zip(linear_layers(model), seen, strict=True))[7:]:
        torch.testing.assert_close(sums[linear], H)


def test_hooks_are_removed_where_something_fails(model, tiny):
    def fail(W, H):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        prune_layers(model, tiny[1], second_moment, fail)
    with pytest.raises(RuntimeError, match="no"), collecting(linear_layers(model), lambda x: fail(x, x)):
        model(input_ids=tiny[1][0])
    assert hooks(model) == 0


def test_gradient_moments_are_sums_of_products_of_gradients(model, tiny):
    linear = linear_layers(model)[3]
    expected = 0
    for batch in tiny[1]:
        model.zero_grad()
        model(input_ids=batch, labels=batch).loss.backward()
        expected = expected + linear.weight.grad.T @ linear.weight.grad
    model.zero_grad()
    torch.testing.assert_close(gradient_moments(model, tiny[1])[linear], expected)


def test_losses_are_those_of_the_model_and_do_not_depend_on_batches(model, tiny):
    together = sequence_losses(model, [torch.cat(tiny[1])])
    torch.testing.assert_close(sequence_losses(model, tiny[1]), together)
    with torch.no_grad():
        assert model(input_ids=tiny[1][0], labels=tiny[1][0]).loss.item() == pytest.approx(together[:2].mean().item())


@pytest.mark.parametrize("method", ["dense", "random", "sparsegpt"])
def test_a_run_is_the_same_each_time(method):
    config = replace(CONFIG, method=method)
    first, again = measure(config), measure(config)
    assert first["rows"] == again["rows"]
    assert [row["pattern"] for row in first["rows"]] == (["dense"] if method == "dense" else ["50%", "2:4"])
    assert all(row["removed"] == (0 if method == "dense" else 0.5) for row in first["rows"])
    assert all(len(row["losses"]) == config.test_sequences for row in first["rows"])


def test_the_seed_draws_other_calibration_sequences_and_the_test_text_stays():
    first, other = (measure(replace(CONFIG, method="random", seed=seed)) for seed in (0, 1))
    assert first["sha256"] == other["sha256"]
    assert first["rows"] != other["rows"]


def test_splits_of_the_text_are_disjoint_prose():
    corpus = load_corpus("sotu")
    assert not set(corpus.calibration) & set(corpus.test)
    assert len(corpus.calibration) > 100
    assert len(corpus.test) > 30
    assert all(len(text.split()) > 500 for text in corpus.calibration + corpus.test)
    assert Corpus("", corpus.calibration, corpus.test[1:]).hashes["calibration"] == corpus.hashes["calibration"]
    assert Corpus("", corpus.calibration, corpus.test[1:]).hashes["test"] != corpus.hashes["test"]


def test_a_text_that_is_unknown_or_too_short_is_refused():
    with pytest.raises(ValueError, match="there are: sotu"):
        load_corpus("wikipedia")
    tokenizer = load_model("tiny", torch.float32)[1]
    with pytest.raises(ValueError, match="has 1 sequences of 2 tokens, not 3"):
        sequences(tokenizer, ("one two three", "one"), 2, 3, 0)


def result(level: float, *patterns: str) -> dict:
    losses = [level + 0.1 * math.sin(i) for i in range(40)]
    rows = [{"pattern": p, "perplexity": math.exp(level), "losses": losses} for p in patterns]
    return {"text": "t", "layers": 14, "tokens": 9, "sha256": {"calibration": "c", "test": "d"}, "rows": rows}


@pytest.mark.parametrize(
    ("gradient", "says", "verdict"),
    [
        (2.0, "Gradient is lower than that of Wanda", "in 2 of 2 patterns (50%, 2:4)"),
        (4.0, "Gradient is higher than that of Wanda", "in 0 of 2 patterns."),
    ],
)
def test_the_table_and_its_text_follow_the_numbers(tmp_path, gradient, says, verdict):
    settings = replace(TABLE, run=CONFIG)
    levels = {"magnitude": 5.0, "wanda": 3.0, "sparsegpt": 2.5, "gradient": gradient}
    rows = {method: [result(level, "50%", "2:4")] for method, level in levels.items()}
    markdown, csv = table8_table.write("smoke", settings, result(1.0, "dense"), rows, tmp_path)
    text = markdown.read_text()
    assert f"50%: the perplexity of {says}" in text
    assert verdict in text
    assert "| 42.13 " in text
    frame = pd.read_csv(csv).set_index(["method", "pattern"])
    assert frame.loc["wanda", "2:4"].perplexity == pytest.approx(math.exp(3.0), rel=0.05)
    assert frame.loc["wanda", "2:4"].low < frame.loc["wanda", "2:4"].perplexity < frame.loc["wanda", "2:4"].high
    assert frame.loc["wanda", "2:4"].paper_llama_7b == 11.53


def test_what_differs_between_seeds_is_told(tmp_path):
    settings = replace(TABLE, run=replace(CONFIG, patterns=("50%",)), seeds=(0, 1, 2))
    assert {len(runs) for runs in settings.rows.values()} == {3}
    levels = {"magnitude": (3.0, 3.0, 3.0), "wanda": (1.0, 2.0, 3.0), "gradient": (2.9, 2.9, 3.05)}
    rows = {method: [result(level, "50%") for level in found] for method, found in levels.items()}
    markdown, csv = table8_table.write("smoke", settings, result(1.0, "dense"), rows, tmp_path)
    frame = pd.read_csv(csv).set_index("method")
    assert frame.seeds.to_dict() == {"dense": 1, "magnitude": 3, "wanda": 3, "gradient": 3}
    assert frame.spread.wanda == pytest.approx(pd.Series([1.0, 2.0, 3.0]).map(math.exp).std(), rel=0.05)
    assert frame.spread.isna().tolist() == [True, False, False, False]
    assert frame.spread.magnitude == 0
    text = markdown.read_text()
    assert (
        "Gradient is not distinguishable from that of Magnitude: 0.951 times, paired 95 % interval 0.951 to 0.951; "
        "2 of 3 seeds." in text
    )
    assert "Gradient is higher than that of Wanda" in text
    assert f"± {frame.spread.wanda:.3g}" in text


@pytest.mark.parametrize("level", [math.nan, math.inf, math.log(TABLE.max_perplexity) + 1])
def test_a_dense_model_that_is_no_language_model_stops_everything(level):
    with pytest.raises(SystemExit, match="max_perplexity"):
        table8_table.gate(TABLE, {"rows": [{"perplexity": math.exp(level)}]})
    table8_table.gate(TABLE, result(1.0, "dense"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("obd",)}, "unknown method obd"),
        ({"run": replace(CONFIG, text="Salesforce/wikitext@main")}, "full commit"),
        ({"run": replace(CONFIG, patterns=("half",))}, "a pattern is"),
    ],
)
def test_an_unsound_preset_is_refused(changes, message):
    preset = load_preset("smoke")
    with pytest.raises(ValueError, match=message):
        dry_run.check(replace(preset, table8=replace(TABLE, **changes)))
