"""Which tensors of a file are pairs of factors, and which are carried over as they are."""

import math
import re
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from prunedlora.errors import AdapterFileError, UnsupportedAdapterError
from prunedlora.files.header import Header
from prunedlora.files.spellings import PEFT, SPELLINGS, Spelling

PREFIX = "base_model.model."
#: Tensors that make their module something other than W + s B A, so that its factors cannot be
#: lowered by themselves.
_REASONS = (
    (r"lora_magnitude_vector|dora_scale", "DoRA, whose columns are rescaled as a whole"),
    (r"lora_(B|up)(\.[^.]+)?\.bias$", "a bias of B (lora_bias)"),
    (r"\.lora_E(\.[^.]+)?$", "AdaLoRA's diagonal, without the configuration that goes with it"),
)
#: Tensors by which another method changes a module; they may have an alpha of their own.
_OTHER_METHODS = (
    r"\.(hada_[wt]\w+|lokr_[wt]\w+|oft_\w+|boft_\w+|a[12]\.weight|b[12]\.weight|on_input"
    r"|diff|diff_b|diff_m|set_weight|reshape_weight|w_norm|b_norm)$"
)
#: Names of factors in whatever spelling; one that is in no pair would be read by nobody, or by a
#: reader that puts another meaning on it.
_FACTORS = r"[._]lora_(embedding_)?([ABab]|up|down|mid)([._]|$)"
#: What PEFT calls a wrapped module in the one around it.
_WRAPPED = ".base_layer"
#: Names by which a tensor beside a pair could be a factor before its product.
_SCALES = r"alpha|scale|scaling|scalar|multiplier|scale_weight|weight_scale"


@dataclass(frozen=True)
class KeyPair:
    """Names of one module's tensors.

    Attributes:
        name: of the module; see `prunedlora.files.spellings.Spelling.name`.
        B: left factor.
        A: right factor.
        alpha: the tensor that holds its alpha; None where the file has none.
        mid: middle factor; None where there is none.
        diagonal: AdaLoRA's, between B and A; None where there is none.
        spelling: how the names are made.
        written: names of B and A in a new file.
        alpha_name: name of its alpha in a new file.
    """

    name: str
    B: str
    A: str
    alpha: str | None
    mid: str | None
    diagonal: str | None
    spelling: Spelling
    written: tuple[str, str]
    alpha_name: str


def find_pairs(header: Header, file: Path, *, peft: bool = False) -> list[KeyPair]:
    """The pairs of factors in a file, sorted by module.

    Args:
        header: of the file.
        file: for messages.
        peft: whether PEFT reads the file, with a configuration; it wants no adapter in the names.

    Raises:
        AdapterFileError: none, a factor without its other half, or a module with several pairs.
        UnsupportedAdapterError: none, but the tensors of another method.
    """
    pairs: dict[str, KeyPair] = {}
    for key in sorted(header.tensors):
        for pair in _pairs_of(key, header, file, peft):
            if pair.name in pairs:
                raise AdapterFileError(
                    f"{file} holds two pairs of factors for {pair.name} ({pairs[pair.name].A} and "
                    f"{pair.A}); save each adapter to a file of its own"
                )
            pairs[pair.name] = pair
    if not pairs:
        _refuse_variants(header.tensors, file)
        other = next((key for key in header.tensors if re.search(_OTHER_METHODS, key)), None)
        if other is not None:
            raise UnsupportedAdapterError(
                f"{file}: {other} is not LoRA (but LoHa, LoKr, OFT, IA3 or a full difference), and "
                "there are no LoRA factors beside it; make LoRA of LoHa, LoKr and differences by "
                "`prunedlora extract`, of others by PEFT's convert_to_lora"
            )
        raise AdapterFileError(
            f"{file} holds no LoRA factors (such as lora_A and lora_B, or lora_down and lora_up)"
        )
    return [pairs[name] for name in sorted(pairs)]


def of_parameters(
    pairs: list[KeyPair], targets: Iterable[str], unlike: Container[str]
) -> list[KeyPair]:
    """The pairs that adapt bare parameters (``target_parameters``), such as those of fused experts.

    Args:
        pairs: of the file.
        targets: paths of the parameters, or their ends.
        unlike: names of modules whose tensors have another rank than their configuration says:
            fused experts have that for each expert.
    """
    ends = {target.rpartition(".")[0] for target in targets}
    names = {pair.name for pair in pairs}
    out = []
    for pair in pairs:
        module = pair.name
        while module.endswith(_WRAPPED):  # several parameters of one module
            module = module.removesuffix(_WRAPPED)
        by_path = any(end and f".{module}".endswith(f".{end}") for end in ends)
        nested = module != pair.name or module + _WRAPPED in names
        if ends and (by_path or nested or pair.name in unlike):
            out.append(pair)
    return out


