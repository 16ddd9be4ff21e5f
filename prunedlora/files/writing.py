"""Writing whole outputs or none: under a temporary name, read back, then renamed."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from prunedlora.errors import OutputError


def check_free(path: Path) -> None:
    """Refuse an output that exists, dangling links included; raises OutputError."""
    if path.exists() or path.is_symlink():
        raise OutputError(f"{path} exists already; choose another name or remove it")


@contextmanager
def scratch_beside(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out`, removed at the end; errors of the disk become OutputError.

    Raises:
        OutputError: nothing can be written there.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise OutputError(f"cannot write beside {out}: {error}") from error
    try:
        yield part
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"cannot write {out}: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def publish_folder(part: Path, folder: Path) -> None:
    """Give a scratch folder its final name and the usual permissions."""
    part.chmod(0o777 & ~_umask())
    part.rename(folder)


def write_tensors(tensors: Mapping[str, Tensor], file: Path, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file and compare what is read back, bit by bit.

    Raises:
        OutputError: it differs.
        OSError: the disk.
    """
    save_file(dict(tensors), file, metadata=dict(metadata))
    written = load_file(file)
    if written.keys() != tensors.keys() or not all(_equal(written[k], tensors[k]) for k in tensors):
        raise OutputError(
            f"what was written for {file.name} differs from memory; the disk may be full or faulty"
        )


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
