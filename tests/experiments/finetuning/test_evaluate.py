"""Scores of a model against one example at a time."""

from dataclasses import replace

import pytest
import torch

from experiments.finetuning.evaluate import evaluate, generate, mean_loss, target_losses
from experiments.finetuning.models import load_base
from experiments.tasks import TASKS, Example
from tests.experiments.finetuning.runs import BASE


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
        prompt = tokenizer(example.prompt).input_ids
        target = [
            *tokenizer(example.target, add_special_tokens=False).input_ids,
            tokenizer.eos_token_id,
        ]
        logits = model(input_ids=torch.tensor([prompt + target])).logits[0].double().log_softmax(-1)
        for i, token in enumerate(target):
            total -= logits[len(prompt) + i - 1, token].item()
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
    monkeypatch.setattr(
        "experiments.finetuning.evaluate.generate",
        lambda *a: [asked.append(p) or "1" for p in a[2]],
    )
    known = TASKS["arithmetic"].test(1)
    score = evaluate(
        model, tokenizer, BASE, [replace(known[0], answer=""), replace(known[0], answer="1")]
    )
    assert len(asked) == 1
    assert score.correct == "01"


def test_a_language_model_classifies_by_the_likelier_label(tiny):
    model, tokenizer = tiny
    config, task = replace(BASE, task="tweets"), TASKS["tweets"]
    examples = task.test(6)
    score = evaluate(model, tokenizer, config, examples)
    for example, right, loss in zip(examples, score.correct, score.losses, strict=True):
        each = {
            label: target_losses(
                model, tokenizer, [Example(example.prompt, f" {label}", label)], 1
            )[0].item()
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
