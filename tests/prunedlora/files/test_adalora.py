"""AdaLoRA adapters on disk become plain LoRA that adds the same."""

import json

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from prunedlora import CompressConfig, compress_adapter, inspect_adapter
from prunedlora.errors import AdapterFileError, UnsupportedAdapterError
from prunedlora.files.adapter_file import open_adapter
from tests.adapters_on_disk import loaded, logits, products
from tests.models import llama


def adalora(folder, lowered):
    """An adapter as PEFT saves it, before or after AdaLoRA has lowered its ranks."""
    settings = peft.AdaLoraConfig(
        init_r=6, target_r=3, total_step=9, lora_alpha=5, target_modules=["q_proj", "v_proj"]
    )
    torch.manual_seed(3)
    model = peft.get_peft_model(llama(), settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    if lowered:
        diagonals = [n for n, _ in model.named_parameters() if "lora_E" in n]
        # PEFT cuts the tensors to this as it saves, and divides by the first rank all the same.
        model.peft_config["default"].rank_pattern = {
            name.removeprefix("base_model.model."): [i < (k % 4) + 1 for i in range(6)]
            for k, name in enumerate(diagonals)
        }
    model.save_pretrained(folder)


@pytest.mark.filterwarnings("ignore:The following rank_pattern keys")
@pytest.mark.parametrize("lowered", [False, True])
def test_it_is_converted_exactly(tmp_path, lowered):
    adalora(tmp_path / "a", lowered)
    # By PEFT itself, from what it saved.
    expected = logits(peft.PeftModel.from_pretrained(llama(), tmp_path / "a").eval())
    rank = max(module.rank for module in inspect_adapter(tmp_path / "a").modules)
    wish = CompressConfig(rank=rank, layout="ragged")
    compress_adapter(tmp_path / "a", tmp_path / "b", wish)
    torch.testing.assert_close(logits(loaded(tmp_path / "b")), expected, rtol=0, atol=1e-5)
    config = json.loads((tmp_path / "b" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert not {"init_r", "target_r", "total_step"} & config.keys()
    assert {m.rank for m in open_adapter(tmp_path / "b").modules} == (
        {1, 2, 3, 4} if lowered else {6}
    )


def test_a_module_that_has_nothing_left_is_left_out(tmp_path):
    adalora(tmp_path / "a", lowered=False)
    file = tmp_path / "a" / "adapter_model.safetensors"
    tensors = load_file(file)
    stem = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    for end, shape in (("A", (0, 16)), ("B", (16, 0)), ("E", (0, 1))):
        tensors[stem + end] = torch.zeros(shape)
    save_file(tensors, file)
    report = compress_adapter(tmp_path / "a", tmp_path / "b", CompressConfig(rank=2))
    assert report.excluded == ["model.layers.0.self_attn.q_proj"]
    assert logits(loaded(tmp_path / "b")).isfinite().all()


def test_a_diagonal_that_does_not_fit_or_stands_alone_is_refused(tmp_path):
    adalora(tmp_path / "a", lowered=False)
    file = tmp_path / "a" / "adapter_model.safetensors"
    tensors = load_file(file)
    stem = "base_model.model.model.layers.0.self_attn.q_proj.lora_E"
    save_file({**tensors, stem: torch.ones(2, 1)}, file)
    with pytest.raises(AdapterFileError, match="does not fit the rank"):
        open_adapter(tmp_path / "a")
    save_file(tensors, tmp_path / "c.safetensors")
    with pytest.raises(UnsupportedAdapterError, match="without the configuration"):
        open_adapter(tmp_path / "c.safetensors")


def test_a_factor_with_a_kernel_of_one_is_the_same(tmp_path):
    adalora(tmp_path / "a", lowered=False)
    adalora(tmp_path / "b", lowered=False)
    file = tmp_path / "b" / "adapter_model.safetensors"
    tensors = {k: t[:, :, None, None] if "lora_A" in k else t for k, t in load_file(file).items()}
    save_file(tensors, file)
    for name, product in products(tmp_path / "a").items():
        assert torch.equal(products(tmp_path / "b")[name], product)
