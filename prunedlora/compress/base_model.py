"""Loading the base model of an adapter, with the adapter in it."""

from typing import Any

import torch
from torch import nn

from prunedlora.adapters.modules import find_lora_modules
from prunedlora.adapters.peft import name_in_base
from prunedlora.errors import ConfigurationError
from prunedlora.files.adapter_file import AdapterFile
from prunedlora.optional import require


def load_with_adapter(
    source: AdapterFile, base: str, device: str = "auto"
) -> tuple[nn.Module, Any]:
    """The base model with the adapter, trainable, and its tokenizer.

    Raises:
        ConfigurationError: the adapter is a file alone or does not fit the base model, or this
            cannot be loaded.
        MissingPackageError: transformers is not installed.
        UnsupportedAdapterError: see :func:`prunedlora.find_lora_modules`.
    """
    from peft import PeftModel

    if source.config is None:
        raise ConfigurationError(
            f"{source.source} is a file alone; with a base model, a PEFT folder is needed"
        )
    model, tokenizer = load_base(base, device)
    # PEFT raises many kinds of error, of which the first line says what is wrong.
    try:
        model = PeftModel.from_pretrained(model, str(source.file.parent), is_trainable=True)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        first = str(error).splitlines()[0][:200]
        raise ConfigurationError(
            f"the adapter does not fit the base model {base}: {first}"
        ) from error
    # It also goes on in silence where only some of the modules are there.
    present = {name_in_base(module.name) for module in find_lora_modules(model)}
    expected = {module.name for module in source.modules}
    if present != expected:
        some = ", ".join(sorted(present ^ expected)[:3])
        raise ConfigurationError(
            f"the adapter's modules are not those of the base model {base}: {some}, ..."
        )
    return model, tokenizer


def load_base(base: str, device: str = "auto") -> tuple[nn.Module, Any]:
    """A causal language model in its own dtype and its tokenizer; remote code is not run.

    Raises:
        ConfigurationError: it cannot be loaded.
        MissingPackageError: transformers is not installed.
    """
    transformers = require("transformers", purpose="a base model")
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            base, dtype="auto", use_safetensors=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0][:200]
        raise ConfigurationError(f"the base model {base} cannot be loaded: {first}") from error
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device), tokenizer
