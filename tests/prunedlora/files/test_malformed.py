"""Bad input of every kind: one clear error, a status that is not 0, nothing written."""

import json
import pickle
import struct
import zipfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file

from prunedlora import CompressConfig, compress_adapter, inspect_adapter, verify_adapter
from prunedlora.cli.commands import main
from prunedlora.errors import AdapterFileError, NonFiniteError, OutputError, PrunedLoRAError, UnsupportedAdapterError
from prunedlora.files.adapter_file import open_adapter
from prunedlora.files.header import parse_header, read_header
from tests.adapters_on_disk import kohya, saved

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


def edited(folder, change):
    """A saved adapter whose tensors were changed by a function."""
    saved(folder)
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


def configured(folder, **entries):
    saved(folder)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))
    return folder


A, B = (f"base_model.model.model.layers.0.self_attn.q_proj.lora_{x}.weight" for x in "AB")
BAD_TENSORS = {
    "missing half": (lambda t: t.pop(A), AdapterFileError, "lacks its other half"),
    "missing other half": (lambda t: t.pop(B), AdapterFileError, "lacks its other half"),
    "shapes": (lambda t: t.update({A: torch.ones(3, 16)}), AdapterFileError, "do not multiply"),
    "empty": (lambda t: t.update({A: torch.ones(0, 16), B: torch.ones(16, 0)}), AdapterFileError, "do not multiply"),
    "vector": (lambda t: t.update({A: torch.ones(8), B: torch.ones(8)}), AdapterFileError, "do not multiply"),
    "dtypes": (lambda t: t.update({A: t[A].half()}), AdapterFileError, "dtypes"),
    "integers": (lambda t: t.update({A: t[A].int(), B: t[B].int()}), AdapterFileError, "dtypes"),
    "rank": (lambda t: t.update({A: t[A][:4].clone(), B: t[B][:, :4].clone()}), AdapterFileError, "rank_pattern"),
    "nan": (lambda t: t[A].fill_(float("nan")), NonFiniteError, "q_proj"),
    "inf": (lambda t: t[B][0].fill_(float("inf")), NonFiniteError, "q_proj"),
    "unknown": (lambda t: t.update({"stranger": torch.ones(1)}), AdapterFileError, "stranger"),
    "unknown in the model": (lambda t: t.update({"base_model.model.x": torch.ones(1)}), AdapterFileError, "nothing"),
    "dora": (lambda t: t.update({A[:-13] + "lora_magnitude_vector": torch.ones(16)}), UnsupportedAdapterError, "DoRA"),
    "bias of B": (lambda t: t.update({B[:-6] + "bias": torch.ones(16)}), UnsupportedAdapterError, "bias"),
    "live name": (
        lambda t: t.update({A[:-7] + ".default.weight": t[A].clone()}),
        UnsupportedAdapterError,
        "save_pretrained",
    ),
}


@pytest.mark.parametrize(("change", "kind", "message"), BAD_TENSORS.values(), ids=BAD_TENSORS.keys())
def test_bad_tensors(tmp_path, change, kind, message):
    source = edited(tmp_path / "a", change)
    with pytest.raises(kind, match=message):
        compress_adapter(source, tmp_path / "b", CompressConfig(rank=2))
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


BAD_CONFIGS = {
    "dora": ({"use_dora": True}, UnsupportedAdapterError, "DoRA"),
    "lora_bias": ({"lora_bias": True}, UnsupportedAdapterError, "bias"),
    "pissa": ({"init_lora_weights": "pissa"}, UnsupportedAdapterError, "base model's weights"),
    "bare parameters": ({"target_parameters": ["x"]}, UnsupportedAdapterError, "bare parameters"),
    "another method": ({"peft_type": "LOHA"}, UnsupportedAdapterError, "LOHA"),
    "rank": ({"r": -1}, AdapterFileError, "positive integer"),
    "rank as text": ({"r": "8"}, AdapterFileError, "positive integer"),
    "alpha": ({"lora_alpha": "x"}, AdapterFileError, "finite number"),
    "infinite alpha": ({"lora_alpha": float("inf")}, AdapterFileError, "finite number"),
    "pattern": ({"rank_pattern": [1]}, AdapterFileError, "no JSON object"),
    "expression": ({"alpha_pattern": {"(": 1}}, AdapterFileError, "no regular expression"),
    "another rank": ({"rank_pattern": {"q_proj": 4}}, AdapterFileError, "says 4"),
}


