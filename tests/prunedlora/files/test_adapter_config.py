"""Bad configurations of adapters: one clear error, nothing written."""

import pytest

from prunedlora import CompressConfig, compress_adapter
from prunedlora.errors import AdapterFileError, UnsupportedAdapterError
from prunedlora.files.adapter_file import open_adapter
from tests.adapters_on_disk import configured, saved

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
