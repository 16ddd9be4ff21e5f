"""Bad adapters: one clear error, nothing written, no pickle opened, no link followed."""

import pickle
import zipfile

import pytest
import torch

from prunedlora import CompressConfig, compress_adapter
from prunedlora.errors import AdapterFileError, NonFiniteError, UnsupportedAdapterError
from prunedlora.files.adapter_file import open_adapter
from tests.adapters_on_disk import configured, edited, saved

A, B = (f"base_model.model.model.layers.0.self_attn.q_proj.lora_{x}.weight" for x in "AB")

BAD_TENSORS = {
    "missing half": (lambda t: t.pop(A), AdapterFileError, "lacks its other half"),
    "missing other half": (lambda t: t.pop(B), AdapterFileError, "lacks its other half"),
    "shapes": (lambda t: t.update({A: torch.ones(3, 16)}), AdapterFileError, "do not multiply"),
    "empty": (
        lambda t: t.update({A: torch.ones(0, 16), B: torch.ones(16, 0)}),
        AdapterFileError,
        "do not multiply",
    ),
    "vector": (
        lambda t: t.update({A: torch.ones(8), B: torch.ones(8)}),
        AdapterFileError,
        "do not multiply",
    ),
    "integers": (lambda t: t.update({A: t[A].int()}), AdapterFileError, "dtype I32; store them"),
    "rank": (
        lambda t: t.update({A: t[A][:4].clone(), B: t[B][:, :4].clone()}),
        AdapterFileError,
        "rank_pattern",
    ),
    "nan": (lambda t: t[A].fill_(float("nan")), NonFiniteError, "q_proj"),
    "inf": (lambda t: t[B][0].fill_(float("inf")), NonFiniteError, "q_proj"),
    "unknown": (lambda t: t.update({"stranger": torch.ones(1)}), AdapterFileError, "stranger"),
    "dora": (
        lambda t: t.update({A[:-13] + "lora_magnitude_vector": torch.ones(16)}),
        UnsupportedAdapterError,
        "DoRA",
    ),
    "bias of B": (
        lambda t: t.update({B[:-6] + "bias": torch.ones(16)}),
        UnsupportedAdapterError,
        "bias",
    ),
    "live name": (
        lambda t: t.update({A[:-7] + ".default.weight": t[A].clone()}),
        AdapterFileError,
        "lacks its other half",
    ),
}


@pytest.mark.parametrize(
    ("change", "kind", "message"), BAD_TENSORS.values(), ids=BAD_TENSORS.keys()
)
def test_bad_tensors(tmp_path, change, kind, message):
    source = edited(tmp_path / "a", change)
    with pytest.raises(kind, match=message):
        compress_adapter(source, tmp_path / "b", CompressConfig(rank=2))
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


class Bomb:
    def __reduce__(self):
        return (open, ("bomb-went-off", "w"))


@pytest.mark.parametrize(
    "name", ["adapter_model.bin", "adapter_model.pt", "adapter_model.ckpt", "x.safetensors"]
)
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
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "pruning_report.json",
    ]


@pytest.mark.parametrize(
    "name", ["../../x/y", "nobody/../x", "/nothing/here", "a/b/../c.safetensors", "nothing"]
)
def test_a_source_that_is_not_there(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AdapterFileError, match="no such folder"):
        open_adapter(name)


def test_a_folder_of_several_adapters_names_them(tmp_path):
    for name in ("first", "second"):
        saved(tmp_path / "all" / name)
    with pytest.raises(AdapterFileError, match=r"\(first, second\)"):
        open_adapter(tmp_path / "all")
