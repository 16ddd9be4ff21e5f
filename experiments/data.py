"""From examples to padded batches, for models that continue a text and for encoders that classify one."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from experiments.config import RunConfig
from experiments.models import classifies
from experiments.processes import Processes
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
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device), "labels": labels.to(device)}


def collate_texts(
    batch: list[Example],
    labels: tuple[str, ...],
    tokenizer: PreTrainedTokenizerBase,
    longest: int,
    device: torch.device,
) -> dict[str, Tensor]:
    """A batch for an encoder: its texts padded on the right, and the index of each label."""
    texts = tokenizer([e.text for e in batch], padding=True, truncation=True, max_length=longest, return_tensors="pt")
    answers = torch.tensor([labels.index(e.answer) for e in batch])
    return {**texts.to(device), "labels": answers.to(device)}


def training_batches(
    config: RunConfig, tokenizer: PreTrainedTokenizerBase, processes: Processes
) -> Iterator[dict[str, Tensor]]:
    """This process's share of the batches of all steps of a run; a split that is too small is gone through again.

    Raises:
        SystemExit: no example is short enough for the configuration, or a batch has too few for all processes.
    """
    task, size = TASKS[config.task], config.batch_size
    examples = task.train(config.steps * size, config.seed)
    if classifies(config.model):
        for i in range(config.steps):
            chosen = processes.share(examples[i * size : (i + 1) * size])
            yield collate_texts(chosen, task.labels, tokenizer, config.max_length, processes.device)
        return
    short = [e for e in (encode(e, tokenizer) for e in examples) if len(e) <= config.max_length]
    if not short:
        raise SystemExit(f"no training example of {config.task} fits into {config.max_length} tokens")
    for i in range(config.steps):
        chosen = processes.share([short[(i * size + j) % len(short)] for j in range(size)])
        yield collate(chosen, tokenizer.pad_token_id, processes.device)
