"""Loading the base model of an adapter, with the adapter in it."""

import re
from typing import Any

from torch import nn

from prunedlora.adapters.modules import find_lora_modules
from prunedlora.adapters.peft import name_in_base
from prunedlora.compress.devices import chosen_device
from prunedlora.errors import ConfigurationError
from prunedlora.files.adapter_file import AdapterFile
from prunedlora.files.tensor_names import PREFIX
from prunedlora.optional import require

#: Class in transformers by PEFT's task_type.
_CLASSES = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
}
#: Names of the last layer of classification heads.
_HEAD = r"\.(score|classifier(\.out_proj)?|classification_head\.out_proj|logits_proj)\.weight$"


def load_with_adapter(
    source: AdapterFile, base: str, device: str = "auto"
) -> tuple[nn.Module, Any]:
    """The base model with the adapter, trainable, and its tokenizer.

    Raises:
        ConfigurationError: the adapter is a file alone, was trained for a class that is not known,
            or does not fit the base model, or this cannot be loaded.
        MissingPackageError: transformers is not installed.
        UnsupportedAdapterError: see :func:`prunedlora.find_lora_modules`.
    """
    from peft import PeftModel

    if source.config is None:
        raise ConfigurationError(
            f"{source.source} is a file alone; with a base model, a PEFT folder is needed"
        )
    name = model_class(source)
    settings = {} if labels(source) is None else {"num_labels": labels(source)}
    model, tokenizer = load_base(base, device, name, **settings)
    _resize(model, source)
    # PEFT raises many kinds of error, of which the first two lines say what is wrong.
    try:
        model = PeftModel.from_pretrained(model, str(source.file.parent), is_trainable=True)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        first = " ".join(line.strip() for line in str(error).splitlines()[:2])[:300]
        raise ConfigurationError(
            f"the adapter does not fit the base model {base} ({name}): {first}"
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


def model_class(source: AdapterFile) -> str:
    """Name of the class in transformers that an adapter was trained for, by its configuration.

    Raises:
        ConfigurationError: the configuration names a class that is not one of transformers'.
    """
    assert source.config is not None
    task = source.config.raw.get("task_type")
    if task is not None:
        if not isinstance(task, str) or task not in _CLASSES:
            raise ConfigurationError(
                f"{source.source}: task_type {str(task)[:80]!r} is not one of "
                f"{', '.join(_CLASSES)}, so that its base model cannot be loaded"
            )
        return _CLASSES[task]
    mapping = source.config.raw.get("auto_mapping") or {}
    name = mapping.get("base_model_class") if isinstance(mapping, dict) else None
    if name is None:
        return _CLASSES["CAUSAL_LM"]
    library = str(mapping.get("parent_library"))
    if not library.startswith("transformers.") or not hasattr(_transformers(), str(name)):
        raise ConfigurationError(
            f"{source.source} was trained for {library[:80]}.{str(name)[:80]}, which is not a class "
            "of transformers; it can be compressed and verified without a base model"
        )
    return str(name)


def predicts_tokens(name: str) -> bool:
    """Whether a class of transformers is a causal language model, whose loss can be measured here.

    >>> predicts_tokens("LlamaForCausalLM"), predicts_tokens("BertForMaskedLM")
    (True, False)
    """
    return name.endswith(("ForCausalLM", "LMHeadModel"))


def labels(source: AdapterFile) -> int | None:
    """Rows of the classification head that an adapter brings along; None if it brings none."""
    heads = [
        entry.shape[0]
        for key, entry in source.header.tensors.items()
        if key in source.others and re.search(_HEAD, key) and len(entry.shape) == 2
    ]
    return heads[-1] if heads else None


def _resize(model: Any, source: AdapterFile) -> None:
    """Give the base model as many embeddings as the adapter's file holds, as in its training."""
    embeddings = model.get_input_embeddings()
    name = next((n for n, m in model.named_modules() if m is embeddings), None)
    for key in (f"{PREFIX}{name}.weight", f"{PREFIX}{name}.base_layer.weight"):
        entry = source.header.tensors.get(key)
        if entry is not None and len(entry.shape) == 2:
            if entry.shape[0] != embeddings.weight.shape[0]:
                model.resize_token_embeddings(entry.shape[0])
            return


def load_base(
    base: str, device: str = "auto", name: str = "AutoModelForCausalLM", **settings: Any
) -> tuple[Any, Any]:
    """A base model in its own dtype and its tokenizer; remote code is not run.

    Args:
        base: a folder or a name on the hub.
        device: ``"auto"`` takes a GPU if there is one.
        name: of its class in transformers.
        settings: of its configuration.

    Raises:
        ConfigurationError: it cannot be loaded, or there is no such device.
        MissingPackageError: transformers is not installed.
    """
    transformers = _transformers()
    place = chosen_device(device)
    try:
        model = getattr(transformers, name).from_pretrained(
            base, dtype="auto", use_safetensors=True, **settings
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0][:200]
        raise ConfigurationError(
            f"the base model {base} cannot be loaded as {name}: {first}"
        ) from error
    return model.to(place), tokenizer


def _transformers() -> Any:
    return require("transformers", purpose="a base model")
