"""Reading a trained adapter from its file, one module at a time; nothing in it is trusted."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prunedlora.errors import (
    AdapterFileError,
    NonFiniteError,
    PrunedLoRAError,
    UnsupportedAdapterError,
)
from prunedlora.factors import Factors
from prunedlora.files.adapter_config import AdapterConfig, read_config
from prunedlora.files.header import Header, TensorEntry, opened, read_header, refuse_pickle
from prunedlora.files.scalings import (
    Component,
    check_components,
    check_rank,
    component_of,
    read_components,
    refuse_unread,
    scaling_of,
)
from prunedlora.files.tensor_names import PREFIX, KeyPair, find_others, find_pairs, of_parameters
from prunedlora.linalg.numerics import is_finite

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
#: Largest and, inverted, smallest magnitude of factors and of their product of which squares can be
#: told in float64; whatever float32 can hold is far within it.
_RANGE = 1e140


@dataclass(frozen=True)
class AdapterModule:
    """One adapted module of a file.

    Attributes:
        name: its path in the base model; in files without a configuration, what precedes the
            factors' names.
        keys: names of its tensors.
        scaling: the factor s in ``W = W0 + s B A``.
        rank: components that the tensors hold.
        shape_B: as stored: (d_out, r), with ones behind for a convolution.
        shape_A: (r, d_in), (r, d_in, height, width) for a convolution; with a middle factor, that
            of its product with A.
        dtype_B: in which B is stored.
        dtype_A: in which A is stored.
        nbytes: of all its factors.
        component: what the header says of the part of a pipeline that it belongs to; None where a
            configuration or alpha tensors say the scaling.
    """

    name: str
    keys: KeyPair
    scaling: float
    rank: int
    shape_B: tuple[int, ...]
    shape_A: tuple[int, ...]
    dtype_B: torch.dtype
    dtype_A: torch.dtype
    nbytes: int
    component: Component | None = None

    @property
    def full_rank(self) -> int:
        """The largest rank that its product can have."""
        return min(self.rank, self.shape_B[0], math.prod(self.shape_A[1:]))

    @property
    def is_convolution(self) -> bool:
        """Whether it has a kernel of more than one pixel."""
        return math.prod(self.shape_A[2:]) > 1

    @property
    def size(self) -> int:
        """Parameters of one component, d_out + d_in."""
        return self.shape_B[0] + math.prod(self.shape_A[1:])


@dataclass(frozen=True)
class AdapterFile:
    """A checked adapter; its tensors stay in the file until asked for.

    Attributes:
        source: what the user named.
        file: the safetensors file.
        header: its checked header.
        config: the PEFT configuration; None for a file alone, as diffusion tools write them.
        modules: the adapted modules, sorted by name.
        others: names of tensors that are carried over unchanged.
        components: what the header says of parts of a pipeline, as diffusers writes it.
        remarks: what its user should know, sentences.
        empty: names of modules without a single component.
    """

    source: str
    file: Path
    header: Header
    config: AdapterConfig | None
    modules: tuple[AdapterModule, ...]
    others: tuple[str, ...]
    components: tuple[Component, ...] = ()
    remarks: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()

    def factors(self) -> Iterator[tuple[AdapterModule, Factors]]:
        """Each module with its factors as matrices in at least float32, read when asked for.

        The kernel of a convolution is flattened into d_in, and a middle factor is multiplied into A.
        Only one module's tensors are held at a time.

        Raises:
            NonFiniteError: NaN or infinity in a factor, or numbers so large or small that no error
                could be computed in float64.
        """
        with opened(self.file) as tensors:
            for module in self.modules:
                keys = module.keys
                B = finite(tensors.get_tensor(keys.B), keys.B)
                A = finite(tensors.get_tensor(keys.A), keys.A)
                if keys.mid is not None:
                    A = _folded(A, finite(tensors.get_tensor(keys.mid), keys.mid))
                if keys.diagonal is not None:
                    diagonal = finite(tensors.get_tensor(keys.diagonal), keys.diagonal)
                    A = A.flatten(1).double() * diagonal.double()
                # Numbers of two dtypes are multiplied in the wider one.
                wide = torch.promote_types(B.dtype, A.dtype)
                factors = Factors(B.flatten(1).to(wide), A.flatten(1).to(wide))
                check_range(module, factors)
                yield module, factors

    def carried(self) -> dict[str, Tensor]:
        """The tensors that are not factors, unchanged.

        Raises:
            NonFiniteError: NaN or infinity in one.
        """
        with opened(self.file) as tensors:
            carried = {key: tensors.get_tensor(key) for key in self.others}
        for key, tensor in carried.items():
            if tensor.is_floating_point():
                finite(tensor, key)
        return carried


def open_adapter(source: str | Path, *, from_base: bool = False) -> AdapterFile:
    """Open an adapter for reading and check everything but the values of its tensors.

    Args:
        source: a PEFT folder, a safetensors file (PEFT's beside its configuration, or one with
            names of `prunedlora.files.spellings`, as diffusion tools write them), or one of both on
            the hub, as ``organisation/name[@revision]`` or
            ``organisation/name/file.safetensors[@revision]``.
        from_base: also accept an initialisation that took the adapter's start from the base model;
            what the adapter adds to that is only known with the initial adapter.

    Raises:
        AdapterFileError: nothing there, or damaged, or dangerous; see
            `prunedlora.files.header.read_header`.
        UnsupportedAdapterError: a kind of adapter that is not supported.

    >>> import tempfile
    >>> from safetensors.torch import save_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "x.safetensors"
    ...     B, A = torch.ones(3, 2), torch.ones(2, 4)
    ...     save_file({"x.lora_down.weight": A, "x.lora_up.weight": B}, file)
    ...     [(m.name, m.rank, m.scaling) for m in open_adapter(file).modules]
    [('x', 2, 1.0)]
    """
    file, config_file = locate(source)
    header = read_header(file)
    is_peft = config_file is not None and any(k.startswith(PREFIX) for k in header.tensors)
    if file.name == WEIGHTS and not is_peft:
        raise AdapterFileError(
            f"{file} is named as PEFT's, but {CONFIG}, which says its scaling, is not beside it or "
            f"its tensors' names do not start with {PREFIX!r}; save the adapter with PEFT's "
            "save_pretrained, or name the file otherwise if no scaling belongs to it"
        )
    pairs = find_pairs(header, file, peft=is_peft)
    others = find_others(header, pairs, file, peft=is_peft)
    components = read_components(header.metadata, str(file))
    if is_peft and config_file is not None:
        config = read_config(config_file, from_base=from_base)
        # Factors of bare parameters are carried over: they are those of several matrices in one.
        kept = _of_parameters(pairs, header, config)
        pairs = [pair for pair in pairs if pair not in kept]
        others = tuple(sorted({*others, *(key for pair in kept for key in (pair.A, pair.B))}))
        if not pairs:
            raise UnsupportedAdapterError(
                f"{file} adapts bare parameters only (target_parameters), which stay as they are"
            )
        # AdaLoRA may leave a module nothing at all.
        empty = [
            p
            for p in pairs
            if p.diagonal
            and all(header.tensors[key].shape[:1] == (0,) for key in (p.A, p.diagonal))
        ]
        used = [pair for pair in pairs if pair not in empty]
        modules = tuple(_of_peft(pair, header, config, components, file) for pair in used)
        names = tuple(pair.name for pair in empty)
        return AdapterFile(
            str(source), file, header, config, modules, others, components, (), names
        )
    check_components([pair.name for pair in pairs], components, str(file))
    with opened(file) as tensors:
        modules = tuple(_alone(pair, header, components, tensors, file) for pair in pairs)
    remarks = _check_alone(modules, header, config_file, file)
    return AdapterFile(str(source), file, header, None, modules, others, components, remarks)


def _of_parameters(pairs: list[KeyPair], header: Header, config: AdapterConfig) -> list[KeyPair]:
    targets = config.raw.get("target_parameters") or []
    unlike = {
        p.name for p in pairs if targets and header.tensors[p.A].shape[:1] != (config.rank(p.name),)
    }
    return of_parameters(pairs, targets, unlike)


def _check_alone(
    modules: tuple[AdapterModule, ...], header: Header, config_file: Path | None, file: Path
) -> tuple[str, ...]:
    """Refuse scalings of a file alone that stand where its readers do not look.

    Returns:
        What may be one, in words.
    """
    told = [module for module in modules if module.keys.alpha or module.component]
    untold = [module for module in modules if module not in told]
    scalings: dict[int, set[float]] = {}
    for module in untold:
        scalings.setdefault(module.rank, set()).add(module.scaling)
    refuse_unread(header.metadata, scalings, str(file))
    _refuse_neighbour(untold, config_file, file)
    remarks = []
    if any(key.startswith(PREFIX) for key in header.tensors) and untold:
        remarks.append(
            f"{file} has PEFT's names without a configuration; its scaling is taken as 1, as by "
            "readers of single files"
        )
    alpha = header.metadata.get("ss_network_alpha")
    if untold and alpha not in (None, "None", header.metadata.get("ss_network_dim")):
        remarks.append(
            f"{file} says ss_network_alpha={alpha!r} but has no alpha tensors; its readers apply "
            "the scaling 1, and so is it read here"
        )
    return tuple(remarks)


def _refuse_neighbour(modules: list[AdapterModule], config_file: Path | None, file: Path) -> None:
    """Refuse a configuration beside a file of a diffusion tool that gives its modules a scaling."""
    if config_file is None:
        return
    try:
        config = read_config(config_file)
    except PrunedLoRAError:
        return  # it is about something else
    for module in modules:
        said = config.scaling(module.name)
        if config.rank(module.name) == module.rank and not math.isclose(said, module.scaling):
            raise AdapterFileError(
                f"{file}: {config_file.name} beside it gives {module.name} the scaling {said:g}, "
                f"but readers of single files apply {module.scaling:g}; if it is about this file, "
                f"multiply every B by {said:g} first, else move the file to another folder"
            )


def locate(source: str | Path) -> tuple[Path, Path | None]:
    """The weights of an adapter, and its configuration if there is one beside them.

    Args:
        source: see `open_adapter`.

    Raises:
        AdapterFileError: there is no such adapter, or it lies outside of its folder.
    """
    try:
        return _located(source)
    except AdapterFileError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # too long, unreadable, a loop of links
        reason = getattr(error, "strerror", None) or error
        raise AdapterFileError(f"cannot open {str(source)!r}: {reason}") from error


def _located(source: str | Path) -> tuple[Path, Path | None]:
    path = Path(source)
    if not path.exists():
        path = _from_hub(str(source))
    if path.is_dir():
        return _in_folder(path)
    if not path.is_file():
        raise AdapterFileError(f"{source} is neither a folder nor a regular file")
    config = path.parent / CONFIG
    return path, _inside(config, path.parent) if config.exists() else None


def _in_folder(folder: Path) -> tuple[Path, Path]:
    weights = folder / WEIGHTS
    config = folder / CONFIG
    if not weights.exists():
        for name in ("adapter_model.bin", "adapter_model.pt", "adapter_model.ckpt"):
            if (folder / name).exists():
                refuse_pickle(b"\x80\x02", folder / name)
        inside = sorted(file.parent.name for file in folder.glob(f"*/{WEIGHTS}"))
        if inside:
            raise AdapterFileError(
                f"{folder} holds several adapters or checkpoints ({', '.join(inside[:5])}); name one "
                f"of these folders, such as {folder / inside[-1]}"
            )
        raise AdapterFileError(
            f"{folder} holds no {WEIGHTS}; name the folder of a PEFT adapter, or a safetensors file"
        )
    if not config.exists():
        raise AdapterFileError(f"{folder} holds no {CONFIG}, which says ranks and scalings")
    return _inside(weights, folder), _inside(config, folder)


def _inside(file: Path, folder: Path) -> Path:
    """The file itself, if it is a regular one that lies in the folder.

    In the hub's cache a folder's files lie beside it, and links lead there.
    """
    real = file.resolve()
    home = folder.resolve()
    allowed = [home]
    if home.parent.name == "snapshots":
        allowed.append(home.parents[1] / "blobs")
    if not any(real.is_relative_to(place) for place in allowed):
        raise AdapterFileError(
            f"{file} is a link to a file outside of {folder}; copy the file instead"
        )
    if not real.is_file():
        raise AdapterFileError(f"{file} is not a regular file")
    return file


def _from_hub(source: str) -> Path:
    name, _, revision = source.partition("@")
    match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:/([\w./-]+\.safetensors))?", name)
    if match is None or ".." in name or name.startswith((".", "/")):
        raise AdapterFileError(
            f"{source}: there is no such folder or file, and it is not a valid name on the hub"
        )
    from huggingface_hub import hf_hub_download, snapshot_download

    repository, file = match.groups()
    try:
        if file:
            return Path(hf_hub_download(repository, file, revision=revision or None))
        return Path(
            snapshot_download(
                repository, revision=revision or None, allow_patterns=[WEIGHTS, CONFIG]
            )
        )
    except Exception as error:  # of the hub, of its transport, of the disk
        raise AdapterFileError(
            f"{source}: there is no such folder or file, and the hub does not offer it "
            f"({type(error).__name__})"
        ) from error


def _of_peft(
    pair: KeyPair,
    header: Header,
    config: AdapterConfig,
    components: tuple[Component, ...],
    file: Path,
) -> AdapterModule:
    """A module of a PEFT folder."""
    module = _module(pair, header, config.scaling(pair.name), file)
    if not config.adalora:
        check_rank(module.name, module.rank, config.rank(module.name), CONFIG, str(file))
    component = component_of(pair.name, components)
    if component is not None:  # it must not say otherwise
        scaling_of(pair.name, module.rank, module.scaling * module.rank, component, str(file))
    return replace(module, component=component)


def _alone(
    pair: KeyPair, header: Header, components: tuple[Component, ...], tensors: Any, file: Path
) -> AdapterModule:
    """A module of a file without a configuration."""
    alpha = None
    if pair.alpha is not None:
        alpha = float(finite(tensors.get_tensor(pair.alpha), pair.alpha))
    component = component_of(pair.name, components)
    module = _module(pair, header, 1.0, file)
    scaling = scaling_of(pair.name, module.rank, alpha, component, str(file))
    return replace(module, scaling=scaling, component=component)


def _module(pair: KeyPair, header: Header, scaling: float, file: Path) -> AdapterModule:
    B, A = header.tensors[pair.B], header.tensors[pair.A]
    mid = header.tensors[pair.mid] if pair.mid is not None else None
    if pair.diagonal is not None and header.tensors[pair.diagonal].shape != (A.shape[0], 1):
        raise AdapterFileError(f"{file}: {pair.diagonal} does not fit the rank of {pair.A}")
    _check_shapes(pair, B, A, mid, file)
    shape_A = A.shape if mid is None else (mid.shape[0], *A.shape[1:2], *mid.shape[2:])
    nbytes = A.nbytes + B.nbytes + (mid.nbytes if mid is not None else 0)
    dtypes = (DTYPES[B.dtype], DTYPES[A.dtype])
    return AdapterModule(pair.name, pair, scaling, A.shape[0], B.shape, shape_A, *dtypes, nbytes)


def _check_shapes(
    pair: KeyPair, B: TensorEntry, A: TensorEntry, mid: TensorEntry | None, file: Path
) -> None:
    where = f"{file}: {pair.name}"
    unknown = {entry.dtype for entry in (B, A, mid) if entry is not None} - DTYPES.keys()
    if unknown:
        raise AdapterFileError(
            f"{where} has factors of dtype {', '.join(sorted(unknown))}; store them as one of "
            f"{', '.join(DTYPES)}"
        )
    fit = len(A.shape) >= 2 <= len(B.shape) and B.shape[1] == A.shape[0] and set(B.shape[2:]) <= {1}
    if not fit or 0 in (*A.shape, *B.shape):
        raise AdapterFileError(
            f"{where} has factors of shapes {B.shape} and {A.shape}, which do not multiply"
        )
    r = A.shape[0]
    if mid is not None and (mid.shape[:2] != (r, r) or 0 in mid.shape or set(A.shape[2:]) > {1}):
        raise AdapterFileError(
            f"{where} has a middle factor of shape {mid.shape}, which does not fit its rank {r}"
        )


def _folded(A: Float[Tensor, "..."], mid: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """A convolution's 1x1 factor and the kernel behind it as one factor, (r, d_in, height, width)."""
    return torch.einsum("ji...,ic->jc...", mid.double(), A.flatten(1).double())


