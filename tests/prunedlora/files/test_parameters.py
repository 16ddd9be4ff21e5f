"""LoRA on bare parameters, as of fused experts, stays as it is beside modules that are lowered."""

import peft
import pytest
import torch
import transformers

from prunedlora import (
    CompressConfig,
    compress_adapter,
    export_adapter,
    find_lora_modules,
    truncate_adapter,
)
from prunedlora.errors import UnsupportedAdapterError
from prunedlora.files.adapter_file import open_adapter

# Before version 5 the experts of these models were modules of their own.
pytestmark = pytest.mark.skipif(
    int(transformers.__version__.split(".")[0]) < 5, reason="experts that are not bare parameters"
)

TARGETS = {
    "experts": {
        "target_modules": ["q_proj", "v_proj"],
        "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        "rank_pattern": {"gate_up_proj": 3},
    },
    "a gate": {"target_modules": ["q_proj"], "target_parameters": ["mlp.gate.weight"]},
}


def base():
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=32,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=24,
        num_local_experts=3,
    )
    return transformers.MixtralForCausalLM(config)


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(1, 9).unsqueeze(0)).logits


def again(folder):
    return logits(peft.PeftModel.from_pretrained(base(), str(folder)))


# PEFT looks for patterns among modules only as it warns, not as it adapts.
@pytest.mark.filterwarnings("ignore:The following rank_pattern keys")
@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS.keys())
def test_modules_are_lowered_and_parameters_keep_what_they_add(tmp_path, targets, rslora):
    torch.manual_seed(1)
    settings = peft.LoraConfig(
        r=4, lora_alpha=6, use_rslora=rslora, init_lora_weights=False, **targets
    )
    model = peft.get_peft_model(base(), settings)
    model.save_pretrained(tmp_path / "a")
    compress_adapter(tmp_path / "a", tmp_path / "same", CompressConfig(rank=4))
    torch.testing.assert_close(again(tmp_path / "same"), logits(model))
    # From the file and in memory the same, and what is written can be lowered further.
    report = compress_adapter(tmp_path / "a", tmp_path / "b", CompressConfig(rank=2))
    assert len(report.carried) == 2 * len(targets["target_parameters"])
    truncate_adapter(model, 2)
    torch.testing.assert_close(again(tmp_path / "b"), logits(model))
    for layout in (None, "uniform", "ragged"):
        export_adapter(model, tmp_path / f"{layout}", layout=layout)
        torch.testing.assert_close(again(tmp_path / f"{layout}"), logits(model))
    compress_adapter(tmp_path / "b", tmp_path / "c", CompressConfig(rank=1))
    assert {module.rank for module in open_adapter(tmp_path / "c").modules} == {1}


def test_an_adapter_of_nothing_else_is_refused(tmp_path):
    settings = peft.LoraConfig(r=4, target_modules=[], target_parameters=["mlp.experts.down_proj"])
    model = peft.get_peft_model(base(), settings)
    model.save_pretrained(tmp_path / "a")
    with pytest.raises(UnsupportedAdapterError, match="bare parameters only"):
        open_adapter(tmp_path / "a")
    with pytest.raises(UnsupportedAdapterError, match="bare parameters only"):
        find_lora_modules(model)
