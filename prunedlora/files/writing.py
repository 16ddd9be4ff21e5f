"""Writing whole outputs or none: under a temporary name, read back, then renamed."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from prunedlora.errors import OutputError, PrunedLoRAError


def check_free(path: Path) -> None:
    """Refuse an output that exists, dangling links included, or a name that the system refuses.

    Raises:
        OutputError: it is one of these.
    """
    try:
        taken = path.is_symlink() or path.exists()
        path.resolve()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a loop of links
        raise OutputError(f"cannot write to {path}: {_reason(error)}") from error
    if not str(path).isprintable():
        raise OutputError(f"cannot write to {str(path)!r}: the name holds control characters")
    if taken:
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
    except (OSError, ValueError, RuntimeError) as error:
        raise OutputError(f"cannot write beside {out}: {_reason(error)}") from error
    try:
        yield part
    except PrunedLoRAError:
        raise
    # A full disk is one to the library safetensors, too, but in an error of its own.
    except (OSError, SafetensorError) as error:
        raise OutputError(f"cannot write {out}: {_reason(error)}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def publish_folder(part: Path, folder: Path) -> None:
    """Give a scratch folder its final name and the usual permissions."""
    part.chmod(0o777 & ~_umask())
    for file in part.iterdir():
        _flush(file)
    _flush(part)
    with alone_in(folder.parent):
        check_free(folder)
        part.rename(folder)
        _flush(folder.parent)


def publish_file(part: Path, file: Path) -> None:
    """Give a scratch file its final name, in place of what has it; both survive a loss of power."""
    _flush(part)
    if file.exists():
        part.replace(file)
    else:
        part.rename(file)
    _flush(file.parent)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process is in such a block for the folder; a killed one does not count.

    Where the system has no such locks, the block runs all the same.
    """
    descriptor = None
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except (ImportError, OSError):
        pass
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _flush(path: Path) -> None:
    """Have a file, or the names in a folder, written to the disk; not every system can."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES):
            raise
    finally:
        os.close(descriptor)


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
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    # As bytes: not every dtype can be compared, and NaN differs from itself.
    return torch.equal(*(t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b)))


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).splitlines()[0]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
