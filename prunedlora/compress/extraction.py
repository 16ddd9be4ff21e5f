"""Adapters of other methods, and whole differences of weights, as LoRA."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prunedlora.compress.compression import compress_opened
from prunedlora.compress.config import CompressConfig
from prunedlora.compress.model_weights import model_weights, read_weight
from prunedlora.compress.report import CompressReport
from prunedlora.errors import AdapterFileError, ConfigurationError, UnsupportedAdapterError
from prunedlora.factors import Factors
from prunedlora.files.adapter_config import AdapterConfig, of_lycoris, read_entries
from prunedlora.files.adapter_file import (
    CONFIG,
    DTYPES,
    WEIGHTS,
    AdapterFile,
    AdapterModule,
    check_range,
    finite,
    locate,
    open_adapter,
)
from prunedlora.files.header import Header, TensorEntry, opened, read_header
from prunedlora.files.scalings import DIFFUSERS, check_rank, scaling_of
from prunedlora.files.spellings import KOHYA, PEFT, SPELLINGS, Spelling
from prunedlora.files.tensor_names import PREFIX, KeyPair, find_others

#: The tensors of LoHa and LoKr; those in brackets in LyCORIS' documents are not always there.
_LOHA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
_LOHA_ALL = (*_LOHA, "hada_t1", "hada_t2")
_LOKR = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
#: Names of weights that are looked up rather than multiplied, of which PEFT's adapters differ.
_LOOKED_UP = ("embed", "wte", "wpe")

Matrix = Float[Tensor, "a b"]


@dataclass(frozen=True)
class ExtractedFile(AdapterFile):
    """Changes of weights by other means than two factors, as if they were factors.

    Attributes:
        reading: for each such module what reads its factors.
        lora: the pairs of factors in the same file, if there are any.
    """

    reading: Mapping[str, Callable[[], Factors]] | None = None
    lora: AdapterFile | None = None

    def factors(self) -> Iterator[tuple[AdapterModule, Factors]]:
        """Each module with factors of its change, in float64, read when asked for.

        Raises:
            NonFiniteError: see `AdapterFile.factors`.
            AdapterFileError: tensors of a module that do not fit each other.
        """
        if self.lora is not None:
            yield from self.lora.factors()
        for module in self.modules:
            if self.reading is not None and module.name in self.reading:
                factors = self.reading[module.name]()
                check_range(module, factors)
                yield module, factors


def extract_adapter(
    source: str | Path, out: str | Path, config: CompressConfig, minus: str | Path | None = None
) -> CompressReport:
    """Write LoHa, LoKr, full differences, or the difference of two models as LoRA: the best of its rank.

    LoHa and LoKr are read as the factors that their products have, so that they are compressed as LoRA
    is; of differences a singular value decomposition is taken in full.

    Args:
        source: a safetensors file with LoHa, LoKr or ``.diff`` tensors, LoRA beside them or not; a PEFT
            folder of LoHa or LoKr, of linear layers; either of them here or on the hub, see
            `prunedlora.files.adapter_file.open_adapter`; with `minus` a tuned model, a safetensors file
            or a folder as transformers writes it.
        out: a new ``.safetensors`` file, with the names of sd-scripts; of a folder, or with `minus`, a
            new PEFT folder.
        config: how far and how; no data.  Modules whose weights do not differ are left out.
        minus: the model that was tuned.

    Raises:
        AdapterFileError: nothing to extract, tensors that do not fit each other, or a damaged file.
        UnsupportedAdapterError: a folder of another method, or of convolutions.
        ConfigurationError: data.
        Whatever else `prunedlora.compress_adapter` raises.

    >>> import tempfile
    >>> from safetensors.torch import save_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "x.safetensors"
    ...     save_file({"x.diff": torch.ones(3, 4)}, file)
    ...     extract_adapter(file, Path(folder) / "y.safetensors", CompressConfig(rank=1)).ranks
    {'x': 1}
    """
    if config.data is not None:
        raise ConfigurationError("extraction takes no data; compress what was extracted with data")
    if minus is None:
        file, config_file = locate(source)
        if file.name == WEIGHTS and config_file is not None:
            opened_source = _of_folder(source, file, config_file)
        else:
            opened_source = _of_methods(file)
    else:
        opened_source = _of_models(str(source), str(minus))
        config = replace(config, zero_modules="exclude")
    return compress_opened(opened_source, Path(out), config)


def _of_methods(file: Path) -> ExtractedFile:
    """A file of LoHa, LoKr and differences, with what else it holds."""
    header = read_header(file)
    parts = _stems(header)
    if not parts:
        raise AdapterFileError(
            f"{file} holds no LoHa, LoKr or full differences; LoRA itself is compressed by "
            "`prunedlora compress`, and of a model name with `minus` the one that was tuned"
        )
    used = {f"{stem}.{end}" for stem, ends in parts.items() for end in (*ends, "alpha")}
    rest = Header(
        {key: entry for key, entry in header.tensors.items() if key not in used},
        header.metadata,
        header.file_size,
    )
    lora = None
    if any(
        spelling.match(key) and not spelling.alone for spelling in SPELLINGS for key in rest.tensors
    ):
        lora = open_adapter(file)
    else:
        header = _without_ranks(header)
    others = find_others(rest, [], file) if lora is None else lora.others
    reading: dict[str, Callable[[], Factors]] = {}
    modules = []
    for stem, ends in sorted(parts.items()):
        read = partial(_of_method, file, stem, ends)
        modules.append(_module(stem, header.tensors[f"{stem}.{ends[0]}"], KOHYA, "", read()))
        reading[stem] = read
    own = lora.modules if lora else ()
    twice = {module.name for module in own} & reading.keys()
    if twice:
        raise AdapterFileError(
            f"{file} changes {min(twice)} in two ways, of which readers take one"
        )
    return ExtractedFile(
        str(file),
        file,
        header,
        None,
        (*own, *modules),
        tuple(key for key in others if key not in used),
        lora.components if lora else (),
        lora.remarks if lora else (),
        (),
        reading,
        lora,
    )


def _of_folder(source: str | Path, file: Path, config_file: Path) -> ExtractedFile:
    """A PEFT folder of LoHa or LoKr, with what else it holds."""
    config = of_lycoris(read_entries(config_file), str(config_file))
    header = _without_ranks(read_header(file))
    parts = _stems(header)
    if not parts:
        raise AdapterFileError(f"{file} holds no LoHa or LoKr, but {config_file.name} says so")
    used = {f"{stem}.{end}" for stem, ends in parts.items() for end in ends}
    rest = {key: entry for key, entry in header.tensors.items() if key not in used}
    others = find_others(Header(rest, {}, header.file_size), [], file, peft=True)
    reading: dict[str, Callable[[], Factors]] = {}
    modules = []
    for stem, ends in sorted(parts.items()):
        name = stem.removeprefix(PREFIX)
        kernels = [e for e in ends if len(header.tensors[f"{stem}.{e}"].shape) != 2]
        if "diff" in ends or name == stem:
            raise AdapterFileError(
                f"{file}: {stem}.{ends[0]} is not a tensor of PEFT's LoHa or LoKr, whose names start "
                f"with {PREFIX!r}; save the adapter with PEFT's save_pretrained"
            )
        if kernels:
            raise UnsupportedAdapterError(
                f"{file}: {stem}.{kernels[0]} is of a convolution, whose kernel the file does not "
                "tell; use PEFT's convert_to_lora with the base model"
            )
        read = partial(_of_method, file, stem, ends, (config.scaling(name), config.rank(name)))
        modules.append(_module(name, header.tensors[f"{stem}.{ends[0]}"], PEFT, PREFIX, read()))
        reading[name] = read
    modules.sort(key=lambda module: module.name)
    return ExtractedFile(str(source), file, header, config, tuple(modules), others, reading=reading)


def _without_ranks(header: Header) -> Header:
    """A header that says no ranks and scalings of LoRA, where there is none in the file."""
    metadata = {key: text for key, text in header.metadata.items() if key != DIFFUSERS}
    return replace(header, metadata=metadata)


def _stems(header: Header) -> dict[str, tuple[str, ...]]:
    """The modules that other methods change, with the ends of their tensors' names."""
    found: dict[str, list[str]] = {}
    for key, entry in sorted(header.tensors.items()):
        stem, _, end = key.rpartition(".")
        if end in (*_LOHA_ALL, *_LOKR) or (end == "diff" and len(entry.shape) >= 2):
            found.setdefault(stem, []).append(end)
    return {stem: tuple(ends) for stem, ends in found.items()}


