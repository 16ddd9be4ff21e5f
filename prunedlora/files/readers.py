"""Which scaling each reader of a PEFT adapter applies, according to its source.

* PEFT: alpha / r of each module, after ``rank_pattern`` and ``alpha_pattern``; sqrt(r) with rsLoRA
  (``peft/tuners/lora/layer.py``, ``update_layer``).
* vLLM: ``lora_alpha / r``, or over ``sqrt(r)`` with rsLoRA, once for all modules; it reads neither
  pattern, and refuses ``modules_to_save`` and DoRA (``vllm/lora/peft_helper.py``, class
  ``PEFTHelper``; read at commit 02143692ba86a7ba6198a67e12982c5317c8bd2f of
  github.com/vllm-project/vllm).
* llama.cpp: the converter stores ``lora_alpha`` only (``convert_lora_to_gguf.py`` at commit
  0b03adaa632b76c7651dd1f6fa3b7a0b5eda479c of github.com/ggml-org/llama.cpp), and the loader divides
  it by the rank of each tensor B, or applies 1 where it is 0 (``src/llama-adapter.h``,
  ``get_scale``, at commit 215841fc0178de0797d23f1cae8ab8ee1baa8eb9); neither rsLoRA nor the
  patterns are read.
* Tools for diffusion models: each module's ``alpha`` over its rank; 1 without ``alpha``.
"""

import math
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
    # vLLM has one scaling for all modules, llama.cpp one for each rank.
    root = "sqrt(r)" if config.rslora else "r"
    one = config.alpha / (math.sqrt(config.r) if config.rslora else config.r)
    vllm = [one] * len(source.modules)
    llama_cpp = [config.alpha / m.rank if config.alpha else 1.0 for m in source.modules]
    return [
        _reading("PEFT", "alpha and r of each module, by patterns", source, own),
        _reading(
            "vLLM",
            f"lora_alpha / {root}, patterns ignored",
            source,
            vllm,
            _why_vllm_refuses(source, config),
        ),
        _reading(
            "llama.cpp",
            "lora_alpha / rank of each tensor",
            source,
            llama_cpp,
            _why_llama_cpp_refuses(source),
        ),
    ]


def _reading(
    reader: str, rule: str, source: AdapterFile, scalings: list[float], refusal: str | None = None
) -> Reading:
    wrong = [
        m.name
        for m, s in zip(source.modules, scalings, strict=True)
        if not math.isclose(s, m.scaling)
    ]
    return Reading(reader, rule, min(scalings), max(scalings), tuple(wrong), refusal)


def _why_vllm_refuses(source: AdapterFile, config: AdapterConfig) -> str | None:
    if config.raw.get("modules_to_save"):
        return "modules_to_save is not supported"
    return "the adapter holds tensors that are no factors" if source.others else None


def _why_llama_cpp_refuses(source: AdapterFile) -> str | None:
    if any(_is_convolution(module) for module in source.modules):
        return "convolutions are not supported"
    unknown = [
        key for key in source.others if "norm" not in key and ".base_layer.weight" not in key
    ]
    return "the adapter holds tensors that are no factors" if unknown else None


def _is_convolution(module: AdapterModule) -> bool:
    return len(module.shape_A) > 2
