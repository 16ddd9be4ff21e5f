"""Names of tensors in adapter files: PEFT's, and those of tools for diffusion models."""

import re
from dataclasses import dataclass
from pathlib import Path

from prunedlora.errors import AdapterFileError, UnsupportedAdapterError
from prunedlora.files.adapter_config import AdapterConfig
from prunedlora.files.header import Header

PREFIX = "base_model.model."
#: Endings of A and of B: linear layers and convolutions of PEFT and diffusers, embeddings of PEFT,
#: and what kohya's tools write.
_ENDINGS = (
    (".lora_A.weight", ".lora_B.weight"),
    (".lora_embedding_A", ".lora_embedding_B"),
    (".lora_down.weight", ".lora_up.weight"),
)
_ALPHA = ".alpha"
_REASONS = (
    (r"lora_magnitude_vector|dora_scale", "DoRA, whose columns are rescaled as a whole"),
    (r"\.lora_B\.bias$", "a bias of B (lora_bias)"),
    (r"\.lora_mid\.", "a convolution of three factors"),
    (
        r"\.(hada_[wt]\w+|lokr_[wt]\w+|oft_\w+|on_input|diff|diff_b)$",
        "not LoRA: LoHa, LoKr, OFT, IA3 or a full difference",
    ),
    (
        r"\.lora_[AB]\.\w+\.weight$",
        "saved from a live model with the adapter's name in it; save it with save_pretrained",
    ),
)


@dataclass(frozen=True)
class KeyPair:
    """Names of one module's tensors; `alpha` is None where the file has none."""

    name: str
    B: str
    A: str
    alpha: str | None


def find_pairs(header: Header, file: Path) -> list[KeyPair]:
    """The pairs of factors in a file, sorted by module.

    Raises:
        AdapterFileError: none, or a factor without its other half.
    """
    pairs = []
    for key in sorted(header.tensors):
        for end_A, end_B in _ENDINGS:
            # A pair is made at its A; at its B, only that there is an A.
            if key.endswith(end_B) and key.removesuffix(end_B) + end_A not in header.tensors:
                raise AdapterFileError(
                    f"{file}: {key} lacks its other half, {key.removesuffix(end_B) + end_A}"
                )
            if key.endswith(end_A):
                stem = key.removesuffix(end_A)
                if stem + end_B not in header.tensors:
                    raise AdapterFileError(f"{file}: {key} lacks its other half, {stem + end_B}")
                alpha = stem + _ALPHA if stem + _ALPHA in header.tensors else None
                pairs.append(KeyPair(stem.removeprefix(PREFIX), stem + end_B, key, alpha))
    if not pairs:
        _refuse_known(header, file)
        raise AdapterFileError(
            f"{file} holds no LoRA factors (lora_A and lora_B, or lora_down and lora_up)"
        )
    return pairs


def check_others(
    header: Header, pairs: list[KeyPair], config: AdapterConfig | None, file: Path
) -> tuple[str, ...]:
    """Names of the tensors that are no factors and that keep their meaning when ranks change.

    Those are, with a PEFT configuration, the weights of ``modules_to_save``, biases where ``bias``
    is not ``none``, trained tokens, and embeddings saved with a changed vocabulary.

    Raises:
        UnsupportedAdapterError: a tensor of a variant of LoRA.
        AdapterFileError: a tensor of unknown meaning, an alpha that is not a single number, or one
            beside a configuration.
    """
    _refuse_known(header, file)
    used = {key for pair in pairs for key in (pair.A, pair.B, pair.alpha)}
    others = tuple(sorted(header.tensors.keys() - used))
    for key in others:
        if config is None or not _is_carried(key, config):
            raise AdapterFileError(
                f"{file}: the tensor {key!r} belongs to nothing that is known; remove it"
            )
    for pair in pairs:
        if config is not None and not pair.A.startswith(PREFIX):
            raise AdapterFileError(
                f"{file}: {pair.A} does not start with {PREFIX!r}, but others do"
            )
        if pair.alpha and config is not None:
            raise AdapterFileError(
                f"{file}: {pair.alpha} would be a second scaling beside that of the configuration; "
                "remove it"
            )
        if pair.alpha and header.tensors[pair.alpha].shape not in ((), (1,)):
            raise AdapterFileError(f"{file}: {pair.alpha} must be a single number")
    if "lora_adapter_metadata" in header.metadata:
        raise UnsupportedAdapterError(
            f"{file}: its metadata hold scalings of diffusers (lora_adapter_metadata), which are "
            "not yet supported"
        )
    return others


def _is_carried(key: str, config: AdapterConfig) -> bool:
    saved = config.raw.get("modules_to_save") or []
    if not key.startswith(PREFIX) or not isinstance(saved, list):
        return False
    if any(isinstance(name, str) and f".{name}." in f".{key}" for name in saved):
        return True
    if config.raw.get("bias", "none") != "none" and key.endswith(".bias"):
        return True
    if "trainable_tokens" in key and config.raw.get("trainable_token_indices"):
        return True
    embedding = r"\.(embed_tokens|lm_head|wte|word_embeddings)\.(base_layer\.)?weight$"
    return re.search(embedding, key) is not None


def _refuse_known(header: Header, file: Path) -> None:
    for key in header.tensors:
        for pattern, reason in _REASONS:
            if re.search(pattern, key):
                raise UnsupportedAdapterError(
                    f"{file}: {key} is {reason}; only plain LoRA is supported"
                )
