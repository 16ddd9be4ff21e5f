import pytest

from prunedlora import CompressConfig, compress_adapters
from prunedlora.errors import ConfigurationError, OutputError
from tests.adapters_on_disk import kohya, saved


def test_folders_and_files_go_into_one_folder(tmp_path):
    sources = [saved(tmp_path / "a"), kohya(tmp_path / "b.safetensors"), tmp_path / "missing"]
    out = tmp_path / "out"
    done = dict(compress_adapters(sources, out, CompressConfig(rank=2)))
    assert list(done) == ["a", "b.safetensors", "missing"]
    assert set(done["a"].ranks.values()) == set(done["b.safetensors"].ranks.values()) == {2}
    assert "no such folder" in str(done["missing"])
    names = ["a", "b.pruning_report.json", "b.safetensors"]
    assert sorted(path.name for path in out.iterdir()) == names
    again = dict(compress_adapters(sources[:1], out, CompressConfig(rank=2)))
    assert isinstance(again["a"], OutputError)


def test_two_of_one_name_are_refused_before_anything_is_read(tmp_path):
    sources = [tmp_path / "a" / "x", tmp_path / "b" / "x"]
    with pytest.raises(ConfigurationError, match="2 adapters are called x"):
        compress_adapters(sources, tmp_path / "out", CompressConfig(rank=2))
