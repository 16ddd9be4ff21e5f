"""Accuracy and cross-entropy, computed the same way for every row of every table.

Free answers are generated; the label of a classification task is the most likely one, by an encoder's head or by the
likelihood that a language model gives each label as the continuation.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from scipy.stats import binomtest
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from experiments.finetuning.data import at_targets, collate, collate_texts, encode
from experiments.finetuning.decoding import greedy
from experiments.finetuning.lm_eval import right_answers
from experiments.finetuning.matching import unexplained
from experiments.finetuning.models import classifies, matches
from experiments.finetuning.precision import forward, products
from experiments.settings.jobs import RunConfig
from experiments.tasks import TASKS, Example
from experiments.tasks.base import Harness, Task
from prunedlora.statistics.targets import IGNORED

#: Examples whose losses are computed together, at most: logits of whole targets take more memory than decoding does.
MOST_SCORED = 100


@dataclass(frozen=True)
class Score:
    """Score of a model on a split.

    Attributes:
        accuracy: share of examples whose answer is right.
        interval: its 95 % Wilson interval over the examples.
        cross_entropy: mean over all target tokens (over all examples for an encoder), in nats; the end token counts.
        correct: one character per example, 1 for right, for paired comparisons between rows.
        losses: negative log-likelihood of each example's target, in nats, likewise.
    """

    accuracy: float
    interval: tuple[float, float]
    cross_entropy: float
    correct: str
    losses: list[float]


@dataclass(frozen=True)
class Distance:
    """How far a model is from the teacher of a planted task, on a split.

    Attributes:
        unexplained: mean squared distance, relative to that of the untuned model.
        losses: the same of each example, whose mean it is.
    """

    unexplained: float
    losses: list[float]


@torch.no_grad()
def evaluate(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    config: RunConfig,
    examples: list[Example],
    harness: Harness | None = None,
) -> Score | Distance:
    """Score a model on examples of the configuration's task; restores its training mode.

    Args:
        model: a language model, or an encoder with a head.
        tokenizer: of the model.
        config: names the task, and says how much is decoded together.
        examples: of the task.
        harness: lets lm-eval decode and judge the answers; the cross-entropy is always computed here.
    """
    task = TASKS[config.task]
    size = config.eval_batch_size
    with _scoring(model, config):
        texts: list[str] = []
        if matches(config):
            shares = unexplained(model, tokenizer, config, examples)
            return Distance(float(shares.mean()), [round(x, 6) for x in shares.tolist()])
        if classifies(config.model):
            logits = class_logits(model, tokenizer, config, examples)
            losses = label_losses(logits, task.labels, examples)
            tokens = torch.ones_like(losses)
            texts = [task.labels[i] for i in logits.argmax(dim=-1)]
        elif task.labels:
            losses, tokens, texts = _by_likelihood(model, tokenizer, examples, task.labels, size)
        else:
            losses, tokens = target_losses(model, tokenizer, examples, size)
            if harness is None:
                texts = answers(model, tokenizer, task, examples, size)
        if harness is None:
            right = [_is_right(task, text, e) for text, e in zip(texts, examples, strict=True)]
        else:
            right = right_answers(model, tokenizer, harness, examples, size)
    interval = binomtest(sum(right), len(right)).proportion_ci(method="wilson")
    return Score(
        accuracy=sum(right) / len(right),
        interval=(float(interval.low), float(interval.high)),
        cross_entropy=float(losses.sum() / tokens.sum()),
        correct="".join("1" if r else "0" for r in right),
        losses=[round(loss, 5) for loss in losses.tolist()],
    )


@torch.no_grad()
def mean_loss(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    config: RunConfig,
    examples: list[Example],
) -> float:
    """The loss that `evaluate` gives, without any answers; restores the model's training mode."""
    with _scoring(model, config):
        if matches(config):
            return float(unexplained(model, tokenizer, config, examples).mean())
        if classifies(config.model):
            logits = class_logits(model, tokenizer, config, examples)
            return float(label_losses(logits, TASKS[config.task].labels, examples).mean())
        losses, tokens = target_losses(model, tokenizer, examples, config.eval_batch_size)
        return float(losses.sum() / tokens.sum())


@contextmanager
def _scoring(model: torch.nn.Module, config: RunConfig) -> Iterator[None]:
    """Without dropout, and in the precision of the run."""
    training = model.training
    device = next(model.parameters()).device
    model.eval()
    try:
        with products(config.precision), forward(config.precision, device):
            yield
    finally:
        model.train(training)


def answers(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    examples: list[Example],
    batch_size: int,
) -> list[str]:
    """What is read off the texts that a language model generates.

    Nothing is generated for examples without an answer: nobody could say whether it is right.
    """
    prompts = [e.prompt for e in examples if e.answer]
    texts = iter(generate(model, tokenizer, prompts, task.max_new_tokens, batch_size))
    return [task.read_answer(next(texts)) if e.answer else "" for e in examples]


