"""Texts as encoders read them."""

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from experiments.tasks import Example


def padded_texts(
    batch: list[Example], tokenizer: PreTrainedTokenizerBase, longest: int
) -> dict[str, Tensor]:
    """The texts of a batch, on the CPU: cut to the longest number of tokens and padded on the right."""
    texts = tokenizer(
        [e.text for e in batch],
        padding=True,
        truncation=True,
        max_length=longest,
        return_tensors="pt",
    )
    return dict(texts)
