"""Weighted sums of adapters, as if they were one adapter whose components are those of all."""

import heapq
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunedlora.adapters.initialisation import is_from_base
from prunedlora.errors import AdapterFileError, ConfigurationError, UnsupportedAdapterError
from prunedlora.factors import Factors
from prunedlora.files.adapter_config import AdapterConfig
from prunedlora.files.adapter_file import CONFIG, AdapterFile, AdapterModule, open_adapter
from prunedlora.files.header import Header
from prunedlora.files.scalings import component_of

#: Entries of a configuration that say which modules are adapted, beside target_modules.
_CHOICES = ("exclude_modules", "layers_to_transform", "layers_pattern")


@dataclass(frozen=True)
class MergedFile(AdapterFile):
    """The weighted sum of adapters as one, whose components are those of all of them.

    Attributes:
        parts: the adapters, each with its weight.
    """

    parts: tuple[tuple[AdapterFile, float], ...] = ()

    def factors(self) -> Iterator[tuple[AdapterModule, Factors]]:
        """Each module with the factors of all parts side by side, in float64, read when asked for.

        Raises:
            NonFiniteError: see `AdapterFile.factors`.
        """
        own = {module.name: module for module in self.modules}
        streams = [_weighted(part, weight) for part, weight in self.parts]
        # All files are in the order of the modules' names, so only one of each is held.
        together = groupby(heapq.merge(*streams, key=itemgetter(0)), key=itemgetter(0))
        for name, group in together:
            factors = [item[1] for item in group]
            B = torch.cat([f.B for f in factors], dim=1)
            A = torch.cat([f.A for f in factors])
            yield own[name], Factors(B, A)


def difference(adapter: str | Path, initial: str | Path) -> MergedFile:
    """What training added to an adapter whose initialisation took its own start from the base model.

    PiSSA, OLoRA, CorDA and LoRA-GA begin with factors that are not zero, and take their product from
    the base model's weight, so that training begins at the weight as it was.  On that weight the
    trained adapter adds ``s (B A - B0 A0)``, of which ``[B, -B0]`` and ``[A; A0]`` are factors.

    Args:
        adapter: the trained one, see `prunedlora.files.adapter_file.open_adapter`.
        initial: the same one as it was before training.

    Where neither says that it began in the base model, a remark says so: of two stages of plain LoRA this is what the
    second added, and no more.

    Raises:
        UnsupportedAdapterError: another initialisation, such as LoftQ, which took another amount.
        ConfigurationError: the two are one, or of other formats, base models, modules or scalings.
        AdapterFileError: modules of other shapes.
    """
    files = [open_adapter(source, from_base=True) for source in (adapter, initial)]
    trained, first = files
    if trained.file.resolve() == first.file.resolve():
        raise ConfigurationError(
            f"initial={str(initial)!r} is the adapter itself; name it as it was before training"
        )
    _check_alike(files)
    starts = {module.name: module for module in first.modules}
    for module in trained.modules:
        start = starts.pop(module.name, None)
        # What was taken from the base model has the scaling of the start.
        if start is None or not math.isclose(start.scaling, module.scaling, rel_tol=1e-6):
            raise ConfigurationError(
                f"{module.name} is not the same module, with one scaling, in {trained.source} and "
                f"{first.source}; name the adapter as it was before its training as initial"
            )
    if starts:
        raise ConfigurationError(
            f"{min(starts)} is in {first.source} only; name the adapter as it was before its training"
        )
    source = _summed(files, [1.0, -1.0], trained.source)
    remarks = [
        f"this is what training added to {first.source}; ranks before are those of both adapters together"
    ]
    if not any(map(_began_in_base, files)):
        remarks.append(
            "neither adapter says that it began in the base model (init_lora_weights); if this is plain LoRA, leave "
            "the initial adapter out"
        )
    return replace(
        source,
        remarks=(*source.remarks, *remarks),
        # What there was before, for a report of sizes, is the trained one.
        header=replace(source.header, file_size=trained.header.file_size),
    )


def _began_in_base(file: AdapterFile) -> bool:
    """Whether a folder's configuration, as it stands there, says so; a file alone says nothing."""
    if file.config is None:
        return False
    raw = json.loads((file.file.parent / CONFIG).read_text(encoding="utf-8"))
    return is_from_base(raw.get("init_lora_weights"))


def merged(adapters: Sequence[str | Path], weights: Sequence[float]) -> MergedFile:
    """The weighted sum of adapters; see `prunedlora.merge_adapters`.

    Raises:
        ConfigurationError, AdapterFileError, UnsupportedAdapterError: see there.
    """
    files = [open_adapter(adapter) for adapter in adapters]
    _check_alike(files)
    _check_carried(files)
    told = " + ".join(f"{w:g} * {file.source}" for w, file in zip(weights, files, strict=True))
    return _summed(files, weights, told)