@pytest.mark.parametrize(("entries", "kind", "message"), BAD_CONFIGS.values(), ids=BAD_CONFIGS.keys())
def test_bad_configurations(tmp_path, entries, kind, message):
    source = configured(tmp_path / "a", **entries)
    with pytest.raises(kind, match=message):
        compress_adapter(source, tmp_path / "b", CompressConfig(rank=2))
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("text", ["", "[]", "{", "\x00", '{"peft_type": "LORA"' + ", " * 5, "[" * 100_000])
def test_a_configuration_that_is_no_json_object(tmp_path, text):
    source = saved(tmp_path / "a")
    (source / "adapter_config.json").write_text(text)
    with pytest.raises(AdapterFileError, match="JSON"):
        open_adapter(source)


class Bomb:
    def __reduce__(self):
        return (open, ("bomb-went-off", "w"))


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt", "adapter_model.ckpt", "x.safetensors"])
@pytest.mark.parametrize("torch_format", [True, False])
def test_pickled_weights_are_refused_and_never_opened(tmp_path, monkeypatch, name, torch_format):
    monkeypatch.chdir(tmp_path)
    folder = saved(tmp_path / "a")
    (folder / "adapter_model.safetensors").unlink()
    if torch_format:
        torch.save({"x": Bomb()}, folder / name)
        assert zipfile.is_zipfile(folder / name)
    else:
        (folder / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(AdapterFileError, match="pickled weights"):
        open_adapter(folder / name if name.startswith("x") else folder)
    assert not (tmp_path / "bomb-went-off").exists()


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    source = saved(tmp_path / "a")
    outside = tmp_path / "outside.safetensors"
    (source / "adapter_model.safetensors").rename(outside)
    (source / "adapter_model.safetensors").symlink_to(outside)
    with pytest.raises(AdapterFileError, match="link"):
        open_adapter(source)


def test_links_inside_the_cache_of_the_hub_are_followed(tmp_path):
    home = tmp_path / "models--x--y"
    (home / "blobs").mkdir(parents=True)
    snapshot = saved(home / "snapshots" / "abc")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (snapshot / name).rename(home / "blobs" / name)
        (snapshot / name).symlink_to(home / "blobs" / name)
    assert len(open_adapter(snapshot).modules) == 6


def test_paths_in_the_configuration_lead_nowhere(tmp_path):
    source = configured(tmp_path / "a", base_model_name_or_path="../../etc/passwd", revision="../x")
    compress_adapter(source, tmp_path / "b", CompressConfig(rank=2))
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file() and p.parent.name == "b") == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "pruning_report.json",
    ]


@pytest.mark.parametrize("name", ["../../x/y", "nobody/../x", "/nothing/here", "a/b/../c.safetensors", "nothing"])
def test_a_source_that_is_not_there(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AdapterFileError, match="no such folder"):
        open_adapter(name)


def test_outputs_that_would_touch_something_are_refused(tmp_path):
    source = saved(tmp_path / "a")
    before = {p.name: p.read_bytes() for p in source.iterdir()}
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for out in (source, source / "b", tmp_path / "dangling"):
        with pytest.raises(OutputError):
            compress_adapter(source, out, CompressConfig(rank=2))
    assert {p.name: p.read_bytes() for p in source.iterdir()} == before


@pytest.mark.parametrize("where", ["save_file", "load_file"])
@pytest.mark.parametrize("alone", [True, False])
def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, where, alone):
    source = kohya(tmp_path / "a.safetensors") if alone else saved(tmp_path / "a")
    out = tmp_path / ("b.safetensors" if alone else "b")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"prunedlora.files.writing.{where}", full)
    with pytest.raises(OutputError, match="No space left"):
        compress_adapter(source, out, CompressConfig(rank=2))
    assert [p.name for p in tmp_path.iterdir()] == [source.name]


def test_a_full_disk_at_the_last_step_leaves_nothing_behind(tmp_path, monkeypatch):
    from pathlib import Path

    source, rename = kohya(tmp_path / "a.safetensors"), Path.rename

    def full(self, target):
        if str(target).endswith("b.safetensors"):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OutputError, match="No space left"):
        compress_adapter(source, tmp_path / "b.safetensors", CompressConfig(rank=2))
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_file_that_differs_once_written_is_an_error(tmp_path, monkeypatch):
    def corrupt(tensors, file, metadata):
        save_file({k: v + 1e-6 for k, v in tensors.items()}, file, metadata)

    monkeypatch.setattr("prunedlora.files.writing.save_file", corrupt)
    with pytest.raises(OutputError, match="differs from memory"):
        compress_adapter(saved(tmp_path / "a"), tmp_path / "b", CompressConfig(rank=2))
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_values_too_large_for_the_dtype_are_an_error(tmp_path):
    source = edited(tmp_path / "a", lambda t: [x.mul_(1e6) for x in t.values()])
    with pytest.raises(NonFiniteError, match="too large"):
        compress_adapter(source, tmp_path / "b", CompressConfig(rank=2, dtype="fp16"))
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