def _of_method(
    file: Path, stem: str, ends: tuple[str, ...], told: tuple[float, int] | None = None
) -> Factors:
    """Factors of a module's change, the scaling in B.

    Args:
        file: that holds it.
        stem: what its tensors' names begin with.
        ends: and how they end.
        told: scaling and rank by the configuration; without one the scaling is that of its alpha.
    """
    with opened(file) as tensors:
        names = set(tensors.keys())
        kept = {end: tensors.get_tensor(f"{stem}.{end}") for end in ends}
        own = {end: finite(tensor, stem).double() for end, tensor in kept.items()}
        alpha = None
        if told is None and f"{stem}.alpha" in names:
            stored = finite(tensors.get_tensor(f"{stem}.alpha"), stem)
            if stored.numel() != 1:
                raise AdapterFileError(f"{file}: {stem}.alpha must be a single number")
            alpha = float(stored)
    integers = [end for end, tensor in kept.items() if not tensor.is_floating_point()]
    if integers:
        raise AdapterFileError(
            f"{file}: {stem}.{integers[0]} is stored as {kept[integers[0]].dtype}; store it as one of "
            f"{', '.join(DTYPES)}"
        )
    try:
        if 0 in [size for tensor in own.values() for size in tensor.shape]:
            raise ValueError("empty")
        if ends == ("diff",):
            return _whole(own["diff"].flatten(1))
        factors, rank = _loha(own) if "hada_w1_a" in own else _lokr(own)
    except (KeyError, RuntimeError, IndexError, ValueError) as error:
        raise AdapterFileError(
            f"{file}: the tensors of {stem} ({', '.join(ends)}) do not fit each other or are not all "
            "there"
        ) from error
    scaling = 1.0
    if told is not None:
        scaling = told[0]
        if rank is not None:
            check_rank(stem, rank, told[1], CONFIG, str(file))
    elif rank is not None:
        scaling = scaling_of(stem, rank, alpha, None, str(file))
    return Factors(scaling * factors.B, factors.A)


