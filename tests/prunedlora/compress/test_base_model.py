import json

import pytest

from prunedlora import CompressConfig, compress_adapter
from prunedlora.errors import ConfigurationError
from tests.adapters_on_disk import base_folder, examples, saved


def test_a_wrong_base_model_is_refused(tmp_path):
    base, data = base_folder(tmp_path / "base"), examples(tmp_path / "data.jsonl")
    raw = json.loads((base / "config.json").read_text())
    source = saved(tmp_path / "a", target_modules=["q_proj", "down_proj"])
    for change in ({"num_hidden_layers": 1}, {"hidden_size": 32, "head_dim": 8}):
        from transformers import AutoConfig, AutoModelForCausalLM

        other = tmp_path / f"other{len(change)}"
        config = AutoConfig.for_model(**{**raw, **change})
        AutoModelForCausalLM.from_config(config).save_pretrained(str(other))
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (other / name).write_bytes((base / name).read_bytes())
        with pytest.raises(ConfigurationError, match="base model"):
            compress_adapter(
                source,
                tmp_path / "b",
                CompressConfig(rank=2, base=str(other), data=data, device="cpu", samples=8),
            )
        assert not (tmp_path / "b").exists()
