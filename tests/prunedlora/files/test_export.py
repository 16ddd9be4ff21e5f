import json
import subprocess
import sys

import peft
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from prunedlora import LoraRankPruner, PruneConfig, export_adapter, truncate_adapter
from prunedlora.errors import OutputError
from tests.models import ids, llama, step, trainable
from tests.paths import ROOT

NEW_PROCESS = """
import sys, torch, peft
from safetensors.torch import load_file
sys.path.insert(0, sys.argv[1])
from tests.models import llama
probe = load_file(sys.argv[2])
model = peft.PeftModel.from_pretrained(llama(), sys.argv[3]).eval()
with torch.no_grad():
    print((model(input_ids=probe["ids"]).logits - probe["logits"]).abs().max().item())
"""


def pruned(model):
    optimizer = torch.optim.AdamW(trainable(model), lr=1e-2)
    config = PruneConfig(
        target_rank=2, criterion="prunedlora2025", interval=1, per_event=2, warmup_steps=2
    )
    with LoraRankPruner(model, optimizer, config, total_steps=10):
        for _ in range(10):
            step(model, optimizer)
    return model.eval()


def test_plain_peft_in_a_new_process_gives_the_same_logits(lora, tmp_path):
    model = pruned(lora(zero_B=True))
    folder = export_adapter(model, tmp_path / "out" / "adapter")
    tokens = ids()
    save_file(
        {"ids": tokens, "logits": model(input_ids=tokens).logits.detach()}, tmp_path / "probe"
    )
    command = [sys.executable, "-c", NEW_PROCESS, str(ROOT), str(tmp_path / "probe"), str(folder)]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(out.stdout) <= 1e-5


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"lora_alpha": 7},
        {"alpha_pattern": {"q_proj": 3}, "rank_pattern": {"layers.1.self_attn.v_proj": 5}},
    ],
)
def test_ranks_and_scalings_survive_export_and_loading(lora, tmp_path, settings):
    model = pruned(lora(**settings))
    export_adapter(model, tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(llama(), tmp_path / "adapter").eval()
    tokens = ids()
    torch.testing.assert_close(
        again(input_ids=tokens).logits, model(input_ids=tokens).logits, rtol=0, atol=1e-5
    )
    merged = again.merge_and_unload()
    torch.testing.assert_close(
        merged(input_ids=tokens).logits, model(input_ids=tokens).logits, rtol=0, atol=1e-5
    )


def test_every_tensor_has_the_target_rank_and_the_file_shrinks_in_proportion(lora, tmp_path):
    whole, small = lora(), pruned(lora())
    sizes = []
    for name, model, rank in (("whole", whole, 8), ("small", small, 2)):
        file = export_adapter(model, tmp_path / name) / "adapter_model.safetensors"
        tensors = load_file(file)
        assert {t.shape[0] if "lora_A" in k else t.shape[1] for k, t in tensors.items()} == {rank}
        sizes.append(sum(t.numel() * t.element_size() for t in tensors.values()))
    assert sizes[1] / sizes[0] == 2 / 8
    config = json.loads((tmp_path / "small" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (2, 3, {})


def test_an_injected_model_exports_the_file_of_a_peft_model(lora, tmp_path):
    settings = peft.LoraConfig(r=4, target_modules=["q_proj"])
    torch.manual_seed(2)
    injected = peft.inject_adapter_in_model(settings, llama())
    folder = export_adapter(injected, tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(llama(), folder)
    keys = set(load_file(folder / "adapter_model.safetensors"))
    again.save_pretrained(tmp_path / "by_peft")
    assert keys == set(load_file(tmp_path / "by_peft" / "adapter_model.safetensors"))
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"


def test_an_existing_folder_is_refused_and_untouched(lora, tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "mine").write_text("keep")
    with pytest.raises(OutputError, match="exists already"):
        export_adapter(lora(), tmp_path / "adapter")
    assert [p.name for p in tmp_path.rglob("*")] == ["adapter", "mine"]


def test_a_failed_write_leaves_nothing(lora, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("prunedlora.files.writing.save_file", full)
    with pytest.raises(OutputError, match="No space left"):
        export_adapter(lora(), tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_differs_from_memory_is_an_error_and_is_not_kept(lora, tmp_path, monkeypatch):
    def corrupt(tensors, file, metadata):
        save_file({k: v + 1e-7 for k, v in tensors.items()}, file, metadata)

    monkeypatch.setattr("prunedlora.files.writing.save_file", corrupt)
    with pytest.raises(OutputError, match="differs from memory"):
        export_adapter(lora(), tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []


def test_truncation_after_training_exports_at_the_new_rank(lora, tmp_path):
    model = lora()
    truncate_adapter(model, 3)
    export_adapter(model, tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(llama(), tmp_path / "adapter")
    tokens = ids()
    torch.testing.assert_close(
        again(input_ids=tokens).logits, model(input_ids=tokens).logits, rtol=0, atol=1e-5
    )
