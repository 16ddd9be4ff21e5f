"""Checking a safetensors file before any of its tensors is read.

The format (https://github.com/huggingface/safetensors#format): 8 bytes, the length n of the header,
unsigned and little-endian; n bytes of JSON, for each tensor its dtype, shape and offsets into what
follows; the tensors, without gaps.  The library safetensors checks most of it; here stands what it
lets pass.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from prunedlora.errors import AdapterFileError

#: Longest header allowed, in bytes.  An adapter of 140,000 factors, in every expert of the largest
#: models, has about 20 MB; reading a header takes up to 25 times its size in memory.
MAX_HEADER = 2**25
#: Longest name of a tensor allowed; those of the deepest models have about 200 characters.
MAX_NAME = 1024
#: A dimension that torch cannot count.
_MAX_SIZE = 2**63
_PICKLE = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_ENTRY = {"dtype", "shape", "data_offsets"}


@dataclass(frozen=True)
class TensorEntry:
    """What the header says of one tensor.

    Attributes:
        dtype: as the format writes it, e.g. ``"BF16"``.
        shape: its shape.
        nbytes: its size in the file, bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True)
class Header:
    """A checked header.

    Attributes:
        tensors: by name.
        metadata: free text by key.
        file_size: bytes of the whole file.
    """

    tensors: dict[str, TensorEntry]
    metadata: dict[str, str]
    file_size: int


def read_header(file: Path) -> Header:
    """Read and check the header of a safetensors file; the tensors are not read.

    Args:
        file: the file.

    Raises:
        AdapterFileError: pickled weights or an archive; a truncated or oversized header; text that
            is not JSON; an unknown dtype; offsets that overlap, leave gaps, lie outside the file or
            contradict a shape; an entry with further keys, a key that occurs twice, a name with
            control characters.

    >>> import tempfile, torch
    >>> from safetensors.torch import save_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_file({"x": torch.zeros(2, 3)}, Path(folder) / "x.safetensors")
    ...     read_header(Path(folder) / "x.safetensors").tensors["x"]
    TensorEntry(dtype='F32', shape=(2, 3), nbytes=24)
    """
    text, size = _read_text(file)
    # The library comes first: it parses hostile text without building anything from it.
    with opened(file) as tensors:
        slices = {key: tensors.get_slice(key) for key in tensors.keys()}  # noqa: SIM118
        metadata = tensors.metadata() or {}
    entries = _parse(text, file)
    if entries.keys() != slices.keys():
        raise AdapterFileError(f"{file} was changed while it was read; try again")
    checked = {}
    for key, stored in slices.items():
        begin, end = entries[key]["data_offsets"]
        shape = tuple(stored.get_shape())
        if max(shape, default=0) >= _MAX_SIZE:  # beside a zero it needs no bytes
            raise AdapterFileError(f"{file}: {key!r} has a shape that no tensor can have, {shape}")
        checked[key] = TensorEntry(stored.get_dtype(), shape, end - begin)
    return Header(checked, metadata, size)


@contextmanager
def opened(file: Path) -> Iterator[Any]:
    """The file's tensors, as `safetensors.safe_open` gives them.

    Raises:
        AdapterFileError: it cannot be opened, or a tensor cannot be read from it.
    """
    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except AdapterFileError:
        raise
    except OSError as error:
        raise AdapterFileError(f"cannot read {file}: {error.strerror or error}") from error
    except SafetensorError as error:
        # The message may quote the file, so that it could hold line ends and control characters.
        reason = str(error).removeprefix("Error while deserializing header: ")[:200]
        reason = "".join(letter if letter.isprintable() else "?" for letter in reason)
        raise AdapterFileError(
            f"safetensors cannot read {file} ({reason}); it may be damaged or copied in part, so "
            "download or save it again"
        ) from error


def refuse_pickle(start: bytes, file: Path) -> None:
    """Refuse the first bytes of a pickle or of an archive; torch.save writes either.

    Raises:
        AdapterFileError: they are.
    """
    if start.startswith(_PICKLE):
        raise AdapterFileError(
            f"{file}: pickled weights or an archive, which can run code when opened; convert it to "
            "safetensors with a tool you trust, where it came from"
        )


def _read_text(file: Path) -> tuple[bytes, int]:
    """The header as it stands in the file, and the size of the file."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or length > MAX_HEADER or 8 + length > size:
                # The first bytes of a pickle may also be the length of a good header, so they only
                # count as a pickle's where they are not a possible length.
                refuse_pickle(start, file)
                raise AdapterFileError(
                    f"{file}: the header would take {length} bytes, the file has {size} and "
                    f"{MAX_HEADER} are allowed; it is truncated or not a safetensors file"
                )
            return stream.read(length), size
    except OSError as error:
        raise AdapterFileError(f"cannot read {file}: {error.strerror or error}") from error


def _parse(text: bytes, file: Path) -> dict[str, Any]:
    """The entries of a header that the library accepts, by tensor, after checks of our own."""
    try:
        entries = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise AdapterFileError(f"{file}: the header is not valid ({error})") from error
    entries.pop("__metadata__", None)
    for key, entry in entries.items():
        if not key.isprintable():
            raise AdapterFileError(f"{file}: the tensor name {key!r} holds control characters")
        if len(key) > MAX_NAME:
            raise AdapterFileError(
                f"{file}: the tensor name {key[:80]}... has {len(key)} characters; {MAX_NAME} are "
                "allowed"
            )
        if not isinstance(entry, dict) or entry.keys() != _ENTRY:
            raise AdapterFileError(
                f"{file}: the header's entry for {key!r} must hold dtype, shape and data_offsets, "
                "and nothing else"
            )
    return entries


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key occurs twice")
    return values