def _loha(own: Mapping[str, Tensor]) -> tuple[Factors, int]:
    r"""Factors of :math:`(P Q) \odot (R S)`, whose columns are the products of columns, and the rank."""
    P, Q, R, S = (own[end] for end in _LOHA)
    is_kernel = "hada_t1" in own or "hada_t2" in own
    _check(own.keys() == set(_LOHA_ALL if is_kernel else _LOHA))
    # Both products have one shape and one rank; torch would make them fit where one has the size 1.
    _check(P.shape == R.shape and Q.shape == S.shape)
    if is_kernel:
        left, right = _tucker(own["hada_t1"], P, Q), _tucker(own["hada_t2"], R, S)
        _check(left.shape == right.shape)
        return _whole((left * right).flatten(1)), Q.shape[0]
    _check(P.dim() == Q.dim() == 2 and P.shape[1] == Q.shape[0])
    if Q.shape[0] * S.shape[0] >= min(P.shape[0], Q.shape[1]):
        return _whole((P @ Q) * (R @ S)), Q.shape[0]
    B = torch.einsum("oi,oj->oij", P, R).flatten(1)
    A = torch.einsum("in,jn->ijn", Q, S).flatten(0, 1)
    return Factors(B, A), Q.shape[0]


def _lokr(own: Mapping[str, Tensor]) -> tuple[Factors, int | None]:
    """Factors of a Kronecker product, which are those of its factors, and the rank; None without one."""
    rank = None
    sides = []
    used: set[str] = set()
    for side in ("lokr_w1", "lokr_w2"):
        if side in own:
            used.add(side)
            _check(own[side].dim() == 2 or side == "lokr_w2")
            sides.append(_whole(own[side].flatten(1)))
            continue
        left, right = own[f"{side}_a"], own[f"{side}_b"]
        used |= {f"{side}_a", f"{side}_b"}
        rank = right.shape[0]
        if side == "lokr_w2" and "lokr_t2" in own:
            used.add("lokr_t2")
            sides.append(_whole(_tucker(own["lokr_t2"], left, right).flatten(1)))
        else:
            _check(left.dim() == 2 and left.shape[1] == right.shape[0])
            _check(right.dim() == 2 or side == "lokr_w2")
            sides.append(Factors(left, right.flatten(1)))
    _check(own.keys() == used)  # what is left over would be lost
    first, second = sides
    return Factors(torch.kron(first.B, second.B), torch.kron(first.A, second.A)), rank


def _check(fits: bool) -> None:
    if not fits:
        raise ValueError("the tensors do not fit each other")


