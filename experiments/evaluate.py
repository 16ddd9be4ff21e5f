"""Accuracy and cross-entropy, computed the same way for every row of every table."""

from dataclasses import dataclass

import torch
from scipy.stats import binomtest
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from experiments.data import IGNORED, collate, encode
from experiments.tasks import Example, Task


@dataclass(frozen=True)
class Score:
    """Score of a model on the test split.

    Attributes:
        accuracy: share of examples whose answer is right.
        interval: its 95 % Wilson interval over the examples.
        cross_entropy: mean over all target tokens, in nats; the end token counts.
        correct: one character per example, 1 for right, for paired comparisons between rows.
    """

    accuracy: float
    interval: tuple[float, float]
    cross_entropy: float
    correct: str


@torch.no_grad()
def evaluate(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, task: Task, examples: list[Example], batch_size: int
) -> Score:
    """Score a model on `examples`; restores its training mode."""
    training = model.training
    model.eval()
    try:
        texts = generate(model, tokenizer, [e.prompt for e in examples], task.max_new_tokens, batch_size)
        loss = cross_entropy(model, tokenizer, examples, batch_size)
    finally:
        model.train(training)
    right = [_same(task.read_answer(text), e.answer) for text, e in zip(texts, examples, strict=True)]
    interval = binomtest(sum(right), len(right)).proportion_ci(method="wilson")
    correct = "".join("1" if r else "0" for r in right)
    return Score(sum(right) / len(right), (float(interval.low), float(interval.high)), loss, correct)


@torch.no_grad()
def generate(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    max_new_tokens: int,
    batch_size: int,
) -> list[str]:
    """Greedy continuations, decoded in batches with a key-value cache, longest prompts first."""
    device = next(model.parameters()).device
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    texts = [""] * len(prompts)
    for start in tqdm(range(0, len(order), batch_size), desc="decode", leave=False):
        chosen = order[start : start + batch_size]
        batch = tokenizer([prompts[i] for i in chosen], return_tensors="pt", padding=True).to(device)
        out = model.generate(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            use_cache=True,
            pad_token_id=tokenizer.pad_token_id,
        )
        new = tokenizer.batch_decode(out[:, batch.input_ids.shape[1] :], skip_special_tokens=True)
        for i, text in zip(chosen, new, strict=True):
            texts[i] = text
    return texts


@torch.no_grad()
def cross_entropy(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, examples: list[Example], batch_size: int
) -> float:
    """Mean negative log-likelihood of the target tokens given the prompts, in nats, from float32 logits."""
    device = next(model.parameters()).device
    encoded = sorted((encode(e, tokenizer) for e in examples), key=len)
    total, count = 0.0, 0
    for start in range(0, len(encoded), batch_size):
        batch = collate(encoded[start : start + batch_size], tokenizer.pad_token_id, device)
        labels = batch.pop("labels")[:, 1:]
        logits = model(**batch).logits[:, :-1].float()
        kept = labels != IGNORED
        total += torch.nn.functional.cross_entropy(logits[kept], labels[kept], reduction="sum").item()
        count += int(kept.sum())
    return total / count


def _same(found: str, answer: str) -> bool:
    try:
        return float(found) == float(answer.replace(",", ""))
    except ValueError:
        return found.strip() == answer.strip()