def check_range(module: AdapterModule, factors: Factors) -> None:
    """Refuse factors that are so large or so small that squares of them leave float64."""
    left = float(factors.B.abs().max())
    right = float(factors.A.abs().max())
    sizes = (left, right, left * right, left * right * abs(module.scaling))
    if left and right and module.scaling and not all(1 / _RANGE < x < _RANGE for x in sizes):
        raise NonFiniteError(
            f"the product of {module.name}'s factors (entries up to {left:.1g} and {right:.1g}, "
            f"scaling {module.scaling:.1g}) is out of the range in which errors can be computed; "
            "check what wrote the file"
        )


def finite(tensor: Tensor, key: str) -> Float[Tensor, "..."]:
    """The tensor in at least float32.

    Raises:
        NonFiniteError: NaN or infinity in it.
        AdapterFileError: torch cannot convert its dtype.
    """
    try:
        wide = tensor if tensor.dtype == torch.float64 else tensor.float()
    except NotImplementedError as error:  # not every RuntimeError: memory may be short
        raise AdapterFileError(
            f"{key} is stored as {tensor.dtype}, which torch cannot convert; store it in another "
            "dtype"
        ) from error
    if not is_finite(wide):
        raise NonFiniteError(
            f"{key} holds NaN or infinity; the adapter is damaged or its training diverged"
        )
    return wide
