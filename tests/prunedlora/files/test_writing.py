"""Whatever goes wrong while writing leaves nothing behind."""

import pytest
from safetensors.torch import save_file

from prunedlora import CompressConfig, compress_adapter
from prunedlora.errors import NonFiniteError, OutputError
from tests.adapters_on_disk import edited, kohya, saved


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