@torch.no_grad()
def generate(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    max_new_tokens: int,
    batch_size: int,
) -> list[str]:
    """Greedy continuations, decoded in batches with a key-value cache, longest prompts first.

    On a GPU by `experiments.finetuning.decoding`; on a CPU, where transformers itself is as fast, by that.
    """
    device = next(model.parameters()).device
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    texts = [""] * len(prompts)
    for start in tqdm(range(0, len(order), batch_size), desc="decode", leave=False):
        chosen = order[start : start + batch_size]
        batch = tokenizer([prompts[i] for i in chosen], return_tensors="pt", padding=True)
        ids, there = batch.input_ids.to(device), batch.attention_mask.to(device)
        if device.type == "cuda":
            ends = _ends(model)
            new = greedy(model, ids, there.bool(), max_new_tokens, ends, tokenizer.pad_token_id)
        else:
            out = model.generate(  # type: ignore[operator]  # nn.Module does not have it
                input_ids=ids,
                attention_mask=there,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                use_cache=True,
                pad_token_id=tokenizer.pad_token_id,
            )
            new = out[:, ids.shape[1] :]
        decoded = tokenizer.batch_decode(new, skip_special_tokens=True)
        for i, text in zip(chosen, decoded, strict=True):
            texts[i] = text
    return texts


def _ends(model: torch.nn.Module) -> list[int]:
    """Tokens with which a model ends its texts."""
    ends = model.generation_config.eos_token_id  # type: ignore[union-attr]  # nn.Module does not have it
    return [ends] if isinstance(ends, int) else list(ends)  # type: ignore[arg-type]


@torch.no_grad()
def target_losses(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    examples: list[Example],
    batch_size: int,
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Negative log-likelihood of each target given its prompt, in nats, and its number of tokens; float64 on the CPU.

    Logits are taken as float32 before anything is summed.
    """
    device = next(model.parameters()).device
    encoded = [encode(e, tokenizer) for e in examples]
    # Examples of similar length together, so that little is padded.
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].ids))
    losses = torch.zeros(len(encoded)).double()
    tokens = torch.zeros(len(encoded)).double()
    size = min(batch_size, MOST_SCORED)
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        batch = at_targets(collate([encoded[i] for i in chosen], tokenizer.pad_token_id, device))
        labels = batch.pop("shift_labels")
        del batch["labels"]
        logits = model(**batch).logits
        kept = labels != IGNORED
        each = torch.zeros(labels.shape, device=device)
        each[kept] = torch.nn.functional.cross_entropy(
            logits[kept].float(), labels[kept], reduction="none"
        )
        losses[chosen] = each.double().sum(dim=1).cpu()
        tokens[chosen] = kept.double().sum(dim=1).cpu()
    return losses, tokens


@torch.no_grad()
def class_logits(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    config: RunConfig,
    examples: list[Example],
) -> Float[Tensor, "n classes"]:
    """What an encoder's head says of each example, float64 on the CPU."""
    device = next(model.parameters()).device
    labels = TASKS[config.task].labels
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].text))
    logits = torch.zeros(len(examples), len(labels)).double()
    for start in range(0, len(order), config.eval_batch_size):
        chosen = order[start : start + config.eval_batch_size]
        texts = [examples[i] for i in chosen]
        batch = collate_texts(texts, labels, tokenizer, config.max_length, device)
        logits[chosen] = model(**batch).logits.double().cpu()
    return logits


def label_losses(
    logits: Float[Tensor, "n classes"], labels: tuple[str, ...], examples: list[Example]
) -> Float[Tensor, " n"]:
    """Negative log-likelihood of each example's label, in nats."""
    answers = torch.tensor([labels.index(e.answer) for e in examples])
    return torch.nn.functional.cross_entropy(logits, answers, reduction="none")


def _by_likelihood(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    examples: list[Example],
    labels: tuple[str, ...],
    batch_size: int,
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"], list[str]]:
    """Loss and tokens of the right label, and the label that is the likeliest continuation, end token included."""
    as_if = [replace(e, target=f" {label}", answer=label) for label in labels for e in examples]
    losses, tokens = (
        x.view(len(labels), -1) for x in target_losses(model, tokenizer, as_if, batch_size)
    )
    own = torch.tensor([[labels.index(e.answer) for e in examples]])
    likeliest = [labels[i] for i in losses.argmin(dim=0)]
    return losses.gather(0, own).squeeze(0), tokens.gather(0, own).squeeze(0), likeliest


def _is_right(task: Task, text: str, example: Example) -> bool:
    """Whether what was read off an answer is right; never of an example whose answer is not known."""
    if not example.answer:
        return False
    if task.judge is not None:
        return task.judge(text, example)
    try:
        return float(text) == float(example.answer.replace(",", ""))
    except ValueError:
        return text.strip() == example.answer.strip()
