"""From examples to padded batches, for models that continue a text and for encoders that classify one."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from experiments.finetuning.models import classifies
from experiments.finetuning.processes import Processes
from experiments.settings.jobs import RunConfig
from experiments.tasks import TASKS, Example

IGNORED = -100


@dataclass(frozen=True)
class Encoded:
    """Token ids of a prompt and of its target, the end token included."""

    prompt: list[int]
    target: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.target)


def encode(example: Example, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """Prompt and target tokenised apart, so that the prompt has the same tokens as in generation."""
    target = tokenizer(example.target, add_special_tokens=False).input_ids
    return Encoded(tokenizer(example.prompt).input_ids, [*target, tokenizer.eos_token_id])


def collate(batch: list[Encoded], pad: int, device: torch.device) -> dict[str, Tensor]:
    """A batch padded on the right; labels of prompts and padding are ignored by the loss."""
    longest = max(len(e) for e in batch)
    ids = torch.full((len(batch), longest), pad)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORED)
    for row, e in enumerate(batch):
        ids[row, : len(e)] = torch.tensor(e.prompt + e.target)
        mask[row, : len(e)] = 1
        labels[row, len(e.prompt) : len(e)] = torch.tensor(e.target)
    return {
        "input_ids": ids.to(device),
        "attention_mask": mask.to(device),
        "labels": labels.to(device),
    }


def at_targets(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """What `collate` made, for a model that is to compute no logits but those that predict a target.

    Those of a prompt, one for each word of the vocabulary and token, are work and memory for nothing.

    >>> batch = collate([Encoded([5, 6, 7], [8, 9])], 0, torch.device("cpu"))
    >>> at_targets(batch)["logits_to_keep"], at_targets(batch)["shift_labels"]
    (tensor([2, 3]), tensor([[8, 9]]))
    """
    following = batch["labels"][:, 1:]
    positions = (following != IGNORED).any(dim=0).nonzero().squeeze(dim=1)
    return {**batch, "logits_to_keep": positions, "shift_labels": following[:, positions]}


def collate_texts(
    batch: list[Example],
    labels: tuple[str, ...],
    tokenizer: PreTrainedTokenizerBase,
    longest: int,
    device: torch.device,
) -> dict[str, Tensor]:
    """A batch for an encoder: its texts padded on the right, and the index of each label."""
    texts = tokenizer(
        [e.text for e in batch],
        padding=True,
        truncation=True,
        max_length=longest,
        return_tensors="pt",
    )
    answers = torch.tensor([labels.index(e.answer) for e in batch])
    return {**texts.to(device), "labels": answers.to(device)}


def training_batches(
    config: RunConfig, tokenizer: PreTrainedTokenizerBase, processes: Processes
) -> Iterator[dict[str, Tensor]]:
    """This process's share of the batches of all steps of a run; a split that is too small is gone through again.

    Raises:
        SystemExit: no example is short enough for the configuration, or a batch has too few for all processes.
    """
    task, count = TASKS[config.task], config.steps * config.batch_size
    examples = task.train(count, config.seed)
    if classifies(config.model):
        lengths = [len(ids) for ids in tokenizer([e.text for e in examples]).input_ids]
        for batch in batches(lengths, config.batch_size, config.length_groups, config.seed):
            chosen = processes.share([examples[i] for i in batch])
            yield collate_texts(chosen, task.labels, tokenizer, config.max_length, processes.device)
        return
    short = [e for e in (encode(e, tokenizer) for e in examples) if len(e) <= config.max_length]
    if not short:
        raise SystemExit(
            f"no training example of {config.task} fits into {config.max_length} tokens"
        )
    repeated = [short[i % len(short)] for i in range(count)]
    for batch in batches(
        [len(e) for e in repeated], config.batch_size, config.length_groups, config.seed
    ):
        encoded = processes.share([repeated[i] for i in batch])
        yield at_targets(collate(encoded, tokenizer.pad_token_id, processes.device))


def batches(lengths: list[int], size: int, groups: int, seed: int) -> Iterator[list[int]]:
    """Indices of the examples of each batch: in their order, or of similar lengths.

    Args:
        lengths: of all examples.
        size: of a batch.
        groups: so many batches in a row are made from their examples sorted by length, and then shuffled.
        seed: of shuffling.

    >>> list(batches([5, 1, 6, 2], size=2, groups=1, seed=0))
    [[0, 1], [2, 3]]
    >>> sorted(batches([5, 1, 6, 2], size=2, groups=2, seed=0))
    [[0, 2], [1, 3]]
    """
    order = random.Random(seed)
    for start in range(0, len(lengths), size * groups):
        group = list(range(start, min(start + size * groups, len(lengths))))
        if groups > 1:
            group.sort(key=lambda i: lengths[i])
        found = [sorted(group[i : i + size]) for i in range(0, len(group), size)]
        if groups > 1:
            order.shuffle(found)
        yield from found