def _tucker(core: Tensor, left: Tensor, right: Tensor) -> Float[Tensor, "p r ..."]:
    """A kernel in three factors, (i, j, ...), (i, p) and (j, r); whatever else does not fit."""
    _check(core.shape[:2] == (left.shape[0], right.shape[0]) and left.dim() == right.dim() == 2)
    return torch.einsum("ij...,jr,ip->pr...", core, right, left)


def _whole(change: Matrix) -> Factors:
    """Factors of a matrix: itself and the identity."""
    d_out, d_in = change.shape
    if d_out < d_in:
        return Factors(torch.eye(d_out, dtype=change.dtype), change)
    return Factors(change, torch.eye(d_in, dtype=change.dtype))


def _module(
    name: str, stored: TensorEntry, spelling: Spelling, prefix: str, factors: Factors
) -> AdapterModule:
    """A module of which the factors are these; of a difference it has the kernel."""
    if stored.dtype not in DTYPES:
        raise AdapterFileError(
            f"{name} is stored as {stored.dtype}, which is none of {', '.join(DTYPES)}"
        )
    d_out, rank, d_in = factors.B.shape[0], factors.rank, factors.A.shape[1]
    kernel = stored.shape[2:] if stored.shape[:1] == (d_out,) else ()
    fits = len(kernel) > 0 and torch.Size(stored.shape[1:]).numel() == d_in
    parts = {"module": prefix + name}
    names = (spelling.B.format(**parts), spelling.A.format(**parts))
    alpha = spelling.alpha.format(**parts)
    return AdapterModule(
        name,
        KeyPair(name, *names, None, None, None, spelling, names, alpha),
        1.0,
        rank,
        (d_out, rank, *(1 for _ in kernel)) if fits else (d_out, rank),
        (rank, *stored.shape[1:]) if fits else (rank, d_in),
        DTYPES[stored.dtype],
        DTYPES[stored.dtype],
        stored.nbytes,
    )


def _of_models(tuned: str, base: str) -> ExtractedFile:
    """The difference of two models' weights, those of linear layers."""
    new, old = model_weights(tuned), model_weights(base)
    reading: dict[str, Callable[[], Factors]] = {}
    modules = []
    left_out = []
    for key, (file, entry) in sorted(new.items()):
        linear = key.endswith(".weight") and len(entry.shape) == 2 and 0 not in entry.shape
        alike = key in old and old[key][1].shape == entry.shape and entry.dtype in DTYPES
        if not (linear and alike) or any(word in key for word in _LOOKED_UP):
            if key not in old or not alike or not _equal(file, old[key][0], key):
                left_out.append(key)
            continue
        name = key.removesuffix(".weight")
        rank = min(entry.shape)
        with torch.device("meta"):  # for its shape
            nothing = Factors(torch.empty(entry.shape[0], rank), torch.empty(rank, entry.shape[1]))
        modules.append(_module(name, entry, PEFT, PREFIX, nothing))
        reading[name] = partial(_difference, file, old[key][0], key)
    if not modules:
        raise AdapterFileError(
            f"{tuned} and {base} have no weights of linear layers with the same names and shapes"
        )
    raw: dict[str, Any] = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "target_modules": [module.name for module in modules],
        "bias": "none",
        "lora_dropout": 0.0,
        "inference_mode": True,
    }
    size = sum(module.nbytes for module in modules)
    header = Header({f"{m.name}.weight": new[f"{m.name}.weight"][1] for m in modules}, {}, size)
    remarks = []
    if left_out:
        remarks.append(
            f"{len(left_out)} other tensors differ and are not in the adapter: "
            f"{', '.join(left_out[:5])}{', ...' if len(left_out) > 5 else ''}"
        )
    first = new[f"{modules[0].name}.weight"][0]
    return ExtractedFile(
        f"{tuned} - {base}",
        first,
        header,
        AdapterConfig(raw, 8, 8.0, rslora=False),
        tuple(modules),
        (),
        (),
        tuple(remarks),
        (),
        reading,
    )


def _equal(one: Path, other: Path, key: str) -> bool:
    a, b = read_weight(one, key), read_weight(other, key)
    return torch.equal(a, b.to(a.dtype))


def _difference(tuned: Path, base: Path, key: str) -> Factors:
    new, old = (finite(read_weight(file, key), key).double() for file in (tuned, base))
    return _whole(new - old)
