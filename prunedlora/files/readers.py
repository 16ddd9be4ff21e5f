"""Which scaling each reader of an adapter applies, according to its source.

* PEFT: alpha / r of each module, after ``rank_pattern`` and ``alpha_pattern``; sqrt(r) with rsLoRA
  (``peft/tuners/lora/layer.py``, ``update_layer``).
* vLLM since 0.32: PEFT's rule, module by module; ``max_lora_rank`` goes up to 512
  (``vllm/config/lora.py``); before (``vllm/lora/peft_helper.py`` at commit
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
from collections.abc import Callable
from dataclasses import dataclass

from prunedlora.errors import ConfigurationError
from prunedlora.files.adapter_config import AdapterConfig
from prunedlora.files.adapter_file import AdapterFile, AdapterModule

#: Largest rank that vLLM can be started for.
_VLLM_LARGEST = 512
_NOT_FACTORS = "the adapter holds tensors that are not factors"
_Scaling = Callable[[AdapterConfig, AdapterModule], float]
_Refusal = Callable[[AdapterFile, AdapterConfig], str | None]


@dataclass(frozen=True)
class Reader:
    """A program that loads adapters, or several that do it alike.

    Attributes:
        name: as people know it.
        words: what `CompressConfig.reader` calls it; none for versions that nobody should ask for.
        rule: the scaling that it applies, in words.
        scaling: that of a module of a PEFT folder; None for a reader of files alone, which applies
            the scaling that is read here.
        refusals: each says why it does not load a PEFT folder, or None.
        one_rank: whether all modules must have the same rank to be loaded with the right scaling.
        step: ranks that it takes are multiples of this.
        also: ranks that it takes beside these.
    """

    name: str
    words: tuple[str, ...]
    rule: str
    scaling: _Scaling | None
    refusals: tuple[_Refusal, ...] = ()
    one_rank: bool = True
    step: int = 1
    also: tuple[int, ...] = ()

    @property
    def of_folders(self) -> bool:
        """Whether it reads PEFT folders; otherwise files alone."""
        return self.scaling is not None


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

    @property
    def outcome(self) -> str:
        """What it does with the file, in words.

        >>> Reading("x", "1", 1.0, 1.0, ("q",)).outcome
        'loads it, with another scaling in 1 module'
        """
        if self.refusal:
            return f"does not load it: {self.refusal}"
        if self.wrong:
            modules = "module" if len(self.wrong) == 1 else "modules"
            return f"loads it, with another scaling in {len(self.wrong)} {modules}"
        return "loads it right"


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
    ...     [(row.reader, row.outcome) for row in readings(open_adapter(file))]
    [('diffusion tools', 'loads it right')]
    """
    return [_reading(r, source) for r in READERS if r.of_folders == (source.config is not None)]


def _reading(reader: Reader, source: AdapterFile) -> Reading:
    scalings = [module.scaling for module in source.modules]
    refusals: list[str | None] = []
    if source.config is not None and reader.scaling is not None:
        scalings = [reader.scaling(source.config, module) for module in source.modules]
        refusals = [refuse(source, source.config) for refuse in reader.refusals]
    wrong = [
        module.name
        for module, scaling in zip(source.modules, scalings, strict=True)
        if not math.isclose(scaling, module.scaling)
    ]
    return Reading(
        reader.name,
        reader.rule,
        min(scalings),
        max(scalings),
        tuple(wrong),
        next((refusal for refusal in refusals if refusal), None),
    )


def get_reader(word: str) -> Reader:
    """The reader that a setting names.

    Raises:
        ConfigurationError: there is none of that name.

    >>> get_reader("sglang").one_rank
    True
    """
    for reader in READERS:
        if word in reader.words:
            return reader
    known = ", ".join(word for reader in READERS for word in reader.words)
    raise ConfigurationError(f"reader must be one of {known}, not {word!r}")


def check_readable(source: AdapterFile, word: str) -> None:
    """Refuse an adapter that a reader would not load, or with another scaling.

    Raises:
        ConfigurationError: it would not; the message says why.
    """
    reader = get_reader(word)
    reading = _reading(reader, source)
    if reading.refusal or reading.wrong:
        raise ConfigurationError(
            f"{reader.name} {reading.outcome}; leave the reader out to write it all the same"
        )


def _one(config: AdapterConfig, module: AdapterModule) -> float:
    """The same for all modules."""
    return config.alpha / (math.sqrt(config.r) if config.rslora else config.r)


