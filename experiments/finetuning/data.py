"""From examples to padded batches, for models that continue a text and for encoders that classify one."""

import functools
import random
from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from experiments.finetuning.matching import collate_states
from experiments.finetuning.models import classifies, matches
from experiments.finetuning.processes import Processes
from experiments.finetuning.texts import padded_texts
from experiments.settings.jobs import RunConfig
from experiments.tasks import TASKS, Example
from prunedlora.compress.examples import Tokens, padded
from prunedlora.statistics.targets import IGNORED


def encode(example: Example, tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """A prompt and its target, the end token included; the labels of the prompt are ignored by the loss.

    The two are tokenised apart, so that the prompt has the same tokens as in generation.
    """
    prompt = tokenizer(example.prompt).input_ids
    target = [
        *tokenizer(example.target, add_special_tokens=False).input_ids,
        tokenizer.eos_token_id,
    ]
    return Tokens(prompt + target, [IGNORED] * len(prompt) + target)


def collate(examples: list[Tokens], pad: int, device: torch.device) -> dict[str, Tensor]:
    """A batch padded on the right, as arguments of a model of transformers."""
    batch = padded(examples, pad)
    return {
        "input_ids": batch.ids.to(device),
        "attention_mask": batch.mask.to(device),
        "labels": batch.labels.to(device),
    }


def at_targets(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch of `collate` for a model that computes only the logits that predict a target.

    Those of a prompt, one for each token and word of the vocabulary, would cost time and memory for nothing.

    >>> tokens = Tokens([5, 6, 7, 8, 9], [IGNORED, IGNORED, IGNORED, 8, 9])
    >>> batch = collate([tokens], 0, torch.device("cpu"))
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
    tensors = padded_texts(batch, tokenizer, longest)
    tensors["labels"] = torch.tensor([labels.index(e.answer) for e in batch])
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def training_batches(
    config: RunConfig, tokenizer: PreTrainedTokenizerBase, processes: Processes
) -> Iterator[dict[str, Tensor]]:
    """This process's share of the batches of all steps of a run; a split that is too small is repeated.

    Raises:
        SystemExit: no example is short enough for the configuration, or a batch has too few for all processes.
    """
    task = TASKS[config.task]
    count = config.steps * config.batch_size
    if matches(config):
        examples = task.train(count, config.seed)
        for i in range(0, count, config.batch_size):
            share = processes.share(examples[i : i + config.batch_size])
            yield collate_states(share, tokenizer, config, processes.device)
        return
    if classifies(config.model):
        # An encoder cuts long texts, so that every example can be used.
        examples = task.train(count, config.seed)
        lengths = [len(ids) for ids in tokenizer([e.text for e in examples]).input_ids]
        for batch in batches(lengths, config.batch_size, config.length_groups, config.seed):
            texts = processes.share([examples[i] for i in batch])
            yield collate_texts(texts, task.labels, tokenizer, config.max_length, processes.device)
        return

    # A language model would lose the answer of a long example with its end.
    encoded = _encoded(config.task, count, config.seed, tokenizer)
    short = [tokens for tokens in encoded if len(tokens.ids) <= config.max_length]
    if not short:
        raise SystemExit(
            f"no training example of {config.task} fits into {config.max_length} tokens"
        )
    repeated = [short[i % len(short)] for i in range(count)]
    lengths = [len(tokens.ids) for tokens in repeated]
    for batch in batches(lengths, config.batch_size, config.length_groups, config.seed):
        share = processes.share([repeated[i] for i in batch])
        yield at_targets(collate(share, tokenizer.pad_token_id, processes.device))


@functools.lru_cache(maxsize=4)
def _encoded(
    task: str, count: int, seed: int, tokenizer: PreTrainedTokenizerBase
) -> tuple[Tokens, ...]:
    """Training examples; the rows of a table have the same, and a worker does several of them."""
    return tuple(encode(example, tokenizer) for example in TASKS[task].train(count, seed))


def batches(lengths: list[int], size: int, groups: int, seed: int) -> Iterator[list[int]]:
    """Indices of the examples of each batch: in their order, or of similar lengths.

    Args:
        lengths: of all examples.
        size: of a batch.
        groups: the examples of so many batches in a row are sorted by length, and the batches shuffled.
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
        split = [sorted(group[i : i + size]) for i in range(0, len(group), size)]
        if groups > 1:
            order.shuffle(split)
        yield from split
