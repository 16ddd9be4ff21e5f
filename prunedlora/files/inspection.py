"""Rank, spectrum and energy of every module of a trained adapter, from its file."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from prunedlora.files.adapter_file import open_adapter
from prunedlora.linalg.truncation import rank_for_energy, truncate_with_values

#: Shares of energy that ranks are suggested for.
ENERGIES = (0.9, 0.95, 0.99)


@dataclass(frozen=True)
class ModuleInspection:
    """One module.

    Attributes:
        name: its path in the base model.
        rank: components in the file.
        scaling: the factor s in ``W = W0 + s B A``.
        d_out: outputs.
        d_in: inputs; of a convolution, times its kernel.
        dtype: of the factors.
        nbytes: of the factors in the file.
        singular_values: of ``s B A``, decreasing.
        effective_rank: exp of the entropy of the singular values' shares (Roy and Vetterli, 2007).
        rank_for_energy: for each share the smallest rank that keeps it of the squared singular
            values.
    """

    name: str
    rank: int
    scaling: float
    d_out: int
    d_in: int
    dtype: str
    nbytes: int
    singular_values: list[float]
    effective_rank: float
    rank_for_energy: dict[str, int]


@dataclass(frozen=True)
class Inspection:
    """An adapter.

    Attributes:
        adapter: as named.
        file_bytes: size of the weights' file.
        modules: its modules.
    """

    adapter: str
    file_bytes: int
    modules: tuple[ModuleInspection, ...]

    def to_json(self) -> str:
        """Everything as a JSON object."""
        return json.dumps(asdict(self), indent=1) + "\n"

    def suggested_rank(self, energy: float) -> int:
        """The smallest single rank at which every module keeps one of `ENERGIES`."""
        return max(module.rank_for_energy[f"{energy:g}"] for module in self.modules)


def inspect_adapter(adapter: str | Path) -> Inspection:
    """Look at an adapter, one module at a time; neither base model nor data is needed.

    Args:
        adapter: see `prunedlora.files.adapter_file.open_adapter`.

    Raises:
        AdapterFileError, UnsupportedAdapterError, NonFiniteError: see there.

    >>> import tempfile
    >>> from safetensors.torch import save_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "x.safetensors"
    ...     B = torch.diag(torch.tensor([3.0, 1.0]))
    ...     save_file({"x.lora_down.weight": torch.eye(2), "x.lora_up.weight": B}, file)
    ...     module = inspect_adapter(file).modules[0]
    >>> [round(value, 9) for value in module.singular_values], module.rank_for_energy["0.9"]
    ([3.0, 1.0], 1)
    """
    source = open_adapter(adapter)
    modules = []
    for module, factors in source.factors():
        values = abs(module.scaling) * truncate_with_values(factors.B, factors.A, 1)[2]
        modules.append(
            ModuleInspection(
                name=module.name,
                rank=module.rank,
                scaling=module.scaling,
                d_out=factors.B.shape[0],
                d_in=factors.A.shape[1],
                dtype="/".join(dict.fromkeys(_named(d) for d in (module.dtype_B, module.dtype_A))),
                nbytes=module.nbytes,
                singular_values=values.tolist(),
                effective_rank=effective_rank(values),
                rank_for_energy={
                    f"{share:g}": int(rank_for_energy(values, share)) for share in ENERGIES
                },
            )
        )
    return Inspection(source.source, source.header.file_size, tuple(modules))


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def effective_rank(values: Float[Tensor, " r"]) -> float:
    r"""``exp(-sum p log p)`` with p the singular values' shares; 0 where all are zero.

    Source: Roy and Vetterli, The effective rank: a measure of effective dimensionality,
    EUSIPCO 2007.

    >>> round(effective_rank(torch.tensor([1.0, 1.0, 0.0])), 6)
    2.0
    """
    if not values.any():
        return 0.0
    return float(torch.special.entr(values.double() / values.double().sum()).sum().exp())
