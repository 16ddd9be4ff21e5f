"""Examples for calibration: from a file or a data set to batches of token ids."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from prunedlora.errors import ConfigurationError
from prunedlora.optional import require
from prunedlora.statistics.targets import IGNORED

#: Longest example, tokens; what is longer is cut.
MAX_LENGTH = 1024
BATCH_SIZE = 4
#: One example in this many is held out.
HELD_OUT = 4


@dataclass(frozen=True)
class Tokens:
    """One example; labels are `IGNORED` where the loss does not count."""

    ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Batch:
    """Examples padded on the right."""

    ids: Int[Tensor, "samples tokens"]
    mask: Int[Tensor, "samples tokens"]
    labels: Int[Tensor, "samples tokens"]


def read_records(data: str) -> list[Mapping[str, Any]]:
    r"""The records of a JSON-lines file, or of the split ``train`` of a data set on the hub.

    A record holds ``messages`` (for the model's chat template), or ``prompt`` and ``completion``
    (only the completion counts in the loss), or ``text``.

    Args:
        data: a file that ends in ``.jsonl``, or the name of a data set as
            ``organisation/name[@revision]``.

    Raises:
        ConfigurationError: no such file or data set, or a line that is not a JSON object.
        MissingPackageError: a data set, and the package datasets is not installed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "data.jsonl"
    ...     _ = file.write_text('{"text": "one"}\n{"text": "two"}\n')
    ...     len(read_records(str(file)))
    2
    """
    if not data.endswith(".jsonl"):
        return _from_hub(data)
    try:
        lines = Path(data).read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{data} cannot be read as JSON lines: {error}") from error
    if not all(isinstance(record, dict) for record in records):
        raise ConfigurationError(f"{data}: every line must be a JSON object")
    return records


def to_tokens(record: Mapping[str, Any], tokenizer: Any) -> Tokens:
    """Token ids and labels of one record, see `read_records`.

    Raises:
        ConfigurationError: a record of another form.
    """
    if isinstance(record.get("text"), str):
        ids = tokenizer(record["text"]).input_ids[:MAX_LENGTH]
        return Tokens(ids, list(ids))
    if isinstance(record.get("messages"), list):
        text = tokenizer.apply_chat_template(record["messages"], tokenize=False)
        ids = tokenizer(text, add_special_tokens=False).input_ids[:MAX_LENGTH]
        return Tokens(ids, list(ids))
    if isinstance(record.get("prompt"), str) and isinstance(record.get("completion"), str):
        prompt = tokenizer(record["prompt"]).input_ids
        completion = tokenizer(record["completion"], add_special_tokens=False).input_ids
        target = [*completion, tokenizer.eos_token_id]
        labels = [IGNORED] * len(prompt) + target
        return Tokens((prompt + target)[:MAX_LENGTH], labels[:MAX_LENGTH])
    raise ConfigurationError(
        f"a record holds {sorted(record)}; it must hold 'text', or 'messages', or 'prompt' and "
        "'completion'"
    )


def split(examples: list[Tokens], samples: int, seed: int) -> tuple[list[Tokens], list[Tokens]]:
    """At most `samples` examples, chosen and ordered by `seed`: for calibration, and held out.

    Raises:
        ConfigurationError: fewer than two examples.

    >>> [len(part) for part in split([Tokens([1, 2], [1, 2])] * 10, 8, 0)]
    [6, 2]
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(examples), generator=generator)[:samples].tolist()
    if len(order) < 2:
        raise ConfigurationError(
            f"{len(order)} usable examples are too few; give at least two, one of which is held out"
        )
    held_out = max(1, len(order) // HELD_OUT)
    chosen = [examples[i] for i in order]
    return chosen[held_out:], chosen[:held_out]


def batches(examples: list[Tokens], pad: int) -> Iterator[Batch]:
    """Batches of examples of similar length, padded on the right."""
    ordered = sorted(examples, key=lambda example: len(example.ids))
    for start in range(0, len(ordered), BATCH_SIZE):
        yield padded(ordered[start : start + BATCH_SIZE], pad)


def padded(examples: list[Tokens], pad: int) -> Batch:
    """One batch, as long as its longest example; padding is masked and has no label.

    >>> batch = padded([Tokens([5, 6], [-100, 6]), Tokens([7], [7])], pad=0)
    >>> batch.ids.tolist(), batch.mask.tolist(), batch.labels.tolist()
    ([[5, 6], [7, 0]], [[1, 1], [1, 0]], [[-100, 6], [7, -100]])
    """
    shape = len(examples), max(len(example.ids) for example in examples)
    ids = torch.full(shape, pad)
    mask = torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORED)
    for row, example in enumerate(examples):
        length = len(example.ids)
        ids[row, :length] = torch.tensor(example.ids)
        mask[row, :length] = 1
        labels[row, :length] = torch.tensor(example.labels)
    return Batch(ids, mask, labels)


def _from_hub(data: str) -> list[Mapping[str, Any]]:
    purpose = f"{data} does not end in .jsonl, and a data set on the hub"
    datasets = require("datasets", '"prunedlora[hub]"', purpose=purpose)
    name, _, revision = data.partition("@")
    try:
        return list(datasets.load_dataset(name, split="train", revision=revision or None))
    except Exception as error:  # datasets raises many kinds
        raise ConfigurationError(f"the data set {data} cannot be loaded: {error}") from error
