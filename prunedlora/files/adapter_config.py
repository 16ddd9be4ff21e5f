"""What an ``adapter_config.json`` says about ranks and scalings, and what cannot be supported."""

import json
import math
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import regex

from prunedlora.adapters.initialisation import as_plain, refuse_init
from prunedlora.errors import AdapterFileError, UnsupportedAdapterError

#: Settings that make a layer something other than W + s B A, and what to do about each.
_UNSUPPORTED = {
    "use_dora": "DoRA rescales whole columns of the weight; train plain LoRA",
    "lora_bias": "the bias of B is scaled with the adapter; set lora_bias=False",
    "use_qalora": "QALoRA pools the inputs of A; train plain LoRA",
    "use_bdlora": "its factors are block-diagonal; train plain LoRA",
    "arrow_config": "it routes between adapters; compress each of them by itself",
    "kasa_config": "it is not a product of two factors; train plain LoRA",
    "velora_config": "it is a variant of LoRA that is not supported; train plain LoRA",
    "monteclora_config": "it is a variant of LoRA that is not supported; train plain LoRA",
}
#: Seconds that a match with one expression may take, and all matches of a configuration together;
#: one of a real adapter takes microseconds.
_TIMEOUT = 1.0
_TIMEOUT_OF_ALL = 4.0
#: Characters that an expression may have, so that it compiles in reasonable time.
_MAX_EXPRESSION = 2048
#: Its characters times all counts in braces, since a nested {1000} is written out when compiled.
_MAX_WRITTEN_OUT = 10**6
#: What only AdaLoRA's configuration has, and what it adds to the rank that it divides by.
_ADALORA = (
    *("target_r", "init_r", "tinit", "tfinal", "deltaT", "beta1", "beta2"),
    *("orth_reg_weight", "total_step"),
)
_ADALORA_EPSILON = 1e-5
#: Methods whose changes are products, and what only their configurations have.
LYCORIS = ("LOHA", "LOKR")
_LYCORIS = (
    *("alpha", "rank_dropout", "module_dropout", "use_effective_conv2d", "init_weights"),
    *("decompose_both", "decompose_factor", "rank_dropout_scale"),
)
_MAX_RANK = 2**31
#: Entries that are lists of names, and whether an expression may take a list's place.
_NAMES = {"exclude_modules": True, "modules_to_save": False, "target_parameters": False}
#: Bytes that a configuration may have; one with a pattern for each of 20,000 modules has 3 MB.
_MAX_BYTES = 2**25
_Value = TypeVar("_Value")


class _Patience:
    """Processor time that is left for matching the expressions of a configuration."""

    def __init__(self) -> None:
        self.left = _TIMEOUT_OF_ALL


@dataclass(frozen=True)
class AdapterConfig:
    """The part of a PEFT LoRA configuration that decides ranks and scalings.

    Attributes:
        raw: everything that the file holds; of AdaLoRA, what plain LoRA has too.
        r: rank where no pattern says otherwise.
        alpha: `lora_alpha` where no pattern says otherwise.
        rslora: whether the scaling is alpha / sqrt(r) in place of alpha / r.
        rank_pattern: ranks by regular expression.
        alpha_pattern: alphas by regular expression.
        adalora: whether it is of AdaLoRA, of which only the tensors say the ranks.

    >>> config = AdapterConfig({}, r=4, alpha=8.0, rslora=False, alpha_pattern={"q_proj": 2.0})
    >>> config.scaling("layers.0.q_proj"), config.scaling("layers.0.v_proj")
    (0.5, 2.0)
    """

    raw: Mapping[str, Any]
    r: int
    alpha: float
    rslora: bool
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    adalora: bool = False
    _patience: _Patience = field(default_factory=_Patience, compare=False, repr=False)

    def rank(self, name: str) -> int:
        """Rank that PEFT gives the module of this name (its path in the base model)."""
        return _matching(self.rank_pattern, name, self.r, self._patience)

    def scaling(self, name: str) -> float:
        """Factor s that PEFT puts before B A in the module of this name."""
        if self.adalora:  # whatever became of the rank
            return self.alpha / (self.r + _ADALORA_EPSILON)
        alpha = _matching(self.alpha_pattern, name, self.alpha, self._patience)
        rank = self.rank(name)
        return alpha / (math.sqrt(rank) if self.rslora else rank)


