"""Files that are no safetensors file: one clear error, a status that is not 0, nothing written."""

import json
import pickle
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save

from prunedlora import inspect_adapter, verify_adapter
from prunedlora.cli.commands import main
from prunedlora.errors import AdapterFileError, PrunedLoRAError
from prunedlora.files.adapter_file import open_adapter
from prunedlora.files.header import parse_header, read_header

GOOD = {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def raw(header, data=b"\0" * 8, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


BAD_FILES = {
    "empty": b"",
    "seven bytes": b"\0" * 7,
    "truncated header": raw(GOOD)[:20],
    "truncated data": raw(GOOD)[:-1],
    "data behind": raw(GOOD) + b"\0",
    "oversized header": raw(GOOD, length=2**63),
    "header above the limit": raw(GOOD, length=100_000_001),
    "no json": raw(b"not json"),
    "no utf-8": raw(b"\xff\xfe"),
    "a list": raw([1]),
    "deeply nested": raw(b'{"x":' + b"[" * 100_000),
    "a key twice": raw(b'{"x": {"dtype":"F32","shape":[2],"data_offsets":[0,8]}, "x": 1}'),
    "a huge number": raw(b'{"x": {"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,8]}}'),
    "overlapping": raw({**GOOD, "y": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, b"\0" * 12),
    "a gap": raw({**GOOD, "y": {"dtype": "F32", "shape": [1], "data_offsets": [12, 16]}}, b"\0" * 16),
    "beyond the file": raw({"x": {"dtype": "F32", "shape": [200], "data_offsets": [0, 800]}}),
    "reversed": raw({"x": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}),
    "negative": raw({"x": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}),
    "shape against offsets": raw({"x": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}),
    "booleans": raw({"x": {"dtype": "F32", "shape": [True, 2], "data_offsets": [0, 8]}}),
    "unknown dtype": raw({"x": {"dtype": "F31", "shape": [2], "data_offsets": [0, 8]}}),
    "unhashable dtype": raw({"x": {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}}),
    "missing entry": raw({"x": {"dtype": "F32", "shape": [2]}}),
    "extra entry": raw({"x": {**GOOD["x"], "more": 1}}),
    "metadata": raw({**GOOD, "__metadata__": {"a": 1}}),
    "control characters": raw({"x\x1b[2J": GOOD["x"]}),
    "zip": b"PK\x03\x04" + b"\0" * 100,
    "pickle": pickle.dumps({"x": 1}),
    "no factors": raw(GOOD),
}


@pytest.mark.parametrize("content", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_file_is_one_error_and_nothing_is_written(tmp_path, capsys, content):
    file = tmp_path / "a.safetensors"
    file.write_bytes(content)
    for call in (open_adapter, inspect_adapter, verify_adapter):
        with pytest.raises(PrunedLoRAError):
            call(file)
    with pytest.raises(SystemExit) as stopped:
        main(["compress", str(file), str(tmp_path / "b.safetensors"), "--rank", "1"])
    assert str(stopped.value).startswith("error: ")
    assert "\n" not in str(stopped.value)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=80), st.integers(0, 200))
def test_random_bytes_are_refused_or_valid(text, size):
    try:
        header = parse_header(text, size, "fuzz")
    except AdapterFileError:
        return
    assert sum(entry.nbytes for entry in header.tensors.values()) == size - 8 - len(text)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_a_damaged_file_is_refused_or_still_a_valid_one(tmp_path_factory, data):
    """Whatever the validator lets through, the safetensors library must be able to open."""
    content = bytearray(save({"x": torch.ones(2, 3), "y": torch.ones(4, dtype=torch.float16)}))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.sampled_from([len(content), len(content) - 1, 40]))]
    file = tmp_path_factory.mktemp("fuzz") / "x"
    file.write_bytes(bytes(content))
    try:
        header = read_header(file)
    except AdapterFileError:
        return
    known = {"F32", "F16", "BF16", "F64", "I64", "I32", "I16", "U8", "I8", "BOOL"}
    if {entry.dtype for entry in header.tensors.values()} <= known:
        assert {k: tuple(t.shape) for k, t in load_file(file).items()} == {
            k: entry.shape for k, entry in header.tensors.items()
        }
