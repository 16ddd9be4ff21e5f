"""Decoding with fixed sizes gives what transformers gives."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from experiments.finetuning.decoding import LOOK, greedy
from experiments.finetuning.models import load_model
from experiments.tasks import TASKS


def by_transformers(model, batch, new, pad):
    """What `generate` gives, with padding up to the asked number of tokens."""
    out = model.generate(**batch, max_new_tokens=new, do_sample=False, pad_token_id=pad)
    out = out[:, batch["input_ids"].shape[1] :]
    return torch.nn.functional.pad(out, (0, new - out.shape[1]), value=pad)


def padded(tokenizer, prompts):
    batch = tokenizer(prompts, return_tensors="pt", padding=True)
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}


def decoded(model, batch, new, ends, pad):
    return greedy(model, batch["input_ids"], batch["attention_mask"].bool(), new, ends, pad)


@pytest.fixture(scope="module")
def adapted():
    """A tiny model with an adapter that does something, and prompts of different lengths."""
    model, tokenizer = load_model("tiny", torch.float32)
    torch.manual_seed(0)
    settings = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = get_peft_model(model, settings).eval()
    prompts = [e.prompt for e in TASKS["gsm_symbolic"].test(3)] + ["1 + 1 =", "A", "12 + 34 ="]
    return model, padded(tokenizer, prompts)


def test_the_tokens_are_those_of_transformers_whatever_the_padding(adapted):
    model, batch = adapted
    assert (batch["attention_mask"].sum(dim=1).min() < batch["attention_mask"].shape[1]).item()
    expected = by_transformers(model, batch, 24, 2)
    assert torch.equal(decoded(model, batch, 24, [2], 2), expected)
    assert expected.unique().numel() > 6  # a model that repeats one token would hide mistakes


def test_a_text_ends_where_its_end_is_and_all_stop_when_all_have_ended(adapted, monkeypatch):
    model, batch = adapted
    free = decoded(model, batch, 40, [-1], 2)
    # Every text ends at one of its own tokens, some late.
    ends = sorted({int(row[i]) for row, i in zip(free, (0, 2, 4, 6, 8, 10), strict=True)})
    monkeypatch.setattr(model.generation_config, "eos_token_id", ends)
    expected = by_transformers(model, batch, 40, 2)
    steps = []
    handle = model.register_forward_hook(lambda *_: steps.append(1))
    assert torch.equal(decoded(model, batch, 40, ends, 2), expected)
    handle.remove()
    assert (expected == 2).any()
    assert len(steps) == LOOK + 1


def test_a_single_new_token_needs_no_step(adapted):
    model, batch = adapted
    expected = by_transformers(model, batch, 1, 2)
    assert torch.equal(decoded(model, batch, 1, [2], 2), expected)


def test_a_real_model_solves_problems_by_the_same_words():
    model, tokenizer = load_model("smollm2", torch.float32)
    batch = padded(tokenizer, [e.prompt for e in TASKS["gsm_symbolic"].test(4)])
    expected = by_transformers(model.eval(), batch, 24, tokenizer.pad_token_id)
    assert torch.equal(decoded(model, batch, 24, [2], tokenizer.pad_token_id), expected)
