"""Checking a safetensors file before any library opens it.

The format (https://github.com/huggingface/safetensors#format): 8 bytes, the length n of the header, unsigned and
little-endian; n bytes of JSON, for each tensor its dtype, shape and offsets into what follows; the tensors, without
gaps.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunedlora.errors import AdapterFileError

#: Longest header allowed, in bytes, as in the reference implementation.
MAX_HEADER = 100_000_000
#: Bytes of one element, for each dtype that a file may hold.
ITEM_SIZE = {
    **{"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2},
    **{"I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1},
}
_PICKLE = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


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
        AdapterFileError: pickled weights or an archive; a truncated or oversized header; text that is not JSON;
            an unknown dtype; offsets that overlap, leave gaps, lie outside the file or contradict a shape.

    >>> import tempfile, torch
    >>> from safetensors.torch import save_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_file({"x": torch.zeros(2, 3)}, Path(folder) / "x.safetensors")
    ...     read_header(Path(folder) / "x.safetensors").tensors["x"]
    TensorEntry(dtype='F32', shape=(2, 3), nbytes=24)
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or length > MAX_HEADER or 8 + length > size:
                # A pickle's first bytes may also be the length of a good header, so only what is no length is one.
                refuse_pickle(start, file)
                raise AdapterFileError(
                    f"{file}: the header would take {length} bytes, the file has {size} and {MAX_HEADER} are allowed; "
                    "the file is truncated or no safetensors file"
                )
            text = stream.read(length)
    except OSError as error:
        raise AdapterFileError(f"cannot read {file}: {error.strerror or error}") from error
    return parse_header(text, size, str(file))


def parse_header(text: bytes, size: int, name: str) -> Header:
    """Check the JSON of a header against the size of its file, in bytes; raises as `read_header` does."""
    entries = _parse_json(text, name)
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise AdapterFileError(f"{name}: __metadata__ must hold text only")
    tensors, spans = {}, []
    for key, entry in entries.items():
        if not key.isprintable():
            raise AdapterFileError(f"{name}: the tensor name {key!r} holds control characters")
        begin, end, tensors[key] = _check_entry(key, entry, name)
        spans.append((begin, end, key))
    _check_spans(spans, size - 8 - len(text), name)
    return Header(tensors, metadata, size)


def refuse_pickle(start: bytes, file: Path) -> None:
    """Refuse the first bytes of a pickle or of an archive (torch.save writes either); raises AdapterFileError."""
    if start.startswith(_PICKLE):
        raise AdapterFileError(
            f"{file}: pickled weights or an archive, which can run code when opened; convert it to safetensors with a "
            "tool you trust, where it came from"
        )


def _parse_json(text: bytes, name: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key occurs twice")
        return found

    try:
        entries = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise AdapterFileError(f"{name}: the header is no valid JSON ({type(error).__name__})") from error
    if not isinstance(entries, dict):
        raise AdapterFileError(f"{name}: the header is no JSON object")
    return entries


def _check_entry(key: str, entry: Any, name: str) -> tuple[int, int, TensorEntry]:
    where = f"{name}: the header's entry for {key!r}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise AdapterFileError(f"{where} must hold dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_SIZE:
        raise AdapterFileError(f"{where} has the unknown dtype {dtype!r}")
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        raise AdapterFileError(f"{where} has an impossible shape or offsets")
    begin, end = offsets
    nbytes = ITEM_SIZE[dtype] * math.prod(shape)
    if end - begin != nbytes:
        raise AdapterFileError(f"{where} says {dtype} {shape}, {nbytes} bytes, but its offsets span {end - begin}")
    return begin, end, TensorEntry(dtype, tuple(shape), nbytes)


def _check_spans(spans: list[tuple[int, int, str]], size: int, name: str) -> None:
    expected = 0
    for begin, end, key in sorted(spans):
        if begin != expected:
            problem = "overlaps another" if begin < expected else "leaves a gap"
            raise AdapterFileError(f"{name}: tensor {key!r} {problem}; the file is damaged")
        expected = end
    if expected != size:
        raise AdapterFileError(f"{name}: the tensors take {expected} bytes, the file holds {size}; it is damaged")


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(entry) is int and entry >= 0 for entry in value)
