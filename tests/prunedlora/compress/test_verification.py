import torch
from safetensors.torch import load_file, save_file

from prunedlora import verify_adapter
from tests.adapters_on_disk import base_folder, saved


def test_verification_with_a_base_model(tmp_path):
    base = str(base_folder(tmp_path / "base"))
    source = saved(tmp_path / "a")
    found = verify_adapter(source, base, device="cpu")
    assert found.passed
    assert {check.name for check in found.checks} >= {"loaded weights", "effect"}
    tensors = load_file(source / "adapter_model.safetensors")
    dead = {k: torch.zeros_like(t) if "lora_B" in k else t for k, t in tensors.items()}
    save_file(dead, source / "adapter_model.safetensors", metadata={"format": "pt"})
    failed = {
        check.name
        for check in verify_adapter(source, base, device="cpu").checks
        if not check.passed
    }
    assert failed == {"values", "effect"}
