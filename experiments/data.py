"""From examples to padded batches."""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from experiments.tasks import Example

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
