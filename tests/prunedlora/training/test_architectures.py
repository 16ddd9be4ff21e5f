"""Every kind of model that people adapt: tiny and random, pruned in two events, exported, and opened by plain PEFT."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel

from prunedlora import LoraRankPruner, PruneConfig, export_adapter, find_lora_modules
from prunedlora.errors import UnsupportedAdapterError
from tests.models import trainable

TOKENS = {"vocab_size": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
#: What most of them call their sizes.
SMALL = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    **TOKENS,
}
GROUPED = {**SMALL, "num_key_value_heads": 1, "head_dim": 8}
EXPERTS = {**GROUPED, "num_local_experts": 2, "num_experts": 2, "num_experts_per_tok": 1}
CAUSAL, MASKED, PAIRS = "AutoModelForCausalLM", "AutoModel", "AutoModelForSeq2SeqLM"


@dataclass(frozen=True)
class Kind:
    """An architecture: the class that makes it, its sizes, and what it reads.

    Attributes:
        auto: the class of transformers that makes the model.
        settings: of its configuration.
        reads: names of its inputs.
        targets: modules that are adapted.
    """

    auto: str
    settings: dict[str, Any]
    reads: tuple[str, ...] = ("input_ids",)
    targets: str | tuple[str, ...] = "all-linear"


ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
KINDS = {
    "llama": Kind(CAUSAL, GROUPED),
    "mistral": Kind(CAUSAL, GROUPED),
    "qwen2": Kind(CAUSAL, GROUPED),
    "qwen3": Kind(CAUSAL, GROUPED),
    "gemma2": Kind(CAUSAL, GROUPED),
    "gemma3_text": Kind(CAUSAL, GROUPED),
    "phi3": Kind(CAUSAL, GROUPED),
    "olmo2": Kind(CAUSAL, GROUPED),
    "stablelm": Kind(CAUSAL, GROUPED),
    "gpt2": Kind(CAUSAL, {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32, **TOKENS}),
    "gpt_neox": Kind(CAUSAL, SMALL),
    "opt": Kind(CAUSAL, {**SMALL, "ffn_dim": 24, "word_embed_proj_dim": 16}),
    "bloom": Kind(CAUSAL, {**SMALL, "n_layer": 1, "n_head": 2}),
    "falcon": Kind(CAUSAL, {**SMALL, "ffn_hidden_size": 24}),
    "bert": Kind(MASKED, SMALL),
    "roberta": Kind(MASKED, SMALL),
    "deberta-v2": Kind(MASKED, SMALL),
    "distilbert": Kind(
        MASKED, {"dim": 16, "hidden_dim": 24, "n_layers": 1, "n_heads": 2, "vocab_size": 32}
    ),
    "t5": Kind(
        PAIRS,
        {
            "d_model": 16,
            "d_kv": 8,
            "d_ff": 24,
            "num_layers": 1,
            "num_heads": 2,
            "decoder_start_token_id": 0,
            **TOKENS,
        },
        ("input_ids", "labels"),
    ),
    "bart": Kind(
        PAIRS,
        {
            "d_model": 16,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 24,
            "decoder_ffn_dim": 24,
            "max_position_embeddings": 32,
            **TOKENS,
        },
        ("input_ids", "labels"),
    ),
    "whisper": Kind(
        "AutoModelForSpeechSeq2Seq",
        {
            "d_model": 16,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 24,
            "decoder_ffn_dim": 24,
            "num_mel_bins": 4,
            "max_source_positions": 8,
            "max_target_positions": 8,
            "decoder_start_token_id": 1,
            **TOKENS,
        },
        ("input_features", "labels"),
    ),
    "vit": Kind(
        "AutoModel",
        {**SMALL, "image_size": 8, "patch_size": 4},
        ("pixel_values",),
    ),
    "clip": Kind(
        "AutoModel",
        {
            "projection_dim": 16,
            "text_config": SMALL,
            "vision_config": {
                **{k: v for k, v in SMALL.items() if k not in TOKENS},
                "image_size": 8,
                "patch_size": 4,
            },
        },
        ("input_ids", "pixel_values"),
    ),
    # Attention is adapted; experts are one tensor for all of them, which no linear layer is.
    "gpt_oss": Kind(CAUSAL, EXPERTS, targets=ATTENTION),
    "mixtral": Kind(CAUSAL, EXPERTS, targets=ATTENTION),
    "qwen3_moe": Kind(CAUSAL, {**EXPERTS, "moe_intermediate_size": 8}, targets=ATTENTION),
    "deepseek_v3": Kind(
        CAUSAL,
        {
            **SMALL,
            "moe_intermediate_size": 8,
            "first_k_dense_replace": 0,
            "n_routed_experts": 2,
            "n_group": 1,
            "topk_group": 1,
            "num_experts_per_tok": 1,
            "q_lora_rank": 8,
            "kv_lora_rank": 8,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 4,
            "v_head_dim": 8,
        },
        targets=("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"),
    ),
}
#: Experts, by the names of their tensors.
FUSED = dict.fromkeys(("gpt_oss", "mixtral", "qwen3_moe", "deepseek_v3"), "experts.down_proj")


def made(name: str) -> PreTrainedModel:
    """The same random model each time."""
    kind = KINDS[name]
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **kind.settings)
    model: PreTrainedModel = getattr(transformers, kind.auto).from_config(config)
    return model.float().eval()  # no dropout


def inputs(name: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, 32, (2, 6), generator=generator)
    tokens[:, -1] = 2  # CLIP pools there
    every = {
        "input_ids": tokens,
        "labels": tokens,
        "pixel_values": torch.randn(2, 3, 8, 8, generator=generator),
        "input_features": torch.randn(2, 4, 16, generator=generator),
    }
    return {key: every[key] for key in KINDS[name].reads}


def answers(model: nn.Module, given: dict[str, Tensor]) -> list[Tensor]:
    """Every tensor that the model answers with, but caches."""
    return [
        value
        for key, value in model(**given).items()
        if isinstance(value, Tensor) and key != "loss" and value.is_floating_point()
    ]


def adapted(name: str) -> PeftModel:
    targets = KINDS[name].targets
    settings = LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=targets if isinstance(targets, str) else list(targets),
        fan_in_fan_out=name == "gpt2",
    )
    return get_peft_model(made(name), settings)


@pytest.mark.parametrize("name", KINDS)
def test_it_is_pruned_and_opens_with_plain_peft(name, tmp_path: Path):
    model = adapted(name)
    given = inputs(name)
    before = answers(model, given)
    optimizer = torch.optim.AdamW(trainable(model), lr=1e-2)
    config = PruneConfig(2, interval=1, per_event=1, warmup_steps=1)
    with LoraRankPruner(model, optimizer, config, total_steps=3):
        for _ in range(3):
            optimizer.zero_grad()
            sum((t - 1).square().mean() for t in answers(model, given)).backward()
            optimizer.step()
    assert {module.rank for module in find_lora_modules(model)} == {2}
    with torch.no_grad():
        trained = answers(model, given)
    assert any((a - b).abs().max() > 1e-4 for a, b in zip(trained, before, strict=True))
    export_adapter(model, tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(made(name), tmp_path / "adapter")
    with torch.no_grad():
        torch.testing.assert_close(answers(loaded, given), trained, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", FUSED)
def test_experts_alone_are_refused_by_name(name):
    settings = LoraConfig(r=4, target_modules=[], target_parameters=[FUSED[name]])
    model = get_peft_model(made(name), settings)
    with pytest.raises(UnsupportedAdapterError, match="target_parameters"):
        find_lora_modules(model)
