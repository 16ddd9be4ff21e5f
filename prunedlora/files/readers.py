"""Which scaling each reader of an adapter applies, according to its source.

* PEFT: alpha / r of each module, after ``rank_pattern`` and ``alpha_pattern``; sqrt(r) with rsLoRA
  (``peft/tuners/lora/layer.py``, ``update_layer``).
* vLLM since 0.32: PEFT's rule, module by module; before (``vllm/lora/peft_helper.py`` at commit
  02143692ba86a7ba6198a67e12982c5317c8bd2f), ``lora_alpha / r`` or over ``sqrt(r)`` once for all
  modules.  It loads no DoRA, and of ``modules_to_save`` the classifier's only; the original weights
  of adapted embeddings (``*.base_layer.weight``) are skipped.
* SGLang 0.5.23: ``lora_alpha / r`` once for all modules, rsLoRA or not; a tensor of another rank
  than ``r`` is an error.
* TensorRT-LLM: ``lora_alpha`` over the rank of each tensor, over its root with rsLoRA.
* llama.cpp: the converter stores ``lora_alpha`` only (``convert_lora_to_gguf.py`` at commit
  0b03adaa632b76c7651dd1f6fa3b7a0b5eda479c), and the loader divides it by the rank of each tensor B,
  or applies 1 where it is 0 (``src/llama-adapter.h``, ``get_scale``, at commit
  215841fc0178de0797d23f1cae8ab8ee1baa8eb9); neither rsLoRA nor the patterns are read.
* Ollama: llama.cpp's rule; it reads ``lora_alpha`` as a whole number.
* LoRAX: ``lora_alpha / r`` or over ``sqrt(r)`` once for all modules; ranks within a layer type must
  be equal, and be 8 or a multiple of 16, or its padding changes the scaling of what follows.
* mlx-lm reads a format of its own, and no PEFT folder.
* Tools for diffusion models: each module's ``alpha`` over its rank; 1 without ``alpha``.
"""

import math
import re
from dataclasses import dataclass

from prunedlora.files.adapter_config import AdapterConfig
from prunedlora.files.adapter_file import AdapterFile, AdapterModule


@dataclass(frozen=True)
class Reading:
    """What one reader makes of an adapter.

    Attributes:
        reader: its name.
        rule: the scaling it applies, in words.
        smallest: smallest scaling that it applies to a module.
        largest: the largest.
        wrong: modules to which it applies another scaling than the adapter was trained with.
        refusal: why it does not load the adapter at all, if so.
    """

    reader: str
    rule: str
    smallest: float
    largest: float
    wrong: tuple[str, ...]
    refusal: str | None = None


def readings(source: AdapterFile) -> list[Reading]:
    """One row for each reader of this kind of adapter.

    >>> import tempfile, torch
    >>> from pathlib import Path
    >>> from safetensors.torch import save_file
    >>> from prunedlora.files.adapter_file import open_adapter
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "x.safetensors"
    ...     B, A = torch.ones(3, 2), torch.ones(2, 4)
    ...     save_file({"x.lora_down.weight": A, "x.lora_up.weight": B}, file)
    ...     [(row.reader, row.largest) for row in readings(open_adapter(file))]
    [('diffusion tools', 1.0)]
    """
    config = source.config
    own = [module.scaling for module in source.modules]
    if config is None:
        return [_reading("diffusion tools", "alpha / rank of each module", source, own)]
    # Servers have one scaling for all modules, or one for each rank.
    plain = config.alpha / config.r
    one = config.alpha / math.sqrt(config.r) if config.rslora else plain
    root = "sqrt(r)" if config.rslora else "r"
    by_rank = [config.alpha / m.rank for m in source.modules]
    by_root = [config.alpha / math.sqrt(m.rank) for m in source.modules]
    llama_cpp = [s if config.alpha else 1.0 for s in by_rank]
    count = len(source.modules)
    mixed = len({config.r, *(m.rank for m in source.modules)}) > 1
    unread = _tensors_but_factors(source)
    each = "lora_alpha / rank of each tensor"
    rows: list[tuple[str, str, list[float], str | None]] = [
        ("PEFT", "alpha and r of each module, by patterns", own, None),
        ("vLLM", "since 0.32: alpha and r of each module, by patterns", own, _vllm(source, config)),
        (
            "vLLM before 0.32",
            f"lora_alpha / {root}, patterns ignored",
            [one] * count,
            _vllm(source, config),
        ),
        (
            "SGLang",
            "lora_alpha / r, patterns and rsLoRA ignored",
            [plain] * count,
            "it loads tensors of the rank r only" if mixed else unread,
        ),
        (
            "TensorRT-LLM",
            f"lora_alpha / {root} of each tensor, patterns ignored",
            by_root if config.rslora else by_rank,
            unread,
        ),
        ("llama.cpp", each, llama_cpp, _llama_cpp(source)),
        ("Ollama", each, llama_cpp, _ollama(source, config)),
        (
            "LoRAX",
            f"lora_alpha / {root}, patterns ignored",
            [one] * count,
            "it takes one rank for all modules" if mixed else _lorax(config) or unread,
        ),
    ]
    return [_reading(name, rule, source, s, refusal) for name, rule, s, refusal in rows]


def _reading(
    reader: str, rule: str, source: AdapterFile, scalings: list[float], refusal: str | None = None
) -> Reading:
    wrong = [
        m.name
        for m, s in zip(source.modules, scalings, strict=True)
        if not math.isclose(s, m.scaling)
    ]
    return Reading(reader, rule, min(scalings), max(scalings), tuple(wrong), refusal)


def _vllm(source: AdapterFile, config: AdapterConfig) -> str | None:
    saved = config.raw.get("modules_to_save") or []
    if set(map(str, saved)) - {"classifier", "score"}:
        return "of modules_to_save it loads classifier and score only"
    embeddings = r"\.(embed_tokens|lm_head|[a-z_]*embed\w*|wte)\.base_layer\.weight$"
    heads = r"\.(classifier|score)\."
    rest = [k for k in source.others if not re.search(f"{embeddings}|{heads}", k)]
    return "the adapter holds tensors that are not factors" if rest else None


def _tensors_but_factors(source: AdapterFile) -> str | None:
    return "the adapter holds tensors that are not factors" if source.others else None


def _llama_cpp(source: AdapterFile) -> str | None:
    if any(_is_convolution(module) for module in source.modules):
        return "convolutions are not supported"
    unknown = [
        key for key in source.others if "norm" not in key and ".base_layer.weight" not in key
    ]
    return "the adapter holds tensors that are not factors" if unknown else None


def _ollama(source: AdapterFile, config: AdapterConfig) -> str | None:
    if config.alpha != int(config.alpha) or config.alpha < 0:
        return "lora_alpha must be a whole number"
    return _llama_cpp(source)


def _lorax(config: AdapterConfig) -> str | None:
    fits = config.r == 8 or config.r % 16 == 0
    return None if fits else "its ranks are 8 and multiples of 16"


def _is_convolution(module: AdapterModule) -> bool:
    return len(module.shape_A) > 2