def _pairs_of(key: str, header: Header, file: Path, peft: bool) -> Iterator[KeyPair]:
    """The pair that this tensor is the A of, if it is one."""
    for spelling in SPELLINGS:
        # A pair is made at its A; at its B, only that there is an A.
        parts = spelling.match_other(key)
        if parts is not None and not spelling.alone:
            _check_half(key, spelling.A.format(**parts), header, file)
        parts = spelling.match(key)
        if parts is None:
            continue
        other = spelling.B.format(**parts)
        if spelling.alone and other not in header.tensors:
            continue
        _check_half(key, other, header, file)
        alpha = spelling.alpha.format(**parts)
        mid = spelling.mid.format(**parts) if spelling.mid else None
        diagonal = spelling.diagonal.format(**parts) if spelling.diagonal and peft else None
        diagonal = diagonal if diagonal in header.tensors else None
        # PEFT puts the adapter's name into names itself, and finds none that have it already; and
        # AdaLoRA becomes plain LoRA.
        new = PEFT if peft and ("adapter" in parts or diagonal) else spelling
        yield KeyPair(
            spelling.name(parts).removeprefix(PREFIX),
            other,
            key,
            alpha if alpha in header.tensors else None,
            mid if mid in header.tensors else None,
            diagonal,
            spelling,
            (new.B.format(**parts), new.A.format(**parts)),
            alpha,
        )


def _check_half(key: str, other: str, header: Header, file: Path) -> None:
    if other not in header.tensors:
        raise AdapterFileError(f"{file}: {key} lacks its other half, {other}")


def find_others(
    header: Header, pairs: list[KeyPair], file: Path, *, peft: bool = False
) -> tuple[str, ...]:
    """Names of the tensors that are no factors and keep their meaning when ranks change.

    Args:
        header: of the file.
        pairs: its pairs of factors.
        file: for messages.
        peft: whether PEFT reads the file, with a configuration.

    Raises:
        UnsupportedAdapterError: a tensor of a variant of LoRA.
        AdapterFileError: an alpha that is not a single number or that belongs to no module, one
            beside a configuration, a factor in an unknown spelling, or a name that PEFT does not
            know.
    """
    used = {key for pair in pairs for key in (pair.A, pair.B, pair.alpha, pair.mid, pair.diagonal)}
    others = tuple(sorted(header.tensors.keys() - used))
    _refuse_variants(others, file)
    _refuse_scales(others, pairs, file)
    for key in others:
        if re.search(_FACTORS, key):
            raise AdapterFileError(
                f"{file}: {key} looks like a factor, but in no spelling that is known (they stand in "
                "prunedlora/files/spellings.py); rename the tensors of its module"
            )
    for pair in pairs:
        if pair.alpha and math.prod(header.tensors[pair.alpha].shape) != 1:
            raise AdapterFileError(f"{file}: {pair.alpha} must be a single number")
        if pair.alpha and peft:
            raise AdapterFileError(
                f"{file}: {pair.alpha} would be a second scaling beside that of the configuration, "
                "which PEFT does not read; save the adapter with PEFT's save_pretrained"
            )
    if peft:
        for key in [*others, *(pair.A for pair in pairs)]:
            if not key.startswith(PREFIX):
                raise AdapterFileError(
                    f"{file}: {key} does not start with {PREFIX!r}, but others do, so that PEFT "
                    "would not load it; save the adapter with PEFT's save_pretrained"
                )
    return others


def _refuse_variants(keys: Iterable[str], file: Path) -> None:
    for key in keys:
        for pattern, reason in _REASONS:
            if re.search(pattern, key):
                raise UnsupportedAdapterError(
                    f"{file}: {key} is {reason}; only plain LoRA is supported"
                )


def _refuse_scales(others: tuple[str, ...], pairs: list[KeyPair], file: Path) -> None:
    """Refuse what would be a scaling in a place where it is not read."""
    methods = {re.sub(_OTHER_METHODS, "", key) for key in others if re.search(_OTHER_METHODS, key)}
    stems = {_stem(pair) for pair in pairs}
    for key in others:
        stem, _, end = key.rpartition(".")
        if not re.fullmatch(_SCALES, end) or (stem in methods and stem not in stems):
            continue
        # "x.lora_A.scale" and "x_lora.alpha" are about x as much as "x.scale" is.
        near = stem in stems or _stem_of_factor(stem) in stems
        if end == "alpha" or near:
            raise AdapterFileError(
                f"{file}: {key} looks like a scaling, but no reader of such files takes one from "
                "there; multiply the factors by it, or write it where it is read, as "
                f"{pairs[0].alpha_name if pairs else '<module>.alpha'} is"
            )


def _stem(pair: KeyPair) -> str:
    return pair.alpha_name.removesuffix(".alpha")


def _stem_of_factor(stem: str) -> str:
    return re.sub(r"[._]lora(_[A-Za-z_]+)?\d*(\.[^.]+)*$", "", stem)
