"""What each reader makes of an adapter, by the rules in its source."""

from typing import get_args

import peft
import pytest

from prunedlora import CompressConfig, compress_adapter
from prunedlora.choices import ReaderName
from prunedlora.errors import ConfigurationError
from prunedlora.files.adapter_file import open_adapter
from prunedlora.files.readers import READERS, readings
from tests.adapters_on_disk import configured, kohya, saved
from tests.models import llama
from tests.paths import ROOT


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


def test_every_reader_can_be_named():
    assert get_args(ReaderName) == tuple(word for reader in READERS for word in reader.words)


@pytest.mark.parametrize("word", [word for r in READERS if r.of_folders for word in r.words])
def test_a_folder_for_a_reader_is_loaded_right_by_it(tmp_path, word):
    source = saved(tmp_path / "a", r=32, use_rslora=True, alpha_pattern={"v_proj": 3})
    report = compress_adapter(source, tmp_path / "b", CompressConfig(energy=0.5, reader=word))
    row = next(r for r in readings(open_adapter(tmp_path / "b")) if r.reader.lower() == word)
    assert row.outcome == "loads it right"
    assert len(set(report.ranks.values())) > (word != "lorax")
    ranks = {module.rank for module in open_adapter(tmp_path / "b").modules}
    assert (len(ranks) > 1) == (word in ("peft", "vllm"))
    assert word != "lorax" or not max(ranks) % 16


def test_lorax_takes_rank_8_too(tmp_path):
    source = saved(tmp_path / "a", r=16)
    compress_adapter(source, tmp_path / "b", CompressConfig(rank=8, reader="lorax"))
    assert {module.rank for module in open_adapter(tmp_path / "b").modules} == {8}
    with pytest.raises(ConfigurationError, match="not a multiple of round_to=16"):
        compress_adapter(source, tmp_path / "c", CompressConfig(rank=12, reader="lorax"))


def test_what_a_reader_would_not_load_is_not_written(tmp_path):
    folder = saved(tmp_path / "a", modules_to_save=["lm_head"])
    file = kohya(tmp_path / "a.safetensors")
    for source, out, settings, message in (
        (folder, "b", {"reader": "comfyui"}, "reads files alone"),
        (file, "b.safetensors", {"reader": "vllm"}, "reads PEFT folders"),
        (folder, "b", {"reader": "sglang", "layout": "ragged"}, "use layout 'padded'"),
        (folder, "b", {"reader": "vllm"}, "does not load it: of modules_to_save"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            compress_adapter(source, tmp_path / out, CompressConfig(rank=2, **settings))
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "a.safetensors"]
    report = compress_adapter(
        file, tmp_path / "b.safetensors", CompressConfig(rank=2, reader="comfyui")
    )
    assert report.settings["layout"] == "ragged"


def test_the_documented_table_is_what_the_readers_make_of_each_layout(tmp_path):
    """Where it fails, the message is the table that the page should have."""
    folder = saved(tmp_path / "a", r=32)
    file = kohya(tmp_path / "a.safetensors", rank=8)
    outcomes = {}
    for layout in ("uniform", "padded", "ragged"):
        wish = {"energy": 0.5, "layout": layout, "round_to": 1 if layout == "ragged" else 16}
        compress_adapter(folder, tmp_path / layout, CompressConfig(**wish))
        alone = tmp_path / f"{layout}.safetensors"
        compress_adapter(file, alone, CompressConfig(energy=0.5, layout=layout))
        for place in (tmp_path / layout, alone):
            for row in readings(open_adapter(place)):
                word = "refused" if row.refusal else "another scaling" if row.wrong else "right"
                outcomes[row.reader, layout] = word
    lines = ["| reader | `--for` | `uniform`, `padded` | `ragged` |", "|---|---|---|---|"]
    for reader in READERS:
        alike = outcomes[reader.name, "uniform"]
        assert alike == outcomes[reader.name, "padded"]
        words = ", ".join(f"`{word}`" for word in reader.words) or "–"
        also = [*reader.also, f"multiples of {reader.step}"] if reader.step > 1 else []
        ranks = f" (ranks {', '.join(map(str, also))})" if also else ""
        lines.append(
            f"| {reader.name} | {words} | {alike}{ranks} | {outcomes[reader.name, 'ragged']} |"
        )
    table = "\n".join(lines)
    assert table in (ROOT / "docs/files/formats.md").read_text(), "\n" + table
