"""What each reader makes of an adapter, by the rules in its source."""

import peft
import pytest

from prunedlora.files.adapter_file import open_adapter
from prunedlora.files.readers import readings
from tests.adapters_on_disk import configured, kohya, saved
from tests.models import llama


def by_name(source):
    return {row.reader: row for row in readings(open_adapter(source))}


def test_vllm_follows_the_patterns_since_0_32(tmp_path):
    source = saved(tmp_path / "a", rank_pattern={"q_proj": 2}, alpha_pattern={"v_proj": 3})
    rows = by_name(source)
    assert rows["PEFT"].wrong == rows["vLLM"].wrong == ()
    assert len(rows["vLLM before 0.32"].wrong) == 4
    assert rows["SGLang"].refusal is not None


def test_a_server_that_ignores_rslora_is_too_weak_by_the_root_of_r(tmp_path):
    rows = by_name(saved(tmp_path / "a", r=4, lora_alpha=4, use_rslora=True))
    assert rows["vLLM"].largest == rows["vLLM before 0.32"].largest == 2.0
    assert rows["SGLang"].largest == rows["llama.cpp"].largest == 1.0
    assert rows["SGLang"].wrong


def test_vllm_skips_the_original_weights_of_adapted_embeddings(tmp_path):
    settings = peft.LoraConfig(
        r=4, target_modules=["q_proj", "embed_tokens", "lm_head"], init_lora_weights=False
    )
    model = peft.get_peft_model(llama(), settings)
    with pytest.warns(UserWarning, match="embedding layers"):
        model.save_pretrained(tmp_path)
    assert by_name(tmp_path)["vLLM"].refusal is None


@pytest.mark.parametrize(("saved_modules", "loads"), [(["score"], True), (["lm_head"], False)])
def test_of_saved_modules_vllm_loads_the_classifier(tmp_path, saved_modules, loads):
    source = configured(tmp_path / "a", modules_to_save=saved_modules)
    assert (by_name(source)["vLLM"].refusal is None) == loads


def test_ollama_wants_a_whole_alpha_and_lorax_its_own_ranks(tmp_path):
    rows = by_name(saved(tmp_path / "a", r=12, lora_alpha=7.5))
    assert "whole number" in rows["Ollama"].refusal
    assert "16" in rows["LoRAX"].refusal
    rows = by_name(saved(tmp_path / "b", r=16, lora_alpha=8))
    assert rows["Ollama"].refusal is rows["LoRAX"].refusal is None


def test_a_file_alone_has_readers_of_its_own(tmp_path):
    assert by_name(kohya(tmp_path / "a.safetensors")).keys() == {"diffusion tools"}
