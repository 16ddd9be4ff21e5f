import peft
import pytest
import torch
from torch import nn

from prunedlora import find_lora_modules
from prunedlora.errors import ConfigurationError, UnsupportedAdapterError
from tests.models import llama


def test_finds_every_layer_with_its_scaling(lora):
    modules = find_lora_modules(lora())
    assert len(modules) == 2 * 3
    assert {m.scaling for m in modules} == {12 / 8}
    assert all(m.B.shape[1] == m.A.shape[0] == m.rank == 8 for m in modules)


def test_finds_injected_layers_and_layers_inside_wrappers(lora):
    injected = peft.inject_adapter_in_model(
        peft.LoraConfig(r=2, target_modules=["q_proj"]), llama()
    )
    assert len(find_lora_modules(injected)) == 2
    assert len(find_lora_modules(nn.ModuleDict({"wrapped": lora()}))) == 6


def test_a_model_without_lora_says_what_to_do():
    with pytest.raises(UnsupportedAdapterError, match="get_peft_model"):
        find_lora_modules(llama())


def test_an_unknown_adapter_lists_the_known_ones(lora):
    with pytest.raises(ConfigurationError, match="it has: default"):
        find_lora_modules(lora(), "other")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"use_dora": True}, "plain LoRA"),
        ({"target_modules": ["embed_tokens"]}, "embedding"),
        ({"lora_bias": True, "target_modules": ["q_proj"]}, "lora_bias"),
        (
            {"target_modules": [], "target_parameters": ["mlp.down_proj.weight"]},
            "target_parameters",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_unsupported_kinds_are_named(settings, reason):
    model = peft.get_peft_model(llama(), peft.LoraConfig(r=2, **settings))
    with pytest.raises(UnsupportedAdapterError, match=reason):
        find_lora_modules(model)


def test_convolutions_are_refused():
    model = peft.get_peft_model(
        nn.Sequential(nn.Conv2d(3, 4, 3)),
        peft.LoraConfig(r=2, target_modules=["0"], task_type=None),
    )
    with pytest.raises(UnsupportedAdapterError, match="convolution"):
        find_lora_modules(model)


def test_merged_adapters_are_refused(lora):
    model = lora()
    model.merge_adapter()
    with pytest.raises(UnsupportedAdapterError, match="unmerge"):
        find_lora_modules(model)


def test_shared_factors_are_refused(lora):
    model = lora()
    first, _, _, second, *_ = find_lora_modules(model)
    second.layer.lora_A["default"].weight = first.A
    with pytest.raises(UnsupportedAdapterError, match="shares a factor"):
        find_lora_modules(model)


def test_factors_without_shape_of_a_matrix_are_refused(lora):
    model = lora()
    module = find_lora_modules(model)[0]
    module.layer.lora_A["default"].weight = nn.Parameter(torch.zeros(0))
    with pytest.raises(UnsupportedAdapterError, match="sharded by FSDP1 or ZeRO-3"):
        find_lora_modules(model)


def test_adalora_is_refused_by_name():
    settings = peft.AdaLoraConfig(init_r=4, target_r=2, total_step=9, target_modules=["q_proj"])
    with pytest.raises(UnsupportedAdapterError, match="AdaLoRA"):
        find_lora_modules(peft.get_peft_model(llama(), settings))


def test_adapters_of_bare_parameters_are_left_alone():
    settings = peft.LoraConfig(
        r=2, target_modules=["q_proj"], target_parameters=["mlp.down_proj.weight"]
    )
    modules = find_lora_modules(peft.get_peft_model(llama(), settings))
    assert [m.name.rpartition(".")[2] for m in modules] == ["q_proj"] * 2