def read_config(file: Path, *, from_base: bool = False) -> AdapterConfig:
    """Read and check an ``adapter_config.json``.

    Args:
        file: the file.
        from_base: also accept an initialisation that took the adapter's start from the base model; the
            result is that of plain LoRA.

    Raises:
        AdapterFileError: not a JSON object, too long, or values that are not valid ranks, alphas,
            patterns or lists of names.
        UnsupportedAdapterError: not LoRA, or a variant in which a layer is not W + s B A.
    """
    raw = read_entries(file)
    return parse_config(as_plain(raw, str(file)) if from_base else raw, str(file))


def read_entries(file: Path) -> Mapping[str, Any]:
    """The entries of an ``adapter_config.json``, of whatever method.

    Raises:
        AdapterFileError: not a JSON object, or too long.
    """
    try:
        with file.open("rb") as stream:
            text = stream.read(_MAX_BYTES + 1)
        if len(text) > _MAX_BYTES:
            raise AdapterFileError(
                f"{file} has more than {_MAX_BYTES} bytes, which no configuration of an adapter has"
            )
        raw = json.loads(text.decode("utf-8"))
    except AdapterFileError:
        raise
    except OSError as error:
        raise AdapterFileError(f"cannot read {file}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise AdapterFileError(f"{file} is not valid JSON ({error})") from error
    if not isinstance(raw, dict):
        raise AdapterFileError(f"{file} is not a JSON object")
    return raw


def parse_config(raw: Mapping[str, Any], file: str) -> AdapterConfig:
    """Check a PEFT LoRA configuration.

    Args:
        raw: its entries.
        file: where they stand, for messages.

    Raises:
        AdapterFileError, UnsupportedAdapterError: as `read_config` does.

    >>> parse_config({"peft_type": "LORA", "r": 4, "lora_alpha": 8}, "here").scaling("q_proj")
    2.0
    """
    if raw.get("peft_type") == "ADALORA":
        return _of_adalora(raw, file)
    _refuse_variants(raw, file)
    for key, expression in _NAMES.items():
        _check_names(raw.get(key), key, file, expression=expression)
    return AdapterConfig(
        raw,
        r=_rank(raw.get("r", 8), "r", file),
        alpha=_alpha(raw.get("lora_alpha", 8), "lora_alpha", file),
        rslora=bool(raw.get("use_rslora", False)),
        rank_pattern={k: _rank(v, k, file) for k, v in _pattern(raw, "rank_pattern", file).items()},
        alpha_pattern={
            k: _alpha(v, k, file) for k, v in _pattern(raw, "alpha_pattern", file).items()
        },
    )


def _of_adalora(raw: Mapping[str, Any], file: str) -> AdapterConfig:
    """The configuration of an AdaLoRA adapter, which is plain LoRA once its diagonal is in A."""
    plain = {k: v for k, v in raw.items() if k not in _ADALORA}
    plain |= {"peft_type": "LORA", "rank_pattern": {}, "alpha_pattern": {}, "use_rslora": False}
    rank = _rank(raw.get("init_r", 12), "init_r", file)
    config = parse_config({**plain, "r": rank}, file)
    if config.alpha <= 0:
        raise AdapterFileError(f"{file}: an AdaLoRA adapter needs a lora_alpha above 0")
    return replace(config, adalora=True)


def of_lycoris(raw: Mapping[str, Any], file: str) -> AdapterConfig:
    """The configuration of a LoHa or LoKr adapter as that of a LoRA of its ranks and scalings.

    Raises:
        AdapterFileError, UnsupportedAdapterError: as `read_config` does; another method.
    """
    if raw.get("peft_type") not in LYCORIS:
        raise UnsupportedAdapterError(
            f"{file}: peft_type is {raw.get('peft_type')!r}; of other methods only "
            f"{' and '.join(LYCORIS)} can become LoRA"
        )
    plain = {k: v for k, v in raw.items() if k not in _LYCORIS}
    plain |= {"peft_type": "LORA", "lora_alpha": raw.get("alpha", 8), "use_rslora": False}
    return parse_config(plain, file)


def _refuse_variants(raw: Mapping[str, Any], file: str) -> None:
    kind = raw.get("peft_type")
    if kind in LYCORIS:
        raise UnsupportedAdapterError(
            f"{file}: peft_type is {kind!r}; `prunedlora extract` makes LoRA of it"
        )
    if kind != "LORA":
        raise UnsupportedAdapterError(
            f"{file}: peft_type is {kind!r}; only LORA and ADALORA are supported"
        )
    for key, reason in _UNSUPPORTED.items():
        if raw.get(key):
            raise UnsupportedAdapterError(f"{file}: {key} is set: {reason}")
    refuse_init(raw.get("init_lora_weights", True), file)


def _rank(value: Any, key: str, file: str) -> int:
    if type(value) is not int or not 1 <= value < _MAX_RANK:
        raise AdapterFileError(
            f"{file}: the rank {str(value)[:80]!r} of {key[:80]!r} is not a positive integer that a "
            "tensor can have"
        )
    return value


def _alpha(value: Any, key: str, file: str) -> float:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    # The bound also refuses NaN, and integers that no floating-point number can hold.
    if not known or not abs(value) <= sys.float_info.max:
        raise AdapterFileError(f"{file}: the alpha of {key[:80]!r} is not a finite number")
    return float(value)


def _check_names(value: Any, key: str, file: str, *, expression: bool) -> None:
    if value is None or (expression and isinstance(value, str)):
        return
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        allowed = "neither an expression nor a list" if expression else "not a list"
        raise AdapterFileError(f"{file}: {key} is {allowed} of names")


def _pattern(raw: Mapping[str, Any], key: str, file: str) -> Mapping[str, Any]:
    pattern = raw.get(key) or {}
    if not isinstance(pattern, dict):
        raise AdapterFileError(f"{file}: {key} is not a JSON object")
    for expression in pattern:
        if len(expression) > _MAX_EXPRESSION:
            raise AdapterFileError(
                f"{file}: {key} holds an expression of {len(expression)} characters, "
                f"{expression[:80]!r}...; {_MAX_EXPRESSION} are allowed"
            )
        counts = (
            int(max(pair, key=len) or 1) for pair in re.findall(r"\{(\d*),?(\d*)\}", expression)
        )
        if len(expression) * math.prod(max(1, count) for count in counts) > _MAX_WRITTEN_OUT:
            raise AdapterFileError(
                f"{file}: {key} holds {expression[:80]!r}, whose repetitions take too much memory; "
                "write it with smaller counts in braces"
            )
        try:
            re.compile(_whole(expression))
        except (re.error, OverflowError, RecursionError) as error:
            raise AdapterFileError(
                f"{file}: {key} holds {expression[:80]!r}, which is not a regular expression that "
                f"PEFT can use ({error})"
            ) from error
    return pattern


def _matching(
    pattern: Mapping[str, _Value], name: str, default: _Value, patience: _Patience
) -> _Value:
    r"""What PEFT takes from a pattern for a module: the first entry whose expression fits its name.

    An expression fits if it matches the name's end, from the start or from a dot on.

    >>> _matching({"q_proj": 1, r"layers\.0": 2, "q": 3}, "layers.0.q_proj", 8, _Patience())
    1
    >>> _matching({"proj": 1, "layers": 2}, "layers.0.q_proj", 8, _Patience())
    8
    """
    for expression, value in pattern.items():
        if _matcher(expression)(name, patience):
            return value
    # PEFT also takes an entry whose expression is the name itself, even where it does not match it.
    return pattern.get(name, default)


@cache
def _matcher(expression: str) -> Callable[[str, _Patience], bool]:
    """Whether the expression matches a name, as `re` does, but within what is left of the time.

    Raises:
        AdapterFileError: when called, if it takes longer.
    """
    # Most are names, in full or their ends; with one for each module there are many.
    name_itself = re.sub(r"\\(.)", r"\1", expression.removeprefix("^"))
    ending = "." + name_itself
    if expression == "^" + re.escape(name_itself):
        return lambda name, _: name == name_itself
    if expression == re.escape(name_itself) != "":
        return lambda name, _: name == name_itself or name.endswith(ending)
    return lambda name, patience: _matches(expression, name, patience)


def _matches(expression: str, name: str, patience: _Patience) -> bool:
    start = time.thread_time()
    try:
        limit = min(_TIMEOUT, max(1e-3, patience.left))
        return _compiled(expression).match(name, timeout=limit) is not None
    except (TimeoutError, regex.error, OverflowError, RecursionError, MemoryError) as error:
        raise AdapterFileError(
            f"the expression {expression[:80]!r} of a rank_pattern or alpha_pattern cannot be "
            f"matched with {name[:80]!r} in reasonable time; write it without nested repetitions"
        ) from error
    finally:
        patience.left -= time.thread_time() - start


@cache
def _compiled(expression: str) -> "regex.Pattern[str]":
    # A brace that opens no count is itself to `re`, but may be a fuzzy match to `regex`.
    plain = re.sub(r"(?<!\\)(?<!\\N)\{(?!\d*,?\d*\})", r"\{", expression)
    return regex.compile(_whole(plain))


def _whole(expression: str) -> str:
    # The groups are PEFT's, since an expression may refer back to its own by number.
    return rf"(.*\.)?({expression})$"
