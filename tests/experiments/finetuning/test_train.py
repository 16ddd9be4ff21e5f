"""Data, evaluation and one whole run, on the tiny model of the smoke preset."""

import itertools
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from experiments.finetuning.data import IGNORED, at_targets, batches, collate, encode
from experiments.finetuning.evaluate import evaluate, generate, mean_loss, target_losses
from experiments.finetuning.models import load_base, load_model
from experiments.finetuning.train import cosine_with_warmup
from experiments.finetuning.truncate import truncated
from experiments.jobs.run import run
from experiments.settings.preset import load_preset
from experiments.tasks import TASKS, Example

BASE = load_preset("smoke").run


@pytest.fixture(scope="module")
def tiny():
    model, tokenizer = load_model("tiny", torch.float32)
    return model.eval(), tokenizer


def test_prompts_and_padding_are_masked_and_the_end_token_is_taught(tiny):
    _, tokenizer = tiny
    short, long = encode(Example("1 + 1 =", " 2", "2"), tokenizer), encode(Example("10 + 11 =", " 21", "21"), tokenizer)
    batch = collate([short, long], tokenizer.pad_token_id, torch.device("cpu"))
    taught = [row[row != IGNORED].tolist() for row in batch["labels"]]
    assert [tokenizer.decode(row) for row in taught] == [" 2<|im_end|>", " 21<|im_end|>"]
    assert batch["attention_mask"].sum(dim=1).tolist() == [len(short), len(long)]


def test_the_loss_and_its_gradient_need_no_logits_of_prompts(tiny):
    model, tokenizer = tiny
    texts = ("1 + 1 =", " 2"), ("100 + 110 =", " 210"), ("7 =", " 7")
    plain = collate([encode(Example(*t, ""), tokenizer) for t in texts], tokenizer.pad_token_id, torch.device("cpu"))
    less, weights = at_targets(plain), list(model.parameters())
    assert len(less["logits_to_keep"]) < plain["labels"].shape[1] - 1
    losses = [model(**batch).loss for batch in (plain, less)]
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(*(torch.autograd.grad(loss, weights) for loss in losses[::-1]))


def test_batched_decoding_equals_one_at_a_time(tiny):
    model, tokenizer = tiny
    prompts = [e.prompt for e in TASKS["arithmetic"].test(7)]
    together = generate(model, tokenizer, prompts, 5, batch_size=7)
    assert together == [generate(model, tokenizer, [p], 5, batch_size=1)[0] for p in prompts]


def test_cross_entropy_is_the_mean_over_target_tokens_whatever_the_batch(tiny):
    model, tokenizer = tiny
    examples = TASKS["arithmetic"].test(9)
    total, count = 0.0, 0
    for example in examples:
        e = encode(example, tokenizer)
        logits = model(input_ids=torch.tensor([e.prompt + e.target])).logits[0].double().log_softmax(-1)
        for i, token in enumerate(e.target):
            total -= logits[len(e.prompt) + i - 1, token].item()
            count += 1
    for size in (1, 4, 9):
        losses, tokens = target_losses(model, tokenizer, examples, size)
        assert (losses.sum() / tokens.sum()).item() == pytest.approx(total / count, rel=1e-5)


def test_a_right_answer_counts_as_right_and_a_wrong_one_does_not(tiny, monkeypatch):
    model, tokenizer = tiny
    examples = TASKS["arithmetic"].test(2)
    texts = [examples[0].target + "\n99", " 100000"]
    monkeypatch.setattr("experiments.finetuning.evaluate.generate", lambda *_: texts)
    score = evaluate(model, tokenizer, BASE, examples)
    assert (score.correct, score.accuracy) == ("10", 0.5)
    assert score.interval[0] < 0.5 < score.interval[1]


def test_nothing_is_generated_where_no_answer_is_known(tiny, monkeypatch):
    model, tokenizer = tiny
    asked = []
    monkeypatch.setattr("experiments.finetuning.evaluate.generate", lambda *a: [asked.append(p) or "1" for p in a[2]])
    known = TASKS["arithmetic"].test(1)
    score = evaluate(model, tokenizer, BASE, [replace(known[0], answer=""), replace(known[0], answer="1")])
    assert len(asked) == 1
    assert score.correct == "01"


def test_a_language_model_classifies_by_the_likelier_label(tiny):
    model, tokenizer = tiny
    config, task = replace(BASE, task="tweets"), TASKS["tweets"]
    examples = task.test(6)
    score = evaluate(model, tokenizer, config, examples)
    for example, right, loss in zip(examples, score.correct, score.losses, strict=True):
        each = {
            label: target_losses(model, tokenizer, [Example(example.prompt, f" {label}", label)], 1)[0].item()
            for label in task.labels
        }
        assert loss == pytest.approx(each[example.answer], abs=1e-4)
        assert (right == "1") == (min(each, key=each.get) == example.answer)


@pytest.mark.parametrize("model", ["tiny", "tiny_bert"])
def test_the_loss_alone_is_that_of_the_whole_evaluation(model):
    config = replace(BASE, model=model, task="tweets")
    loaded, tokenizer = load_base(config)
    examples = TASKS["tweets"].test(9)
    whole = evaluate(loaded, tokenizer, config, examples).cross_entropy
    assert mean_loss(loaded, tokenizer, config, examples) == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("groups", [1, 3, 100])
