"""Files that are not valid safetensors files: one clear error, a status that is not 0, nothing written."""

import json
import pickle
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file

from prunedlora import CompressConfig, compress_adapter, inspect_adapter, verify_adapter
from prunedlora.cli.entry import main
from prunedlora.errors import AdapterFileError, PrunedLoRAError
from prunedlora.files.adapter_file import open_adapter
from prunedlora.files.header import Header, TensorEntry, read_header
from tests.adapters_on_disk import configured, kohya

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
    "a huge number": raw(
        b'{"x": {"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,8]}}'
    ),
    "a key twice, alike": raw(
        f'{{"x": {json.dumps(GOOD["x"])}, "x": {json.dumps(GOOD["x"])}}}'.encode()
    ),
    "a text twice": raw(
        f'{{"__metadata__": {{"a": "b", "a": "b"}}, "x": {json.dumps(GOOD["x"])}}}'.encode()
    ),
    "huge integers": raw(
        b'{"x":{"dtype":"F32","shape":[' + b"9" * 4000 + b'],"data_offsets":[0,8]}}'
    ),
    "an entry as a list": raw({"x": ["F32", [2], [0, 8]]}),
    "control characters in the dtype": raw({"x": {**GOOD["x"], "dtype": "F3\n\x1b[2J1"}}),
    "overlapping": raw(
        {**GOOD, "y": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, b"\0" * 12
    ),
    "a gap": raw(
        {**GOOD, "y": {"dtype": "F32", "shape": [1], "data_offsets": [12, 16]}}, b"\0" * 16
    ),
    "beyond the file": raw({"x": {"dtype": "F32", "shape": [200], "data_offsets": [0, 800]}}),
    "a size beyond all": raw(
        {"x": {"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}}, b""
    ),
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
}
NO_FACTORS = raw(GOOD)


@pytest.mark.parametrize("content", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_header_is_refused_as_such(tmp_path, content):
    file = tmp_path / "a.safetensors"
    file.write_bytes(content)
    with pytest.raises(AdapterFileError, match=r"a\.safetensors") as caught:
        read_header(file)
    assert str(caught.value).isprintable()


def test_a_good_header_is_read(tmp_path):
    file = tmp_path / "a.safetensors"
    file.write_bytes(raw({**GOOD, "__metadata__": {"a": "b"}}))
    assert read_header(file) == Header(
        {"x": TensorEntry("F32", (2,), 8)}, {"a": "b"}, file.stat().st_size
    )


def test_a_long_header_is_refused_before_it_is_read(tmp_path, monkeypatch):
    file = tmp_path / "a.safetensors"
    file.write_bytes(raw(GOOD))
    length = len(json.dumps(GOOD))
    monkeypatch.setattr("prunedlora.files.header.MAX_HEADER", length)
    assert read_header(file).tensors.keys() == {"x"}
    monkeypatch.setattr("prunedlora.files.header.MAX_HEADER", length - 1)
    with pytest.raises(
        AdapterFileError, match=f"would take {length} bytes.*{length - 1} are allowed"
    ):
        read_header(file)


BAD_ADAPTERS = {**BAD_FILES, "no factors": NO_FACTORS}


@pytest.mark.parametrize("content", BAD_ADAPTERS.values(), ids=BAD_ADAPTERS.keys())
def test_a_bad_file_is_one_error_and_nothing_is_written(tmp_path, capsys, content):
    file = tmp_path / "a.safetensors"
    file.write_bytes(content)
    for call in (open_adapter, inspect_adapter, verify_adapter):
        with pytest.raises(PrunedLoRAError):
            call(file)
    with pytest.raises(SystemExit) as stopped:
        main(["compress", str(file), str(tmp_path / "b.safetensors"), "--rank", "1"])
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.removesuffix("\n").isprintable()
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


#: Bytes of a tensor of 8 numbers, and whether torch can read and convert it.
OTHER_DTYPES = {
    "F4": (4, False),
    "F6_E2M3": (6, False),
    "F8_E4M3": (8, True),
    "F8_E8M0": (8, True),
    "C64": (64, True),
}


@pytest.mark.parametrize(("dtype", "size", "readable"), [(k, *v) for k, v in OTHER_DTYPES.items()])
def test_another_tensor_of_any_dtype_is_carried_over_or_refused(tmp_path, dtype, size, readable):
    source = configured(tmp_path / "a", modules_to_save=["head"])
    file = source / "adapter_model.safetensors"
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    entry = {"dtype": dtype, "shape": [8], "data_offsets": [len(data), len(data) + size]}
    file.write_bytes(raw({**header, "base_model.model.head.weight": entry}, data + b"\1" * size))
    if readable:
        compress_adapter(source, tmp_path / "b", CompressConfig(rank=2))
        assert b"\1" * size in (tmp_path / "b" / file.name).read_bytes()
    else:
        with pytest.raises(AdapterFileError):
            compress_adapter(source, tmp_path / "b", CompressConfig(rank=2))


def test_a_scaling_of_any_float_dtype_is_read(tmp_path):
    file = kohya(tmp_path / "a.safetensors", alpha=2.0)
    tensors = load_file(file)
    save_file(
        {k: t.to(torch.float8_e4m3fn) if "alpha" in k else t for k, t in tensors.items()}, file
    )
    assert {module.scaling for module in open_adapter(file).modules} == {0.5}


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=80), st.integers(0, 200))
def test_random_bytes_are_refused_or_valid(tmp_path_factory, text, size):
    file = tmp_path_factory.mktemp("fuzz") / "x"
    file.write_bytes(raw(text, b"\0" * size)[:size])
    try:
        header = read_header(file)
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
