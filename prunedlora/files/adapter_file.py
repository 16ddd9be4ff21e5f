"""Reading a trained adapter from its file, one module at a time; nothing in it is trusted."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prunedlora.errors import AdapterFileError, NonFiniteError
from prunedlora.factors import Factors
from prunedlora.files.adapter_config import AdapterConfig, read_config
from prunedlora.files.header import Header, TensorEntry, opened, read_header, refuse_pickle
from prunedlora.files.tensor_names import PREFIX, KeyPair, check_others, find_pairs
from prunedlora.linalg.numerics import is_finite

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


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
        shape_A: as stored: (r, d_in), (r, d_in, height, width) for a convolution.
        dtype: of both.
        nbytes: of both.
    """

    name: str
    keys: KeyPair
    scaling: float
    rank: int
    shape_B: tuple[int, ...]
    shape_A: tuple[int, ...]
    dtype: torch.dtype
    nbytes: int

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
    """

    source: str
    file: Path
    header: Header
    config: AdapterConfig | None
    modules: tuple[AdapterModule, ...]
    others: tuple[str, ...]

    def factors(self) -> Iterator[tuple[AdapterModule, Factors]]:
        """Each module with its factors as matrices in at least float32, read when asked for.

        The kernel of a convolution is flattened into d_in.  Only one module's tensors are held at a
        time.

        Raises:
            NonFiniteError: NaN or infinity in a factor.
        """
        with opened(self.file) as tensors:
            for module in self.modules:
                B = _finite(tensors.get_tensor(module.keys.B), module.keys.B)
                A = _finite(tensors.get_tensor(module.keys.A), module.keys.A)
                yield module, Factors(B.flatten(1), A.flatten(1))

    def carried(self) -> dict[str, Tensor]:
        """The tensors that are no factors, unchanged.

        Raises:
            NonFiniteError: NaN or infinity in one.
        """
        with opened(self.file) as tensors:
            carried = {key: tensors.get_tensor(key) for key in self.others}
        for key, tensor in carried.items():
            if tensor.is_floating_point():
                _finite(tensor, key)
        return carried


def open_adapter(source: str | Path) -> AdapterFile:
    """Open an adapter for reading and check everything but the values of its tensors.

    Args:
        source: a PEFT folder, a safetensors file (PEFT's beside its configuration, or one of a
            diffusion tool with ``lora_down``/``lora_up`` or ``lora_A``/``lora_B`` and optional
            ``alpha`` tensors), or one of both on the hub, as ``organisation/name[@revision]`` or
            ``organisation/name/file.safetensors[@revision]``.

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
    file, config_file = _locate(source)
    header = read_header(file)
    pairs = find_pairs(header, file)
    # A configuration beside a file of a diffusion tool is not about that file.
    config = None
    is_peft = any(key.startswith(PREFIX) for key in header.tensors)
    if is_peft and config_file is not None:
        config = read_config(config_file)
    elif is_peft:
        raise AdapterFileError(
            f"{file} holds a PEFT adapter, but {CONFIG}, which says its scaling, is not beside it"
        )
    others = check_others(header, pairs, config, file)
    with opened(file) as tensors:
        modules = tuple(_module(pair, header, config, tensors, file) for pair in pairs)
    return AdapterFile(str(source), file, header, config, modules, others)


def _locate(source: str | Path) -> tuple[Path, Path | None]:
    """The weights and the configuration, if there is one."""
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
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, file = match.groups()
    try:
        if file:
            return Path(hf_hub_download(repository, file, revision=revision or None))
        return Path(
            snapshot_download(
                repository, revision=revision or None, allow_patterns=[WEIGHTS, CONFIG]
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise AdapterFileError(
            f"{source}: there is no such folder or file, and the hub does not offer it "
            f"({type(error).__name__})"
        ) from error


def _module(
    pair: KeyPair, header: Header, config: AdapterConfig | None, tensors: Any, file: Path
) -> AdapterModule:
    B, A = header.tensors[pair.B], header.tensors[pair.A]
    _check_shapes(pair, B, A, file)
    rank = A.shape[0]
    if config is None:
        alpha = float(rank)
        if pair.alpha is not None:
            alpha = float(_finite(tensors.get_tensor(pair.alpha), pair.alpha))
        scaling = alpha / rank
    else:
        if config.rank(pair.name) != rank:
            raise AdapterFileError(
                f"{file}: {pair.name} has rank {rank}, but {CONFIG} says {config.rank(pair.name)} "
                "(r and rank_pattern)"
            )
        scaling = config.scaling(pair.name)
    return AdapterModule(
        pair.name, pair, scaling, rank, B.shape, A.shape, DTYPES[A.dtype], A.nbytes + B.nbytes
    )


def _check_shapes(pair: KeyPair, B: TensorEntry, A: TensorEntry, file: Path) -> None:
    where = f"{file}: {pair.name}"
    if A.dtype not in DTYPES or B.dtype != A.dtype:
        raise AdapterFileError(
            f"{where} has factors of dtypes {A.dtype} and {B.dtype}; both must have the "
            f"same, one of {', '.join(DTYPES)}"
        )
    fit = len(A.shape) == len(B.shape) >= 2 and B.shape[1] == A.shape[0] and set(B.shape[2:]) <= {1}
    if not fit or 0 in (*A.shape, *B.shape):
        raise AdapterFileError(
            f"{where} has factors of shapes {B.shape} and {A.shape}, which do not multiply"
        )


def _finite(tensor: Tensor, key: str) -> Float[Tensor, "..."]:
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