def test_batches_hold_every_example_once_and_similar_lengths_where_asked(groups):
    lengths = torch.randint(1, 60, (50,)).tolist()
    found = list(batches(lengths, size=4, groups=groups, seed=3))
    assert sorted(i for batch in found for i in batch) == list(range(50))
    assert all(len(batch) == 4 for batch in found) or len(found) == 13
    assert found == list(batches(lengths, size=4, groups=groups, seed=3))
    padded = sum(max(lengths[i] for i in batch) * len(batch) for batch in found)
    plain = sum(max(lengths[i : i + 4]) * len(lengths[i : i + 4]) for i in range(0, 50, 4))
    assert (padded < plain) == (groups > 1)
    if groups == 3:  # no example leaves its twelve neighbours
        for i in range(0, 12, 3):
            assert set(itertools.chain(*found[i : i + 3])) == set(range(4 * i, 4 * i + 12))


def test_settings_that_came_later_leave_the_names_of_older_results_as_they_are():
    assert BASE.key == replace(BASE, length_groups=1).key != replace(BASE, length_groups=2).key


def test_an_encoder_is_trained_pruned_and_scored_by_its_head(tmp_path):
    changes = {"model": "tiny_bert", "task": "tweets", "target_modules": ("all-linear",), "learning_rate": 0.01}
    config = replace(BASE, method="prune", criterion="svd", initial_rank=8, target_rank=4, **changes)
    result = run(config, tmp_path / "adapter")
    losses = result["losses"]
    assert result["cross_entropy"] == pytest.approx(sum(losses) / len(losses), abs=1e-4)
    assert all((right == "1") == (loss < 0.6931) for right, loss in zip(result["correct"], losses, strict=True))


def test_the_learning_rate_rises_falls_and_ends_at_zero():
    factor = cosine_with_warmup(100)
    values = [factor(s) for s in range(100)]
    assert values[:3] == [pytest.approx(x / 3) for x in (1, 2, 3)]
    assert all(a >= b for a, b in itertools.pairwise(values[2:]))
    assert 0 < values[-1] < 1e-3


def test_the_same_seed_gives_the_same_result_and_pruning_takes_place(tmp_path):
    config = replace(BASE, method="prune", criterion="prunedlora2025", initial_rank=8, target_rank=4)
    one, two = (run(config, tmp_path / name) for name in ("one", "two"))
    timed = {"train_seconds", "evaluation_seconds", "peak_memory_bytes", "events"}
    assert {k: v for k, v in one.items() if k not in timed} == {k: v for k, v in two.items() if k not in timed}
    assert [e["removed"] for e in one["events"]] == [e["removed"] for e in two["events"]]
    assert [set(e["ranks"].values()) for e in one["events"]] == [{6}, {4}]
    assert one["rank"] == 4
    files = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]


def test_truncation_starts_from_the_adapter_it_is_given(tmp_path):
    config = replace(BASE, method="truncate", criterion="svd", initial_rank=8, target_rank=8)
    source = run(config.source, tmp_path / "source")
    same = run(config, tmp_path / "same", tmp_path / "source")
    less = run(replace(config, target_rank=1), tmp_path / "less", tmp_path / "source")
    assert same["cross_entropy"] == pytest.approx(source["cross_entropy"], rel=1e-6)
    assert less["rank"] == 1
    assert less["cross_entropy"] != pytest.approx(source["cross_entropy"], rel=1e-6)


def test_hub_models_need_a_revision():
    with pytest.raises(SystemExit, match="@revision"):
        load_model("someone/some-model", torch.float32)


ENCODER = {"model": "tiny_bert", "task": "tweets", "target_modules": ("query", "value"), "learning_rate": 0.01}


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
            assert (tuned[name] - before[name] - change).norm().item() == pytest.approx(best.item(), rel=1e-3)
        elif name.startswith("classifier"):
            assert torch.equal(p, tuned[name])
        else:
            assert torch.equal(p, before[name])


@pytest.mark.parametrize("method", ["dora", "adalora", "full"])
def test_the_training_loss_is_the_plain_cross_entropy_whatever_the_method_adds(tmp_path, method):
    config = replace(BASE, method=method, initial_rank=4, target_rank=4, **ENCODER)
    result = run(config, tmp_path / method)
    # at the first step every method is the base model: B (or AdaLoRA's E) is zero, and dropout alone differs
    assert result["train_loss"][0] == pytest.approx(0.693, abs=0.1)
    lora = run(replace(config, method="lora"), tmp_path / "lora")
    assert result["trainable_parameters"] > lora["trainable_parameters"]


def test_an_adapter_is_truncated_by_a_rule_that_needs_data_within_one_budget(tmp_path):
    config = replace(BASE, method="truncate", criterion="svd_kfac", scope="global", initial_rank=6, target_rank=3)
    config = replace(config, calibration_examples=16, **ENCODER)
    run(config.source, tmp_path / "source")
    result = run(config, tmp_path / "less", tmp_path / "source")
    assert result["rank"] <= 3
    assert result["train_loss"] == []