def _weighted(part: AdapterFile, weight: float) -> Iterator[tuple[str, Factors]]:
    for module, factors in part.factors():
        B = weight * module.scaling * factors.B.double()
        yield module.name, Factors(B, factors.A.double())


def _summed(files: list[AdapterFile], weights: Sequence[float], source: str) -> MergedFile:
    first = files[0]
    names = sorted({module.name for file in files for module in file.modules})
    modules = tuple(_module(name, files) for name in names)
    header = Header(
        {key: entry for file in reversed(files) for key, entry in file.header.tensors.items()},
        first.header.metadata,
        sum(file.header.file_size for file in files),
    )
    return MergedFile(
        source,
        first.file,
        header,
        _config(files, names),
        modules,
        first.others,
        first.components,
        tuple(remark for file in files for remark in file.remarks),
        (),
        tuple(zip(files, weights, strict=True)),
    )


def _check_alike(files: list[AdapterFile]) -> None:
    """Refuse adapters of other formats, of other base models, or with no module in common."""
    first = files[0]
    own = {module.name for module in first.modules}
    for file in files[1:]:
        if (file.config is None) != (first.config is None):
            raise ConfigurationError(
                f"{first.source} and {file.source} are a PEFT folder and a file alone; take both in "
                "one format"
            )
        if not own & {module.name for module in file.modules}:
            raise ConfigurationError(
                f"{first.source} and {file.source} have no module in common; take adapters of one "
                "base model, in one spelling"
            )
    bases = {
        str(file.config.raw.get("base_model_name_or_path")) for file in files if file.config
    } - {"None", ""}
    if len(bases) > 1:
        raise ConfigurationError(
            f"the adapters are of other base models ({', '.join(sorted(bases))}); if these are one, "
            "give base_model_name_or_path one spelling in their adapter_config.json"
        )
    if any(file.config and file.config.raw.get("target_parameters") for file in files):
        raise UnsupportedAdapterError(
            "adapters of bare parameters (target_parameters) cannot be added up or subtracted here"
        )


def _check_carried(files: list[AdapterFile]) -> None:
    """Refuse tensors beside the factors, unless all adapters have the same."""
    if not any(file.others for file in files):
        return
    first: dict[str, Tensor] = files[0].carried()
    for file in files[1:]:
        other = file.carried()
        unlike = [key for key in {*first, *other} if not _same(first.get(key), other.get(key))]
        if unlike:
            raise UnsupportedAdapterError(
                f"{min(unlike)} is not the same in {files[0].source} and {file.source}, and is no "
                "product that could be merged; take such tensors out of the files first"
            )


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and a.dtype == b.dtype and torch.equal(a, b)


def _module(name: str, files: list[AdapterFile]) -> AdapterModule:
    """A module of the sum."""
    parts = [module for file in files for module in file.modules if module.name == name]
    first = parts[0]
    rank = sum(module.rank for module in parts)
    for part in parts[1:]:
        if _outer(part) != _outer(first):
            raise AdapterFileError(
                f"{name} has the shapes {_outer(first)} and {_outer(part)} in two of the adapters; "
                "they are not of one base model"
            )
    return replace(
        first,
        scaling=1.0,
        rank=rank,
        shape_B=(first.shape_B[0], rank, *first.shape_B[2:]),
        shape_A=(rank, *first.shape_A[1:]),
        dtype_B=_widest({module.dtype_B for module in parts}),
        dtype_A=_widest({module.dtype_A for module in parts}),
        nbytes=sum(module.nbytes for module in parts),
        component=component_of(name, files[0].components),
    )


def _widest(dtypes: set[torch.dtype]) -> torch.dtype:
    """The dtype that holds the numbers of all: the longest, or float32 where two are as long."""
    size = max(dtype.itemsize for dtype in dtypes)
    longest = {dtype for dtype in dtypes if dtype.itemsize == size}
    # Of two of one size, such as float16 and bfloat16, neither holds the other's numbers.
    return longest.pop() if len(longest) == 1 else torch.float32


def _outer(module: AdapterModule) -> tuple[int, ...]:
    """Its dimensions but for the rank: outputs, inputs, kernel."""
    return (module.shape_B[0], *module.shape_A[1:])


def _config(files: list[AdapterFile], names: list[str]) -> AdapterConfig | None:
    """The first one's configuration, for the modules of all."""
    config = files[0].config
    if config is None or names == [module.name for module in files[0].modules]:
        return config
    raw: dict[str, Any] = {k: v for k, v in config.raw.items() if k not in _CHOICES}
    return replace(config, raw=raw | {"target_modules": names})