def _plain(config: AdapterConfig, module: AdapterModule) -> float:
    return config.alpha / config.r


def _by_rank(config: AdapterConfig, module: AdapterModule) -> float:
    return config.alpha / (math.sqrt(module.rank) if config.rslora else module.rank)


def _llama_cpp_scaling(config: AdapterConfig, module: AdapterModule) -> float:
    return config.alpha / module.rank if config.alpha else 1.0


def _own(config: AdapterConfig, module: AdapterModule) -> float:
    return module.scaling


def _mixed(source: AdapterFile, config: AdapterConfig) -> bool:
    return len({config.r, *(module.rank for module in source.modules)}) > 1


def _vllm(source: AdapterFile, config: AdapterConfig) -> str | None:
    if max(config.r, *(module.rank for module in source.modules)) > _VLLM_LARGEST:
        return f"its max_lora_rank goes up to {_VLLM_LARGEST}"
    saved = config.raw.get("modules_to_save") or []
    if set(map(str, saved)) - {"classifier", "score"}:
        return "of modules_to_save it loads classifier and score only"
    embeddings = r"\.(embed_tokens|lm_head|[a-z_]*embed\w*|wte)\.base_layer\.weight$"
    heads = r"\.(classifier|score)\."
    rest = [k for k in source.others if not re.search(f"{embeddings}|{heads}", k)]
    return _NOT_FACTORS if rest else None


def _sglang(source: AdapterFile, config: AdapterConfig) -> str | None:
    return "it loads tensors of the rank r only" if _mixed(source, config) else None


def _tensors_but_factors(source: AdapterFile, config: AdapterConfig) -> str | None:
    return _NOT_FACTORS if source.others else None


def _llama_cpp(source: AdapterFile, config: AdapterConfig) -> str | None:
    if any(len(module.shape_A) > 2 for module in source.modules):
        return "convolutions are not supported"
    unknown = [
        key for key in source.others if "norm" not in key and ".base_layer.weight" not in key
    ]
    return _NOT_FACTORS if unknown else None


def _ollama(source: AdapterFile, config: AdapterConfig) -> str | None:
    if config.alpha != int(config.alpha) or config.alpha < 0:
        return "lora_alpha must be a whole number"
    return None


def _lorax(source: AdapterFile, config: AdapterConfig) -> str | None:
    if _mixed(source, config):
        return "it takes one rank for all modules"
    fits = config.r == 8 or config.r % 16 == 0
    return None if fits else "its ranks are 8 and multiples of 16"


#: All that are known, those of PEFT folders first.
READERS = (
    Reader("PEFT", ("peft",), "alpha and r of each module, by patterns", _own, one_rank=False),
    Reader(
        "vLLM",
        ("vllm",),
        "since 0.32: alpha and r of each module, by patterns",
        _own,
        (_vllm,),
        one_rank=False,
    ),
    Reader(
        "vLLM before 0.32",
        (),
        "lora_alpha / r (sqrt(r) with rsLoRA), patterns ignored",
        _one,
        (_vllm,),
        one_rank=False,
    ),
    Reader(
        "SGLang",
        ("sglang",),
        "lora_alpha / r, patterns and rsLoRA ignored",
        _plain,
        (_sglang, _tensors_but_factors),
    ),
    Reader(
        "TensorRT-LLM",
        ("tensorrt-llm",),
        "lora_alpha / r (sqrt(r) with rsLoRA) of each tensor, patterns ignored",
        _by_rank,
        (_tensors_but_factors,),
    ),
    Reader(
        "llama.cpp",
        ("llama.cpp",),
        "lora_alpha / rank of each tensor",
        _llama_cpp_scaling,
        (_llama_cpp,),
    ),
    Reader(
        "Ollama",
        ("ollama",),
        "lora_alpha / rank of each tensor",
        _llama_cpp_scaling,
        (_ollama, _llama_cpp),
    ),
    Reader(
        "LoRAX",
        ("lorax",),
        "lora_alpha / r (sqrt(r) with rsLoRA), patterns ignored",
        _one,
        (_lorax, _tensors_but_factors),
        step=16,
        also=(8,),
    ),
    Reader(
        "diffusion tools",
        ("comfyui", "diffusers", "sd-scripts"),
        "alpha / rank of each module",
        None,
        one_rank=False,
    ),
)
